"""A program in a process of its own, whose output is awaited line by line.

Flow:   `with Program("worker.py", env=...) as program: program.line("Waiting")` starts it and returns the first
        line that holds the text; the next call goes on behind that line.
Limits: every wait ends after `PROGRAM_S`, and fails the test with all that the program wrote.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Self

from patience import PROGRAM_S
from process import ROOT


class Program:
    """`python ARGUMENTS`, or another program; both of its outputs are one."""

    def __init__(
        self, *arguments: str | Path, environment: Mapping[str, str], program: str = sys.executable
    ) -> None:
        kept = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
        self._command = [program, *map(str, arguments)]
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=kept,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Whoever runs the tests in the background may have us, and so our children, ignore it.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        self._octets = b""
        self._seen = 0

    @property
    def output(self) -> str:
        """All that was read of it."""
        return self._octets.decode(errors="replace")

    def line(self, text: str) -> str:
        """The next line with this text in it."""
        deadline = time.monotonic() + PROGRAM_S
        while True:
            while (end := self._octets.find(b"\n", self._seen)) >= 0:
                line = self._octets[self._seen : end].decode(errors="replace")
                self._seen = end + 1
                if text in line:
                    return line
            if not self._read(deadline):
                raise AssertionError(f"{self._command}: no line with {text!r} came in:\n{self.output}")

    def _read(self, deadline: float) -> bool:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        octets = os.read(descriptor, 65_536) if ready else b""
        self._octets += octets
        return bool(octets)

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit code."""
        self._process.send_signal(signal.SIGINT)
        return self.wait()

    def terminate(self) -> int:
        """SIGTERM; returns the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        self._end()

    def wait(self) -> int:
        """Wait until it ends of itself; returns the exit code."""
        try:
            return self._end()
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self._command} did not end:\n{self.output}") from None

    def _end(self) -> int:
        rest, _ = self._process.communicate(timeout=PROGRAM_S)
        self._octets += rest or b""
        return self._process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self.kill()
