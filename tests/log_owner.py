"""The owner of a log in a test: it appends and settles, carries the writes out, and knows what must be there.

Flow:   `append` and `settle` collect, `commit` writes; after a crash, `reopen` recovers on what is left and
        holds it against what had been made safe.
Shape:  a record is 24 octets that say which process appended it and at which offset.
"""

from __future__ import annotations

import itertools

from broker.storage import batch as batches
from broker.storage import recovery
from broker.storage.batch import Batch
from broker.storage.log import Log
from broker.storage.recovery import Report
from broker.storage.rewrite import rewrite
from broker.storage.settlements import Settlement, settlement
from broker.storage.write import remove_files
from fakes import FakeFiles

DIRECTORY = "/data/queues/1"
RECORD_SIZE = 24


def record(generation: int, offset: int) -> bytes:
    return f"{generation}:{offset};".encode().ljust(RECORD_SIZE, b".")


def records_of(batch: Batch) -> list[bytes]:
    payload = batch.payload
    return [payload[at : at + RECORD_SIZE] for at in range(0, len(payload), RECORD_SIZE)]


def contents(log: Log) -> dict[int, bytes]:
    """Every record that is not settled, by offset, as a reader sees it."""
    found: dict[int, bytes] = {}
    at = 0
    while read := log.read(at, 100):
        for batch in read:
            known = records_of(batch)
            for offsets in log.unsettled(batch):
                for offset in offsets:
                    assert not found or offset > max(found)
                    found[offset] = known[offset - batch.base_offset]
        assert read[-1].next_offset > at
        at = read[-1].next_offset
    return found


def keep(batch: Batch, live: list[range]) -> list[Batch]:
    """Of a batch that is written anew, what lives."""
    known = records_of(batch)
    return [
        batches.encode(
            part.start,
            len(part),
            known[part.start - batch.base_offset : part.stop - batch.base_offset],
            attributes=batch.attributes,
        )
        for part in live
    ]


class LogOwner:
    """A log on a file system that may crash."""

    def __init__(self, files: FakeFiles | None = None, segment_size_max: int = 500) -> None:
        self.files = files or FakeFiles()
        self.segment_size_max = segment_size_max
        self.generation = 0
        self.appended: dict[int, set[bytes]] = {}
        """What any process ever appended at an offset."""
        self.safe: dict[int, bytes] = {}
        """Persistent records in synced writes."""
        self.settled: set[int] = set()
        self.settled_safe: set[int] = set()
        self.transient: set[int] = set()
        self._batches: list[Batch] = []
        self._settlements: list[Settlement] = []
        self._removals: list[str] = []
        self.open()

    def open(self) -> Report:
        self.generation += 1
        self.handles = self.files.handles(8)
        self.reader = self.files.handles(8)
        self.log, report = recovery.open_log(
            self.files, self.reader, 1, DIRECTORY, segment_size_max=self.segment_size_max
        )
        self.next_offset = self.log.next_offset
        self._batches, self._settlements, self._removals = [], [], []
        return report

    def append(self, count: int, *, transient: bool = False, gap: int = 0) -> range:
        """Have so many records go into the next commit as one batch; `gap` offsets before it stay unused."""
        first = self.next_offset + gap
        offsets = range(first, first + count)
        made = [record(self.generation, offset) for offset in offsets]
        for offset, octets in zip(offsets, made, strict=True):
            self.appended.setdefault(offset, set()).add(octets)
        if transient:
            self.transient.update(offsets)
        attributes = batches.TRANSIENT if transient else 0
        self._batches.append(batches.encode(first, count, [b"".join(made)], attributes=attributes))
        self.next_offset = offsets.stop
        return offsets

    def settle(self, offsets: range) -> None:
        """Of messages that were committed, or go into the next commit."""
        self._settlements.append(settlement(offsets))
        self.settled.update(offsets)

    def commit(self) -> None:
        """Write everything; returns when it is safe. A failure of the disk comes out of it."""
        batches_, self._batches = self._batches, []
        settlements, self._settlements = self._settlements, []
        for write in itertools.chain(*self.log.write(batches_, settlements)):
            write.carry_out(self.files, self.handles)
        remove_files(self.files, self._removals)
        self._removals = []
        self.log.written()
        for batch in batches_:
            if not batch.transient:
                self.safe.update(
                    zip(range(batch.base_offset, batch.next_offset), records_of(batch), strict=True)
                )
        for entry in settlements:
            self.settled_safe.update(entry.offsets)

    def drop(self, *, all: bool = False) -> None:
        """Have the files of settled segments removed at the end of the next commit."""
        self._removals += self.log.drop_all() if all else self.log.drop_settled()

    def rewrite(self) -> bool:
        """Have a sparse segment written anew, if there is one."""
        segment = self.log.sparse()
        if segment is None:
            return False
        segment.rewriting = True
        live = segment.settled.unsettled(segment.base_offset, segment.next_offset)
        result = rewrite(self.handles, [segment], live, keep)
        self.log.rewritten(self.files, segment, result)
        return True

    @property
    def pending(self) -> bool:
        return bool(self._batches or self._settlements)

    def live(self) -> dict[int, bytes]:
        """What a reader must see while the process lives, of what was committed."""
        return {offset: known for offset, known in self.safe.items() if offset not in self.settled}

    def reopen(self, files: FakeFiles) -> Report:
        """The next process: what it finds is checked, and becomes what must be kept from now on."""
        self.files = files
        report = self.open()
        found = contents(self.log)
        for offset, octets in found.items():
            assert octets in self.appended[offset], f"{offset} is {octets!r}"
            assert offset not in self.settled_safe, f"{offset} came back"
            assert offset not in self.transient, f"{offset} was transient"
        for offset, octets in self.live().items():
            assert found.get(offset) == octets, f"{offset} is lost: {report}"
        assert self.log.live == len(found)
        assert self.log.next_offset > max({-1, *self.live(), *found})
        return report

    def after_crash(self, files: FakeFiles) -> Report:
        """`reopen` after a loss of power: everything that is there now is safe."""
        report = self.reopen(files)
        found = contents(self.log)
        self.settled_safe.update(self.safe.keys() - found.keys())
        self.safe = found
        self._forget_the_future(found)
        return report

    def after_kill(self, files: FakeFiles) -> Report:
        """`reopen` after the process alone was killed: what it had written may still be lost."""
        report = self.reopen(files)
        found = contents(self.log)
        self.safe = {offset: octets for offset, octets in found.items() if self.safe.get(offset) == octets}
        self._forget_the_future(found)
        return report

    def _forget_the_future(self, found: dict[int, bytes]) -> None:
        """Offsets of which nothing is left may be given out again: whatever has them then must not be lost."""
        end = self.log.next_offset
        self.settled_safe = {offset for offset in self.settled_safe if offset < end}
        self.settled = {offset for offset in self.settled if offset < end and offset not in found}
        self.transient = {offset for offset in self.transient if offset < end}
