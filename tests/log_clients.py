"""Clients of librdkafka that note what they see in a `History`: senders, members of a group, readers.

Flow:   each is driven by one thread, which calls `work` again and again.
Shape:  they do not stop for a crash: what they send again, and where they go on, is what is tested.
Limits: what waits for an answer waits `WAIT_S` at most.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from log_history import History, Log, Read
from patience import WAIT_S
from promises import Identity, body_of, identity_of

_POLL_S = 0.02
_CHUNK = 100
_COMMON = {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 100, "log_level": 0}
_READING = {
    **_COMMON,
    "enable.auto.commit": False,
    "auto.offset.reset": "error",
    "fetch.wait.max.ms": 50,
    "heartbeat.interval.ms": 200,
}
# What a crash brings, and what passes.
_PASSING = {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError.COORDINATOR_LOAD_IN_PROGRESS}


def name_of(one: TopicPartition | Message) -> str:
    topic = one.topic() if isinstance(one, Message) else one.topic
    partition = one.partition() if isinstance(one, Message) else one.partition
    return f"{topic}-{partition}"


class Sender:
    """An idempotent producer, to partitions by chance."""

    def __init__(
        self, bootstrap: str, history: History, topic: str, partitions: int, name: str, *, window: int
    ) -> None:
        self.topic = topic
        self.name = name
        self.acknowledged = 0
        self.waiting = 0
        self._history = history
        self._partitions = partitions
        self._window = window
        self._chance = random.Random(name)
        codec = self._chance.choice(("none", "gzip", "lz4", "zstd"))
        self._client = Producer(
            {
                **_COMMON,
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "compression.codec": codec,
                "linger.ms": self._chance.choice((0, 5, 20)),
                "retry.backoff.ms": 20,
            }
        )
        self._number = 0

    def work(self) -> None:
        """Fill the window by some, and hear of others."""
        for _ in range(self._chance.randint(0, self._window - self.waiting)):
            self.send(self._chance.randrange(self._partitions))
        self._client.poll(_POLL_S)

    def send(self, partition: int) -> Identity:
        self._number += 1
        record = Identity(self.name, self._number)
        self._history.sent(f"{self.topic}-{partition}", record)
        self.waiting += 1
        self._client.produce(
            self.topic, body_of(record), partition=partition, on_delivery=partial(self._answered, record)
        )
        return record

    def _answered(self, record: Identity, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            raise KafkaException(error)
        self.waiting -= 1
        self.acknowledged += 1
        self._history.acknowledged(name_of(message), record, message.offset())

    def finish(self) -> None:
        """Until all is acknowledged."""
        assert self._client.flush(WAIT_S) == 0
        assert self.waiting == 0


class Reading:
    """What a member and a reader have in common."""

    def __init__(
        self, bootstrap: str, history: History, topic: str, name: str, group: str, **settings: Any
    ) -> None:
        self.topic = topic
        self.name = name
        self.group = group
        self.positions: dict[int, int] = {}
        """Where it is in the partitions that it has."""
        self._history = history
        given = {"bootstrap.servers": bootstrap, "group.id": group or "none", **settings}
        self._client = Consumer({**_READING, **given})

    def begin(self, assigned: list[TopicPartition]) -> None:
        for one in assigned:
            self._history.began(self.name, name_of(one), one.offset)
            self.positions[one.partition] = one.offset
        self._client.assign(assigned)

    def work(self) -> int:
        """Note what has come; returns how much."""
        for count in range(_CHUNK):
            message = self._client.poll(0 if count else _POLL_S)
            if message is None:
                return count
            if (error := message.error()) is not None:
                if error.code() not in _PASSING:
                    raise KafkaException(error)
                continue
            partition, offset, value = message.partition(), message.offset(), message.value()
            assert partition in self.positions, f"{name_of(message)} is not {self.name}'s"
            self._history.read(self.group, self.name, name_of(message), offset, identity_of(value))
            self.positions[partition] = offset + 1
            self.came(message)
        return _CHUNK

    def came(self, message: Message) -> None:
        """For those who want to do something with it."""

    def close(self) -> None:
        self._client.close()


class Reader(Reading):
    """Reads partitions from these offsets on, without a group."""

    def __init__(
        self, bootstrap: str, history: History, topic: str, name: str, offsets: Mapping[int, int]
    ) -> None:
        super().__init__(bootstrap, history, topic, name, "")
        self.begin([TopicPartition(topic, *position) for position in offsets.items()])


class Member(Reading):
    """A member of a group, which begins where the group has got to."""

    def __init__(
        self, bootstrap: str, history: History, topic: str, name: str, group: str, **settings: Any
    ) -> None:
        session = {"session.timeout.ms": 6000, "on_commit": self._committed, **settings}
        super().__init__(bootstrap, history, topic, name, group, **session)
        self._unanswered = False
        self._client.subscribe([topic], on_assign=self._assigned, on_revoke=self._revoked)

    def _assigned(self, client: Consumer, assigned: list[TopicPartition]) -> None:
        found = self._ask_committed(assigned) if assigned else []
        self.begin([TopicPartition(one.topic, one.partition, max(one.offset, 0)) for one in found])

    def _ask_committed(self, assigned: list[TopicPartition]) -> list[TopicPartition]:
        """Again and again, until somebody answers."""
        deadline = time.monotonic() + WAIT_S
        while True:
            asked_at = time.monotonic()
            try:
                found = self._client.committed(assigned, timeout=1.0)
            except KafkaException:
                found = []
            if found and not any(one.error for one in found):
                break
            assert time.monotonic() < deadline, "nobody says what is committed"
        for one in found:
            offset = None if one.offset == OFFSET_INVALID else one.offset
            self._history.commit_found(asked_at, self.group, name_of(one), offset)
        return found

    def _revoked(self, client: Consumer, revoked: list[TopicPartition]) -> None:
        for one in revoked:
            del self.positions[one.partition]

    def commit(self, *, waits: bool = False) -> bool:
        """All that it has read, unless a commit is unanswered; returns whether it is safe already.

        Of two at a time librdkafka may repeat the older one behind the newer, after a crash.
        """
        if self._unanswered:
            return False
        offsets = [TopicPartition(self.topic, *position) for position in self.positions.items()]
        if not offsets:
            return True
        for one in offsets:
            self._history.commit_asked(self.group, name_of(one), one.offset)
        self._unanswered = True
        try:
            answered = self._client.commit(offsets=offsets, asynchronous=not waits)
        except KafkaException:  # a crash, or a rebalance
            self._unanswered = False
            return False
        if waits:
            self._committed(None, answered)
        return waits and not any(one.error for one in answered)

    def _committed(self, error: KafkaError | None, answered: list[TopicPartition]) -> None:
        self._unanswered = False
        for one in answered:
            if error is None and one.error is None:
                self._history.commit_answered(self.group, name_of(one), one.offset)


def read_logs(bootstrap: str, topic: str, partitions: int) -> dict[str, Log]:
    """All that is there, by somebody who does nothing else."""
    client = Consumer({**_READING, "bootstrap.servers": bootstrap, "group.id": "none"})
    ends = [
        client.get_watermark_offsets(TopicPartition(topic, number), timeout=WAIT_S)
        for number in range(partitions)
    ]
    client.close()
    history = History()
    reader = Reader(
        bootstrap, history, topic, "logs", {number: start for number, (start, _) in enumerate(ends)}
    )
    deadline = time.monotonic() + WAIT_S
    while any(reader.positions[number] < end for number, (_, end) in enumerate(ends)):
        assert time.monotonic() < deadline, "the logs cannot be read"
        reader.work()
    reader.close()
    logs = {f"{topic}-{number}": Log(start, end, {}) for number, (start, end) in enumerate(ends)}
    for event in history.events:
        if isinstance(event, Read) and event.offset < logs[event.partition].end:
            logs[event.partition].records[event.offset] = event.record
    return logs


def read_commits(bootstrap: str, topic: str, partitions: int, group: str) -> dict[str, int]:
    """How far a group has got in each partition; negative where it has committed nothing."""
    client = Consumer({**_COMMON, "bootstrap.servers": bootstrap, "group.id": group})
    asked = [TopicPartition(topic, number) for number in range(partitions)]
    found = client.committed(asked, timeout=WAIT_S)
    client.close()
    assert not any(one.error for one in found)
    return {name_of(one): one.offset for one in found}
