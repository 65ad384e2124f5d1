"""What is measured of the partitioned log: a program and its arguments, and what we ask of ourselves against Kafka.

Shape:  `{seconds}` stands for `--seconds`; what has no such place does a fixed number of records.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class LogWorkload:
    """One line of the table."""

    arguments: str
    about: str
    program: str = "log_load.py"
    says: str = "rate"
    """`rate`, `latency` or `groups`."""
    writes: bool = True
    """Whether it makes a difference when a topic is synced."""
    cold: bool = False
    """Whether the system's cache of the broker's files is emptied before."""
    rate_floor: float = 0.0
    """Our records a second over Kafka's, at least; ours synced, Kafka's not."""
    synced_floor: float = 0.0
    """The same with both synced."""
    unsynced_floor: float = 0.0
    """The same with neither synced."""
    p99_floor: float = float("inf")
    """Our 99th percentile over Kafka's, at most."""

    @property
    def is_java(self) -> bool:
        return self.program == _JAVA


_JAVA: Final = "java_load.py"

START_FLOOR: Final = 1 / 10
"""Our time to start over Kafka's, at most."""
MEMORY_FLOOR: Final = 1 / 8
"""Our memory over Kafka's, at most."""


def _produce(arguments: str, about: str) -> LogWorkload:
    return LogWorkload(f"produce {arguments} --seconds {{seconds}}", about, rate_floor=0.8)


def _consume(arguments: str, about: str) -> LogWorkload:
    return LogWorkload(f"consume {arguments}", about, writes=False, cold=True, rate_floor=1)


LOG_WORKLOADS: dict[str, LogWorkload] = {
    "produce-100B": _produce("--size 100", "batches of 100 B records"),
    "produce-100B-lz4": _produce("--size 100 --compression lz4", "the same, compressed"),
    "produce-1KiB": _produce("--size 1024", "batches of 1 KiB records"),
    "produce-1KiB-lz4": _produce("--size 1024 --compression lz4", "the same, compressed"),
    "produce-1KiB-16KiB": LogWorkload(
        "produce --size 1024 --batch-size 16384 --idempotent --seconds {seconds}",
        "1 KiB records in batches of 16 KiB, idempotent (Java's default)",
        synced_floor=3,
        unsynced_floor=1,
    ),
    "consume-100B": _consume("--size 100 --count 2000000", "2 million of 100 B, from the disk"),
    "consume-1KiB": _consume("--size 1024 --count 500000", "500,000 of 1 KiB, from the disk"),
    "consume-1KiB-lz4": _consume("--size 1024 --count 500000 --compression lz4", "the same, compressed"),
    "latency-1k/s": LogWorkload(
        "latency --rate 1000 --seconds {seconds}",
        "1,000 records a second, producer to consumer",
        says="latency",
        p99_floor=1,
    ),
    "latency-10k/s": LogWorkload(
        "latency --rate 10000 --seconds {seconds}", "10,000 records a second", says="latency"
    ),
    "groups-100": LogWorkload(
        "groups --groups 100 --count 1000",
        "100 groups join, each reads 1,000 records",
        says="groups",
        writes=False,
    ),
    "java-produce-100B": LogWorkload("produce --size 100 --count 2000000", "ProducerPerformance", _JAVA),
    "java-produce-1KiB": LogWorkload(
        "produce --size 1024 --count 500000",
        "ProducerPerformance",
        _JAVA,
        synced_floor=3,
        unsynced_floor=1,
    ),
    "java-consume-1KiB": LogWorkload(
        "consume --size 1024 --count 1000000", "ConsumerPerformance", _JAVA, writes=False
    ),
}
