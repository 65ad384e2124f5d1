"""What clients of a partitioned log have seen, and whether a log may behave so.

Flow:   clients note events in a `History`, in one process or, by files, in many; at the end the logs themselves
        are read, and `check` holds everything against everything. No fault, and it was a log.
Shape:  a record is known by its producer and number, which ascend in the order in which they are sent.
        The broker's promises: what is acknowledged, or was read by anybody, is there and stays where it is;
        a producer's records are there once and in its order; readers go from record to record; what is
        committed for a group is what a member asked for, and is not forgotten.
Limits: a producer does not repeat itself (idempotence); a group commits nothing but what it has read, one
        after the other and forward; nothing is compacted. Times are of the monotonic clock, so of one machine.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, TypeAlias

from promises import Identity


class Sent(NamedTuple):
    """It is about to be sent."""

    at: float
    partition: str
    record: Identity


class Acknowledged(NamedTuple):
    """The broker has said where it is."""

    at: float
    partition: str
    record: Identity
    offset: int


class Began(NamedTuple):
    """A reader goes on from here, wherever it was."""

    at: float
    reader: str
    partition: str
    offset: int


class Read(NamedTuple):
    """A record came to a reader, which is in a group or, with "", in none."""

    at: float
    group: str
    reader: str
    partition: str
    offset: int
    record: Identity


class CommitAsked(NamedTuple):
    """A member is about to commit: everything before `offset` is done."""

    at: float
    group: str
    partition: str
    offset: int


class CommitAnswered(NamedTuple):
    """The broker says that this is safe."""

    at: float
    group: str
    partition: str
    offset: int


class CommitFound(NamedTuple):
    """Somebody was told what is committed; None if nothing is."""

    asked_at: float
    at: float
    group: str
    partition: str
    offset: int | None


OfGroup: TypeAlias = Read | CommitAsked | CommitAnswered | CommitFound
Event: TypeAlias = Sent | Acknowledged | Began | OfGroup
_KINDS = {
    kind.__name__: kind
    for kind in (Sent, Acknowledged, Began, Read, CommitAsked, CommitAnswered, CommitFound)
}


@dataclass
class Log:
    """A partition, read from its first offset to its end by somebody whom nothing disturbs."""

    start: int
    end: int
    records: dict[int, Identity]


class FaultKind(StrEnum):
    """What a log does not do."""

    INVENTED = "a record that nobody sent there"
    CHANGED = "two records at one offset"
    TWICE = "one record at two offsets"
    LOST = "what was acknowledged or read is not there"
    HOLE = "an offset without a record"
    ORDER = "a producer's records out of their order"
    SKIPPED = "a reader goes on behind records that it was not given"
    BACK = "a reader is given again what it has"
    COMMIT_UNREAD = "a commit of records that the group has not read"
    COMMIT_AHEAD = "a commit beyond the end of the log"
    COMMIT_INVENTED = "a commit that nobody asked for"
    COMMIT_FORGOTTEN = "a commit that is gone"


class Fault(NamedTuple):
    kind: FaultKind
    text: str


# ---- noting ----


class History:
    """Events in the order in which they are noted; threads may note at the same time.

    With a file each is written there at once, so that it outlives a process that is killed.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.events: list[Event] = []
        self._descriptor = -1
        if file is not None:
            self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _note(self, event: Event) -> None:
        self.events.append(event)
        if self._descriptor >= 0:
            os.write(self._descriptor, json.dumps([type(event).__name__, *event]).encode() + b"\n")

    def sent(self, partition: str, record: Identity) -> None:
        self._note(Sent(time.monotonic(), partition, record))

    def acknowledged(self, partition: str, record: Identity, offset: int) -> None:
        self._note(Acknowledged(time.monotonic(), partition, record, offset))

    def began(self, reader: str, partition: str, offset: int) -> None:
        self._note(Began(time.monotonic(), reader, partition, offset))

    def read(self, group: str, reader: str, partition: str, offset: int, record: Identity) -> None:
        self._note(Read(time.monotonic(), group, reader, partition, offset, record))

    def commit_asked(self, group: str, partition: str, offset: int) -> None:
        self._note(CommitAsked(time.monotonic(), group, partition, offset))

    def commit_answered(self, group: str, partition: str, offset: int) -> None:
        self._note(CommitAnswered(time.monotonic(), group, partition, offset))

    def commit_found(self, asked_at: float, group: str, partition: str, offset: int | None) -> None:
        self._note(CommitFound(asked_at, time.monotonic(), group, partition, offset))


def read_events(path: Path) -> list[Event]:
    """What a process has written; a last line that it did not finish is left out."""
    found: list[Event] = []
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            name, *fields = json.loads(line)
            kind = _KINDS[name]
            found.append(kind(*(Identity(*one) if isinstance(one, list) else one for one in fields)))
    return found


# ---- checking ----


def check(events: Iterable[Event], logs: Mapping[str, Log]) -> list[Fault]:
    """All that is wrong, in no order. `logs` are the partitions as they are after the last event."""
    ordered = sorted(events, key=lambda event: event.at)
    faults: list[Fault] = []
    faults += _records(ordered, logs)
    faults += _places(ordered, logs)
    faults += _lost(ordered, logs)
    for partition, log in logs.items():
        faults += _inside(partition, log)
    faults += _readers(ordered)
    faults += _commits(ordered, logs)
    return faults


def _found(events: Iterable[Event], logs: Mapping[str, Log]) -> Iterator[tuple[str, int, Identity]]:
    """Each partition, offset and record of which anybody says that they belong together."""
    for event in events:
        if isinstance(event, Acknowledged | Read):
            yield event.partition, event.offset, event.record
    for partition, log in logs.items():
        for offset, record in log.records.items():
            yield partition, offset, record


def _records(events: list[Event], logs: Mapping[str, Log]) -> Iterator[Fault]:
    sent = {(event.partition, event.record) for event in events if isinstance(event, Sent)}
    invented = {(partition, record) for partition, _, record in _found(events, logs)} - sent
    for partition, record in invented:
        yield Fault(FaultKind.INVENTED, f"{partition}: {record}")


def _places(events: list[Event], logs: Mapping[str, Log]) -> Iterator[Fault]:
    """Each offset has one record, and each record one offset, whoever says so and whenever."""
    at: dict[tuple[str, int], Identity] = {}
    of: dict[tuple[str, Identity], int] = {}
    for partition, offset, record in _found(events, logs):
        other = at.setdefault((partition, offset), record)
        if other != record:
            yield Fault(FaultKind.CHANGED, f"{partition}: {other} and {record} at {offset}")
        place = of.setdefault((partition, record), offset)
        if place != offset:
            yield Fault(FaultKind.TWICE, f"{partition}: {record} at {place} and {offset}")


def _inside(partition: str, log: Log) -> Iterator[Fault]:
    """Its offsets are dense, and its producers' numbers ascend."""
    for offset in range(log.start, log.end):
        if offset not in log.records:
            yield Fault(FaultKind.HOLE, f"{partition}: {offset} of {log.start} to {log.end}")
    newest: dict[str, int] = {}
    for offset in sorted(log.records):
        record = log.records[offset]
        if record.number < newest.get(record.publisher, 0):
            text = f"{partition}: {record} behind {newest[record.publisher]} at {offset}"
            yield Fault(FaultKind.ORDER, text)
        newest[record.publisher] = record.number


def _lost(events: list[Event], logs: Mapping[str, Log]) -> Iterator[Fault]:
    for event in events:
        if not isinstance(event, Acknowledged | Read) or (log := logs.get(event.partition)) is None:
            continue
        if event.offset >= log.start and event.offset not in log.records:
            verb = type(event).__name__.lower()
            yield Fault(FaultKind.LOST, f"{event.partition}: {event.record} at {event.offset} was {verb}")


def _readers(events: list[Event]) -> Iterator[Fault]:
    """From where it began each goes from offset to offset."""
    due: dict[tuple[str, str], int] = {}
    for event in events:
        if isinstance(event, Began):
            due[event.reader, event.partition] = event.offset
        elif isinstance(event, Read):
            key = (event.reader, event.partition)
            expected = due.setdefault(key, event.offset)
            if event.offset != expected:
                kind = FaultKind.SKIPPED if event.offset > expected else FaultKind.BACK
                yield Fault(kind, f"{event.partition}: {event.offset} to {event.reader}, not {expected}")
            due[key] = event.offset + 1


def _commits(events: list[Event], logs: Mapping[str, Log]) -> Iterator[Fault]:
    of: dict[tuple[str, str], list[OfGroup]] = defaultdict(list)
    for event in events:
        if isinstance(event, OfGroup):
            of[event.group, event.partition].append(event)
    for (group, partition), own in of.items():
        name = f"{group} in {partition}"
        log = logs.get(partition)
        yield from _unread(name, own, log)
        yield from _forgotten(name, own)
        for event in own:
            if log is None or not isinstance(event, CommitAnswered | CommitFound):
                continue
            if event.offset is not None and event.offset > log.end:
                yield Fault(FaultKind.COMMIT_AHEAD, f"{name}: {event.offset}, and the end is {log.end}")


def _unread(name: str, events: list[OfGroup], log: Log | None) -> Iterator[Fault]:
    """Whoever commits says that the group has read everything before."""
    read: set[int] = set()
    done = log.start if log is not None else 0
    for event in events:
        if isinstance(event, Read):
            read.add(event.offset)
        elif isinstance(event, CommitAsked):
            while done in read:
                done += 1
            if event.offset > done:
                yield Fault(FaultKind.COMMIT_UNREAD, f"{name}: {event.offset}, and {done} was not read")


def _forgotten(name: str, events: list[OfGroup]) -> Iterator[Fault]:
    """Nobody is told less than what was answered, or told, before the question."""
    asked: set[int | None] = {None}
    known: list[tuple[float, int]] = []  # since when, and what
    for event in events:
        if isinstance(event, CommitAsked):
            asked.add(event.offset)
        elif isinstance(event, CommitAnswered):
            known.append((event.at, event.offset))
        elif isinstance(event, CommitFound):
            if event.offset not in asked:
                yield Fault(FaultKind.COMMIT_INVENTED, f"{name}: {event.offset}")
            least = max((offset for at, offset in known if at < event.asked_at), default=0)
            told = event.offset or 0
            if told < least:
                yield Fault(FaultKind.COMMIT_FORGOTTEN, f"{name}: {event.offset}, and {least} was committed")
            known.append((event.at, told))
