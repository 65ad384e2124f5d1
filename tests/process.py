"""A broker in a process of its own: started, killed, and started again on the same data.

Flow:   `with BrokerProcess(tmp_path) as broker:` gives one that answers at `broker.amqp`; `kill` and
        `start` are a crash and the next start on the same folder, which may get other ports.
Limits: a start that takes longer than `PROGRAM_S` fails the test, with what the broker wrote.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from patience import PROGRAM_S

ROOT = Path(__file__).parent.parent
READY = "Server startup complete"

_LISTENING = re.compile(r"^Listening for (\S+) on \[?(.+?)\]?:(\d+)$")


class BrokerProcess:
    """`leveret serve` on ports that the system picks; `folder` gets `data`, `broker.log`, and the config."""

    def __init__(
        self,
        folder: Path,
        *flags: str,
        config: str = "",
        environment: Mapping[str, str] | None = None,
        management: bool = False,
        kafka: bool = False,
    ) -> None:
        """`config` is the text of a configuration file; `management` also starts HTTP and metrics."""
        self.data = folder / "data"
        self.log = folder / "broker.log"
        """What all the processes on this folder wrote to stderr."""
        self.addresses: dict[str, tuple[str, int]] = {}
        """Host and port by protocol, as the process that runs has said."""
        self.output: list[str] = []
        """The lines that the process that runs has printed until it was ready."""
        self.process: subprocess.Popen[bytes] | None = None
        http = "127.0.0.1:0" if management else "off"
        log = "127.0.0.1:0" if kafka else "off"
        self._command = [sys.executable, "-m", "broker", "serve", "--data", str(self.data)]
        self._command += ["--amqp", "127.0.0.1:0", "--management", http, "--metrics", http, "--kafka", log]
        if config:
            file = folder / "broker.toml"
            file.write_text(config)
            self._command += ["--config", str(file)]
        self._command += flags
        # Variables of the tests themselves are no settings of the broker.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LEVERET_")}
        self._environment = {**kept, "PYTHONPATH": str(ROOT), **(environment or {})}

    @property
    def amqp(self) -> tuple[str, int]:
        return self.addresses["amqp"]

    @property
    def bootstrap(self) -> str:
        """Where Kafka's clients begin: `host:port`."""
        host, port = self.addresses["kafka"]
        return f"{host}:{port}"

    @property
    def url(self) -> str:
        host, port = self.amqp
        return f"amqp://guest:guest@{host}:{port}/"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Returns when the broker says that it is ready; fails the test if it never does."""
        assert self.process is None
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, stdout=subprocess.PIPE, stderr=log
            )
        self.output = []
        self.addresses = {}
        for line in self._lines(time.monotonic() + PROGRAM_S):
            self.output.append(line)
            if found := _LISTENING.match(line):
                self.addresses[found[1]] = (found[2], int(found[3]))
            if line == READY:
                return

    def _lines(self, deadline: float) -> list[str]:
        """What it prints until it is ready."""
        assert self.process is not None
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        poll = select.poll()  # select itself knows no descriptor above 1,023
        poll.register(descriptor, select.POLLIN)
        octets = b""
        while f"{READY}\n".encode() not in octets:
            ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            some = os.read(descriptor, 65_536) if ready else b""
            if not some:
                self.kill()
                raise AssertionError(f"the broker did not start: {octets.decode()}\n{self.log.read_text()}")
            octets += some
        return octets.decode().splitlines()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self.process is not None:
            self.process.kill()
            self._reap()

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self._reap()

    def wait(self) -> int:
        """Wait for a process that ends of itself; returns the exit code."""
        return self._reap()

    def _reap(self) -> int:
        process, self.process = self.process, None
        assert process is not None
        try:
            rest, _ = process.communicate(timeout=PROGRAM_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise AssertionError(f"the broker did not end:\n{self.log.read_text()}") from None
        self.output += rest.decode().splitlines()
        return process.returncode

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        (self.data / "reserve").unlink(missing_ok=True)  # pytest keeps the folders of many tests
