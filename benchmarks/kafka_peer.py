"""Start Apache Kafka from its libraries on Maven Central: one node, broker and controller in one process."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from kafka_java import VERSION, Unavailable, kafka_jars
from peers import Broker, free_port
from readiness import StartFailed, wait_for_metadata

_START_S = 90.0
_STOP_S = 30.0

# What Kafka's own scripts give the JVM.
_JVM = "-Xmx1G -Xms1G -server -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35"
_JVM += " -XX:+ExplicitGCInvokesConcurrent -Djava.awt.headless=true"

# The defaults, but for what one node alone needs, and two delays that would be in every figure's way.
_PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={data}
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.segment.delete.delay.ms=1000
"""


@contextlib.contextmanager
def kafka() -> Iterator[Broker | None]:
    """Apache Kafka with a heap of 1 GiB, as its scripts start it; None if it is not to be had here."""
    try:
        libraries = kafka_jars()
    except Unavailable as error:
        print(f"Apache Kafka is not to be had: {error}: measured without it", file=sys.stderr)
        yield None
        return
    with tempfile.TemporaryDirectory(
        prefix="kafka-bench-", dir="/var/tmp", ignore_cleanup_errors=True
    ) as made:
        folder = Path(made)
        java = ["java", "-cp", f"{libraries}/*"]
        port = free_port()
        properties = _formatted(java, folder, port)
        with (folder / "kafka.log").open("w") as log:
            begin = time.monotonic()
            process = subprocess.Popen(
                [*java, *_JVM.split(), "kafka.Kafka", str(properties)], cwd=folder, stdout=log, stderr=log
            )
            try:
                wait_for_metadata(port, process)
                start_s = time.monotonic() - begin
                yield Broker("kafka", VERSION, port, process.pid, folder / "data", start_s)
            except StartFailed as error:
                raise StartFailed(f"{error}\n{(folder / 'kafka.log').read_text()[-2000:]}") from None
            finally:
                _stop(process)


def _formatted(java: list[str], folder: Path, port: int) -> Path:
    """A folder for its data, as Kafka wants it before the first start; returns the file of its settings."""
    properties = folder / "server.properties"
    text = _PROPERTIES.format(port=port, controller=free_port(), data=folder / "data")
    properties.write_text(text.lstrip())
    cluster = base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")
    command = [*java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties)]
    subprocess.run(command, check=True, capture_output=True, timeout=_START_S)
    return properties


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
