"""What is measured: arguments of `amqpload`, and what we ask of ourselves against RabbitMQ.

Every run lasts `--seconds`, except where `--count` says how many messages.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    """One line of the table."""

    arguments: str
    about: str
    rate_floor: float | None = None
    """Our messages a second over RabbitMQ's, at least."""
    cpu_floor_us: float | None = None
    """Our processor time for a message, at most."""
    latency_floors: tuple[float, float] | None = None
    """Our median and 99th percentile over RabbitMQ's, at most."""

    @property
    def is_latency(self) -> bool:
        return "--rate" in self.arguments


WORKLOADS: dict[str, Workload] = {
    "autoack": Workload("--size 100 --autoack", "1 producer, 1 consumer, no acknowledgements", 4.5, 3.5),
    "ack-each": Workload("--size 100 --prefetch 300", "each message acknowledged on its own", 4, 5),
    "ack-multiple": Workload(
        "--size 100 --prefetch 1000 --multiack 100", "a hundred messages an acknowledgement", 4.5, 4
    ),
    "durable-confirm-500": Workload(
        "--size 100 --persistent --confirm 500 --prefetch 500 --multiack 10",
        "persistent, at most 500 unconfirmed",
        7,
        6,
    ),
    "durable-confirm-5000": Workload(
        "--size 100 --persistent --confirm 5000 --prefetch 5000 --multiack 100",
        "persistent, at most 5,000 unconfirmed",
    ),
    "durable-1KiB": Workload(
        "--size 1024 --persistent --confirm 2000 --prefetch 2000 --multiack 100", "the same with 1 KiB"
    ),
    "durable-confirm-1-x50": Workload(
        "--size 100 --persistent --confirm 1 --producers 50 --prefetch 100",
        "50 producers that wait for each confirm",
        3,
        40,
    ),
    "durable-spread-500": Workload(
        "--size 100 --persistent --confirm 1000 --queues 500 --spread --consumers 0",
        "500 queues in turn, nobody consumes",
        12,
        15,
    ),
    "topic-2x2-1KiB": Workload(
        "--size 1024 --producers 2 --consumers 2 --queues 2 --exchange-type topic --autoack",
        "topic exchange, 2 producers, 2 queues",
        5,
        6,
    ),
    "fanout-5": Workload(
        "--size 100 --consumers 5 --queues 5 --exchange-type fanout --autoack",
        "fanout to 5 queues; for each delivery",
        4,
        3,
    ),
    "direct-64KiB": Workload("--size 65536 --autoack --batch 4", "large messages"),
    "publish-only": Workload("--size 100 --consumers 0", "transient, nobody consumes"),
    "durable-publish-only": Workload(
        "--size 100 --consumers 0 --persistent --confirm 2000 --count 1000000",
        "1 million persistent messages, nobody consumes",
        8,
        5,
    ),
    "latency-2k/s": Workload(
        "--size 100 --rate 2000 --prefetch 100", "2,000 messages a second", None, None, (0.6, 0.3)
    ),
    "latency-10k/s": Workload("--size 100 --rate 10000 --prefetch 100", "10,000 messages a second"),
}
