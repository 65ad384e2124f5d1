"""What is measured: arguments of `amqpload`, and what we ask of ourselves against RabbitMQ.

Shape:  `REAL` is traffic as applications send it: ids, timestamps, headers, sizes, keys that differ. `IDENTICAL`
        repeats one message, so that whatever a broker remembers of a frame fits the next: the floor of the cost.
        Every run publishes for `--seconds`, except where `--count` says how many messages, and consumes the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Workload:
    """One line of the table."""

    arguments: str
    about: str
    rate_floor: float = 0.0
    """Our messages a second over RabbitMQ's, at least."""
    cpu_floor_us: float = float("inf")
    """Our processor time for a message, at most."""
    latency_floors: tuple[float, float] = (float("inf"), float("inf"))
    """Our median and 99th percentile over RabbitMQ's, at most."""
    in_readme: bool = False

    @property
    def is_latency(self) -> bool:
        return "--rate" in self.arguments


_IDS: Final = "--ids"
_HEADERS: Final = f"{_IDS} --headers"
_VARIED: Final = f"{_HEADERS} --size 50:4096"
# Its publishers do not run away from consumers that take single messages.
_STEADY: Final = f"{_VARIED} --in-flight 10000"
_DURABLE: Final = "--persistent --prefetch 300"
_RPC: Final = f"--rpc {_HEADERS} --prefetch 1"

REAL: Final[dict[str, Workload]] = {
    "ids": Workload(
        f"{_IDS} --prefetch 300", "distinct message-id, correlation-id, timestamp", 5, 3.5, in_readme=True
    ),
    "headers": Workload(
        f"{_HEADERS} --prefetch 300", "+ 3 headers with varying values", 5, 4, in_readme=True
    ),
    "bodies": Workload(f"{_VARIED} --prefetch 300", "+ bodies of 50 B to 4 KiB", 6, 6, in_readme=True),
    "topic": Workload(
        f"{_VARIED} --prefetch 300 --exchange-type topic --keys 1000 --queues 10 --consumers 10",
        "+ topic exchange, 1,000 keys, 100 bindings, 10 queues",
        5,
        11,
        in_readme=True,
    ),
    "direct-1000": Workload(
        f"{_HEADERS} --prefetch 300 --exchange-type direct --shuffle --queues 1000 --consumers 1000"
        " --connections 10",
        "direct exchange, 1,000 queues, ids and headers",
        3,
        12,
        in_readme=True,
    ),
    "20x20": Workload(
        f"{_VARIED} --prefetch 300 --publishers 20 --consumers 20",
        "20 publishers, 20 consumers, one queue, varied",
        7,
        10,
        in_readme=True,
    ),
    "expirations": Workload(
        f"{_HEADERS} --prefetch 300 --expirations 10000", "an expiration each, of 10,000 values", 3, 6
    ),
    "durable": Workload(
        f"{_VARIED} {_DURABLE} --confirm 500",
        "persistent, varied, at most 500 unconfirmed",
        6,
        11,
        in_readme=True,
    ),
    "tx-10": Workload(
        f"{_HEADERS} {_DURABLE} --tx 10", "persistent, transactions of 10, waits for each commit", 3, 20
    ),
    "confirm-1-x50": Workload(
        f"{_HEADERS} {_DURABLE} --confirm 1 --publishers 50",
        "persistent, 50 publishers that wait for each confirm",
        3.5,
        22,
        in_readme=True,
    ),
    "prefetch-10": Workload(f"{_STEADY} --prefetch 10", "varied, prefetch 10", 8, 10),
    "consumers-200": Workload(
        f"{_STEADY} --prefetch 10 --consumers 200 --connections 10",
        "the same, 200 consumers of one queue",
        cpu_floor_us=10,
    ),
    "consumers-1000": Workload(
        f"{_STEADY} --prefetch 10 --consumers 1000 --connections 10",
        "the same, 1,000 consumers of one queue",
        cpu_floor_us=10,
    ),
    "prefetch-1": Workload(f"{_STEADY} --prefetch 1", "varied, prefetch 1", 2.5, 45, in_readme=True),
    "get": Workload(f"{_STEADY} --get", "basic.get and an acknowledgement, one after the other", 2.5, 60),
    "rpc-1": Workload(_RPC, "RPC, one client; round trips", 1.8, 80, in_readme=True),
    "rpc-50": Workload(
        f"{_RPC} --publishers 50", "RPC, 50 clients of one server; round trips", 2.3, 40, in_readme=True
    ),
    "rpc-50-direct": Workload(
        f"{_RPC} --publishers 50 --direct-reply-to", "the same, answers by amq.rabbitmq.reply-to", 2.3, 40
    ),
    "64KiB": Workload(f"{_HEADERS} --size 65536 --prefetch 300 --batch 4", "bodies of 64 KiB", 1.5),
    "latency": Workload(
        f"{_HEADERS} --rate 2000 --prefetch 100",
        "2,000 messages a second",
        latency_floors=(0.5, float("inf")),
        in_readme=True,
    ),
}

IDENTICAL: Final[dict[str, Workload]] = {
    "autoack": Workload("--autoack", "1 producer, 1 consumer, no acknowledgements", 4.5, 3.5, in_readme=True),
    "ack-each": Workload("--prefetch 300", "each message acknowledged on its own", 4, 5, in_readme=True),
    "ack-multiple": Workload(
        "--prefetch 1000 --multiack 100", "a hundred messages an acknowledgement", 4.5, 4
    ),
    "durable-confirm-500": Workload(
        "--persistent --confirm 500 --prefetch 500 --multiack 10",
        "persistent, at most 500 unconfirmed",
        7,
        6,
        in_readme=True,
    ),
    "durable-confirm-5000": Workload(
        "--persistent --confirm 5000 --prefetch 5000 --multiack 100",
        "persistent, at most 5,000 unconfirmed",
    ),
    "durable-1KiB": Workload(
        "--size 1024 --persistent --confirm 2000 --prefetch 2000 --multiack 100", "the same with 1 KiB"
    ),
    "durable-confirm-1-x50": Workload(
        "--persistent --confirm 1 --publishers 50 --prefetch 100",
        "50 producers that wait for each confirm",
        3,
        40,
    ),
    "durable-spread-500": Workload(
        "--persistent --confirm 1000 --queues 500 --in-turn --consumers 0",
        "500 queues in turn, nothing consumes",
        12,
        15,
    ),
    "topic-2x2-1KiB": Workload(
        "--size 1024 --publishers 2 --consumers 2 --queues 2 --exchange-type topic --autoack",
        "topic exchange, 2 producers, 2 queues",
        5,
        6,
    ),
    "fanout-5": Workload(
        "--consumers 5 --queues 5 --exchange-type fanout --autoack",
        "fanout to 5 queues; for each delivery",
        4,
        3,
        in_readme=True,
    ),
    "direct-64KiB": Workload("--size 65536 --autoack --batch 4", "large messages"),
    "publish-only": Workload("--consumers 0", "transient, nothing consumes"),
    "durable-publish-only": Workload(
        "--consumers 0 --persistent --confirm 2000 --count 1000000",
        "1 million persistent messages, nothing consumes",
        8,
        5,
    ),
    "latency-2k/s": Workload(
        "--rate 2000 --prefetch 100", "2,000 messages a second", latency_floors=(0.6, 0.3)
    ),
    "latency-10k/s": Workload("--rate 10000 --prefetch 100", "10,000 messages a second"),
}

WORKLOADS: Final = REAL | IDENTICAL

START: Final = "start"
START_FLOOR_S: Final = 0.30
MEMORY_FLOOR_MIB: Final = 40
"""Our time until a client can connect, and our memory then, at most."""
