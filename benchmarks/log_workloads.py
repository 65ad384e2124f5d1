"""What is measured of the partitioned log: a program, its arguments, and how its figures are said.

Shape:  `{seconds}` stands for `--seconds`; what has no such place does a fixed number of records.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LogWorkload:
    """One line of the table."""

    arguments: str
    about: str
    says: str = "rate"
    """`rate`, `latency` or `groups`."""
    program: str = "log_load.py"
    synced: bool = True
    """Whether it makes a difference to Kafka that it syncs each batch."""
    cold: bool = False
    """Whether the system's cache of the broker's files is emptied before."""

    @property
    def is_java(self) -> bool:
        return self.program == "java_load.py"


_JAVA = "java_load.py"

LOG_WORKLOADS: dict[str, LogWorkload] = {
    "produce-100B": LogWorkload("produce --size 100 --seconds {seconds}", "batches of 100 B records"),
    "produce-100B-lz4": LogWorkload(
        "produce --size 100 --compression lz4 --seconds {seconds}", "the same, compressed"
    ),
    "produce-1KiB": LogWorkload("produce --size 1024 --seconds {seconds}", "batches of 1 KiB records"),
    "produce-1KiB-lz4": LogWorkload(
        "produce --size 1024 --compression lz4 --seconds {seconds}", "the same, compressed"
    ),
    "consume-100B": LogWorkload(
        "consume --size 100 --count 2000000", "2 million of 100 B, from the disk", synced=False, cold=True
    ),
    "consume-1KiB": LogWorkload(
        "consume --size 1024 --count 500000", "500,000 of 1 KiB, from the disk", synced=False, cold=True
    ),
    "consume-1KiB-lz4": LogWorkload(
        "consume --size 1024 --count 500000 --compression lz4",
        "the same, compressed",
        synced=False,
        cold=True,
    ),
    "latency-1k/s": LogWorkload(
        "latency --rate 1000 --seconds {seconds}", "1,000 records a second, producer to consumer", "latency"
    ),
    "latency-10k/s": LogWorkload(
        "latency --rate 10000 --seconds {seconds}", "10,000 records a second", "latency"
    ),
    "groups-100": LogWorkload(
        "groups --groups 100 --count 1000",
        "100 groups join, each reads 1,000 records",
        "groups",
        synced=False,
    ),
    "java-produce-100B": LogWorkload(
        "produce --size 100 --count 2000000", "ProducerPerformance", program=_JAVA
    ),
    "java-produce-1KiB": LogWorkload(
        "produce --size 1024 --count 500000", "ProducerPerformance", program=_JAVA
    ),
    "java-consume-1KiB": LogWorkload(
        "consume --size 1024 --count 1000000", "ConsumerPerformance", program=_JAVA, synced=False
    ),
}
