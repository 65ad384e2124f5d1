"""Start the brokers that are compared, each as its users would, on this machine, with a data folder of its own."""

from __future__ import annotations

import compileall
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from readiness import StartFailed, wait_for_metadata

ROOT = Path(__file__).resolve().parent.parent
_START_S = 60.0
_STOP_S = 15.0


@dataclass(frozen=True)
class Broker:
    """A broker that runs."""

    name: str
    version: str
    port: int
    pid: int
    data: Path
    """The folder with its files."""
    start_s: float = 0.0
    """From its start until it answers."""


@contextlib.contextmanager
def leveret(protocol: str = "amqp", checkout: Path = ROOT) -> Iterator[Broker]:
    """Ours, with the defaults; `port` is that of the listener for this protocol.

    `checkout` is the folder whose broker runs, with its own `.venv` if it has one.
    """
    if not (checkout / "broker" / "__main__.py").is_file():
        raise StartFailed(f"{checkout} is no checkout of Leveret")
    python = checkout / ".venv" / "bin" / "python"
    if checkout == ROOT or not python.exists():
        python = Path(sys.executable)
    with tempfile.TemporaryDirectory(prefix="leveret-bench-", dir=ROOT) as data:
        command = [str(python), "-m", "broker", "serve", "--data", data, "--amqp", "127.0.0.1:0"]
        command += ["--management", "off", "--metrics", "off"]
        command += ["--kafka", "127.0.0.1:0" if protocol == "kafka" else "off"]
        environment = {**os.environ, "LEVERET_LOG__LEVEL": "error"}
        # As pip and the Dockerfile leave it; without, the first start would be that of the compiler.
        compileall.compile_dir(checkout / "broker", quiet=2)
        begin = time.monotonic()
        with subprocess.Popen(
            command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            port = 0
            version = ""
            ready = False
            for line in process.stdout:
                if found := re.match(rf"Listening for {protocol} on .*:(\d+)", line):
                    port = int(found[1])
                if found := re.match(r"Leveret (\S+),", line):
                    version = found[1]
                if ready := line.startswith("Server startup complete"):
                    break
            if not ready:
                raise StartFailed("leveret did not start")
            try:
                if protocol == "kafka":
                    wait_for_metadata(port, process)
                start_s = time.monotonic() - begin
                yield Broker("leveret", version, port, process.pid, Path(data), start_s)
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(30)


@contextlib.contextmanager
def rabbitmq() -> Iterator[Broker | None]:
    """Debian's `rabbitmq-server`, on ports of its own; None if it is not there or cannot be started."""
    if shutil.which("rabbitmq-server") is None or os.geteuid() != 0:
        print("rabbitmq-server is not installed, or this is not root: measured without it", file=sys.stderr)
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="rabbitmq-bench-", dir="/var/tmp"))
    shutil.chown(folder, "rabbitmq", "rabbitmq")
    port = free_port()
    environment = {
        **os.environ,
        "HOME": str(folder),
        "RABBITMQ_NODENAME": f"bench{port}@localhost",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "ERL_EPMD_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(folder),
        "RABBITMQ_LOG_BASE": str(folder),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_ENABLED_PLUGINS_FILE": "/dev/null",
    }
    log = (folder / "start.log").open("w")
    begin = time.monotonic()
    process = subprocess.Popen(
        ["rabbitmq-server"], env=environment, stdout=log, stderr=log, start_new_session=True
    )
    try:
        _wait_for(port, process, folder)
        start_s = time.monotonic() - begin
        time.sleep(1)  # it listens before it has booted whole
        pid = _pid_of(f"bench{port}@localhost")
        yield Broker("rabbitmq", _rabbitmq_version(), port, pid, folder, start_s)
    finally:
        _end(str(folder))
        process.wait(30)
        subprocess.run(
            ["epmd", "-port", environment["ERL_EPMD_PORT"], "-kill"], capture_output=True, check=False
        )
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _end(folder: str) -> None:
    """Every process that was started with this folder: politely, and then not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _STOP_S
        while (pids := _pids_of(folder)) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            time.sleep(0.5)


def _wait_for(port: int, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"rabbitmq-server did not start:\n{(folder / 'start.log').read_text()[-2000:]}")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _pids_of(text: str) -> list[int]:
    """Processes that have this in their command line or environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                content = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                if text.encode() in content:
                    found.append(int(entry.name))
    return found


def _pid_of(node: str) -> int:
    for pid in _pids_of(node):
        if Path(f"/proc/{pid}/comm").read_text().strip() == "beam.smp":
            return pid
    raise RuntimeError(f"no process of the node {node}")


def _rabbitmq_version() -> str:
    done = subprocess.run(["rabbitmqctl", "version"], capture_output=True, text=True, check=False)
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "?"
