"""librdkafka's clients as tests use them: what fails raises, and every wait has an end.

Limits: `WAIT_S` for everything that is waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer

from patience import WAIT_S

# What goes wrong raises; the library would print it, past pytest.
_QUIET = {"log_level": 0}
# So that a test need not wait for a member to hear of a rebalance, nor for what is behind a fetch.
_QUICK = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 200, "fetch.wait.max.ms": 100}
_POLL_S = 0.02


def producer(bootstrap: str, **settings: Any) -> Producer:
    """`_` in the names of settings is for `.`, but for callbacks."""
    return Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, **_QUIET, **_dotted(settings)})


def consumer(bootstrap: str, group: str, **settings: Any) -> Consumer:
    """Of a group; it begins with the first record, and commits nothing of itself."""
    common = {
        "bootstrap.servers": bootstrap,
        "group.id": group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        **_QUIET,
        **_QUICK,
    }
    return Consumer({**common, **_dotted(settings)})


def _dotted(settings: dict[str, Any]) -> dict[str, Any]:
    return {name if callable(value) else name.replace("_", "."): value for name, value in settings.items()}


def produce(client: Producer, topic: str, values: Iterable[bytes | None], **arguments: Any) -> list[Any]:
    """All of them, acknowledged; returns the partition and offset of each, in their order.

    There are no offsets where the broker does not answer.
    """
    places: dict[int, Any] = {}

    def answered(number: int) -> Callable[[KafkaError | None, Message], None]:
        def note(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                raise KafkaException(error)
            places[number] = (message.partition(), message.offset())

        return note

    count = 0
    for value in values:
        client.produce(topic, value, on_delivery=answered(count), **arguments)
        count += 1
    assert client.flush(WAIT_S) == 0
    assert len(places) == count
    return [places[number] for number in range(count)]


def take(consumers: Consumer | Sequence[Consumer], count: int) -> list[Message]:
    """So many records, whichever of the consumers gets them."""
    found: list[Message] = []
    poll(consumers, lambda: len(found) >= count, found.append)
    assert len(found) == count
    return found


def poll(
    consumers: Consumer | Sequence[Consumer],
    until: Callable[[], Any],
    each: Callable[[Message], Any] = lambda message: None,
) -> None:
    """Have them work until something is so; `each` gets every record."""
    polled = [consumers] if isinstance(consumers, Consumer) else consumers
    deadline = time.monotonic() + WAIT_S
    while not until():
        assert time.monotonic() < deadline, "it has not come to that"
        for client in polled:
            message = client.poll(_POLL_S)
            if message is None:
                continue
            if (error := message.error()) is not None:
                raise KafkaException(error)
            each(message)


def spread(consumers: Sequence[Consumer], sizes: Sequence[int]) -> Callable[[], bool]:
    """Whether each of them has so many partitions, in any order, and none is with two."""

    def is_so() -> bool:
        owned = [{(one.topic, one.partition) for one in client.assignment()} for client in consumers]
        alone = len(set().union(*owned)) == sum(map(len, owned))
        return alone and sorted(map(len, owned)) == sorted(sizes)

    return is_so
