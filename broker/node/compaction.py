"""Compaction: of each key in a partition only the newest record stays.

Flow:   `tidy`, called now and then, looks which partitions are due and goes over the dirtiest first. A pass has
        many steps, each over one sealed segment in a thread; after each the loop takes over what was made.
        1. the dirty segments are read, and the last offset of each key noted, as far as the map has room
        2. each segment up to there is written anew, in the order of offsets, without what a later record has made
           out of date, and without tombstones whose time is over; neighbours that have room in one become one
        3. how far the partition is compacted is written down (`storage/noted.py`)
        A tombstone that is kept gets its delete horizon the first time: now and `delete.retention.ms`.
Shape:  offsets stay what they were, and so does the start of the partition. A batch that has its producer's last
        sequence number stays, empty if need be. A segment of which nothing is left goes.
Limits: one pass at a time in all, with a piece of a segment in memory and a map of `KEYS_MAX` keys (or those of a single
        batch), 150 octets each; what does not fit is the next pass's.
Spec:   Kafka's LogCleaner; KIP-58 (lag), KIP-354 (max lag), KIP-534 (delete horizon). As there: never the last
        segment, a pass is due when the dirty part is larger than `min.cleanable.dirty.ratio` of all that could be
        compacted, and tombstones go with the first pass that comes behind their horizon.
Why:    A thread of its own, as one that is busy for seconds may not hold up a checkpoint. It is all Python, 3 s
        for 64 MiB of records of 100 octets, and gives way each millisecond for another: an answer to a producer
        took 2.2 ms meanwhile instead of 0.9 (median), and 14.6 ms if it did not (2 cores of AMD EPYC, 2026-11).
        Where a batch cannot be opened, all of it is kept: nobody can say that it is out of date.

What a step does, and what is there if the process dies behind it; see also `storage/rewrite.py`:
1. the thread writes `.rewrite`, removes the index, and      nothing has happened; the next start reads the
   syncs the directory                                       segment to know what is in it
2. of neighbours that become one it writes `.joined`         the next start goes on with 3 and 4
3. the loop renames it to `.log`                             the old segment or the new one, and both are right
4. the thread's next step removes the others, and syncs      each segment up to that one is new: a tombstone can
   the directory, before the loop renames the next one       only go when what it has deleted cannot come back
5. that step writes the index                                a quick start
6. the last step writes how far it came                      before that, the next pass begins where this one did
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Final, NamedTuple, TypeAlias

from broker.node.flusher import Commit, Flusher
from broker.node.key_map import GiveWay, KeyMap
from broker.node.partition import Partition
from broker.node.store import Store
from broker.node.worker import Problem
from broker.storage.batch import Batch
from broker.storage.errors import CorruptLog, DiskFull, SyncFailed
from broker.storage.file import Files, Handles
from broker.storage.noted import COMPACTED, joined
from broker.storage.rewrite import Rewritten, read_batches, rewrite
from broker.storage.segment import INDEX_SUFFIX, JOINED_SUFFIX, REWRITE_SUFFIX, Segment
from broker.storage.write import Write, index_write, remove_files

logger = logging.getLogger("broker.node")

KEYS_MAX: Final = 500_000
# After a pass for which there was no room.
_FULL_RETRY_MS: Final = 60_000
_NEVER: Final = 1 << 63

_Work: TypeAlias = Callable[[Files, Handles, GiveWay], None]


@dataclass(slots=True)
class _Known:
    """Of a partition."""

    first_dirty: int
    """Everything before it is compacted."""
    dirty_since: tuple[int, int] = (-1, 0)
    """An offset, and the time of the first batch that is there or behind it."""
    unreadable: bool = False
    """The disk did not give something of it: it is left alone until the next start."""


class _Due(NamedTuple):
    """A pass that had better be made."""

    forced: bool
    """Something has been dirty for too long."""
    ratio: float
    """Of the dirty part to all that could be compacted."""
    first: int
    segments: list[Segment]
    """The dirty ones."""


class Compactor:
    """Goes over one partition after another."""

    def __init__(self, flusher: Flusher, files: Files, reader: Handles) -> None:
        self.keys_max = KEYS_MAX
        self.files = files
        self.flusher = flusher
        self._reader = reader
        self._known: dict[Partition, _Known] = {}
        self._looked_at: dict[Partition, _Known] = {}
        self._dirty: list[tuple[bool, float, Partition]] = []
        self._interrupted = False
        """Since the last choice, not all that were shown were looked at."""
        self._waiting: deque[Partition] = deque()
        self._pass: _Pass | None = None
        self._rests_until_ms = 0
        self._removal: Commit | None = None

    def look_at(self, partition: Partition, now_ms: int) -> None:
        """Find out whether it is due, unless something is being compacted already."""
        if self._busy(now_ms):
            self._interrupted = True
        elif len(partition.log.segments) > 1:
            known = self._known.get(partition) or self._read(partition)
            self._known[partition] = self._looked_at[partition] = known
            if due := self._due(partition, now_ms):
                self._dirty.append((due.forced, due.ratio, partition))

    def choose(self, now_ms: int) -> None:
        """Begin with the dirtiest of those that were looked at since the last choice: there are no others."""
        looked_at, self._looked_at = self._looked_at, {}
        dirty, self._dirty = self._dirty, []
        interrupted, self._interrupted = self._interrupted, False
        if interrupted or self._busy(now_ms):
            return
        self._known = looked_at
        dirty.sort(key=itemgetter(0, 1), reverse=True)
        self._waiting = deque(partition for _, _, partition in dirty)
        self._begin_next()

    def _busy(self, now_ms: int) -> bool:
        removing = self._removal is not None and not self._removal.done
        return self._pass is not None or now_ms < self._rests_until_ms or removing

    def _read(self, partition: Partition) -> _Known:
        return _Known(COMPACTED.read(self.files, self._reader, partition.log.directory))

    def _begin_next(self) -> None:
        while self._pass is None and self._waiting:
            partition = self._waiting.popleft()
            due = None if partition.closed else self._due(partition, partition.now_ms())
            if due is not None:
                self._pass = _Pass(self, partition, due)
                self._pass.begin()

    def over(self, partition: Partition, first_dirty: int) -> None:
        """A pass has come to its end."""
        self._pass = None
        if partition in self._known:
            self._known[partition].first_dirty = first_dirty
        self._begin_next()

    def given_up(self, partition: Partition, problem: Problem | None, removals: list[str]) -> None:
        """A pass has not; what it has dropped goes before another one begins."""
        self._pass = None
        self._waiting.clear()
        if isinstance(problem, DiskFull):
            self._rests_until_ms = partition.now_ms() + _FULL_RETRY_MS
        if isinstance(problem, OSError) and partition in self._known:
            self._known[partition].unreadable = True
        if removals and not partition.closed:
            self._removal = self.flusher.open
            self.flusher.remove(removals)

    # ---- what is due ----

    def _due(self, partition: Partition, now_ms: int) -> _Due | None:
        settings = partition.settings
        known = self._known[partition]
        damaged = known.unreadable or any(segment.damage for segment in partition.log.segments)
        if damaged or not settings.compacts:
            return None
        first = max(known.first_dirty, partition.start_offset)
        clean = dirty = 0
        segments: list[Segment] = []
        for segment in partition.log.at_rest():
            if segment.next_offset <= first:
                clean += segment.size
                continue
            assert segment.next_offset <= partition.high_watermark
            lag_min_ms = settings.compaction_lag_min_ms
            if lag_min_ms and segment.max_timestamp > now_ms - lag_min_ms:
                break
            dirty += segment.size
            segments.append(segment)
        if not dirty:
            return None
        ratio = dirty / (clean + dirty)
        longest_ms = settings.compaction_lag_max_ms
        forced = longest_ms < now_ms and self._dirty_since(partition, known, first) < now_ms - longest_ms
        return _Due(forced, ratio, first, segments) if forced or ratio > settings.dirty_ratio_min else None

    @staticmethod
    def _dirty_since(partition: Partition, known: _Known, first: int) -> int:
        """The time of the first dirty batch, as its producer has it; it is read once."""
        if known.dirty_since[0] != first:
            latest = partition.time_of(first) or 0
            known.dirty_since = (first, latest if latest > 0 else _NEVER)  # there are records without a time
        return known.dirty_since[1]


class _Step:
    """It fits the worker's `Step`."""

    def __init__(self, of: _Pass, segments: list[Segment], work: _Work, then: Callable[[], None]) -> None:
        self.store: Store = of.partition
        self.carry_out = work
        self._pass = of
        self._segments = segments
        self._then = then
        for segment in segments:
            segment.rewriting = True

    def ended(self, problem: Problem | None) -> None:
        for segment in self._segments:
            segment.rewriting = False
        if problem is not None or self.store.closed:
            self._pass.give_up(problem)
        else:
            self._then()


class _Pass:
    """Over one partition. What is called `_in_thread_…` is; it is alone with the pass then."""

    def __init__(self, compactor: Compactor, partition: Partition, due: _Due) -> None:
        self.partition = partition
        self._compactor = compactor
        self._directory = partition.log.directory
        self._map = KeyMap(due.first, compactor.keys_max)
        self._dirty = deque(due.segments)
        self._old: deque[Segment] = deque()
        self._now_ms = partition.now_ms()
        self._ends = partition.producers.ends()
        self._result = Rewritten()
        self._size_before = self._size = 0
        # What the next step owes to what the last one did.
        self._renamed = False
        self._removals: list[str] = []
        self._indexes: list[Write] = []

    def begin(self) -> None:
        self._read_next()

    def _step(self, segments: list[Segment], work: _Work, then: Callable[[], None]) -> None:
        self._compactor.flusher.begin(_Step(self, segments, work, then))

    # ---- 1. the map ----

    def _read_next(self) -> None:
        there = self.partition.log.segments  # retention may have dropped some
        while self._dirty and not self._map.full:
            segment = self._dirty.popleft()
            if segment in there:
                self._step([segment], partial(self._in_thread_read, segment), self._read_next)
                return
        self._old = deque(segment for segment in there[:-1] if segment.base_offset < self._map.end)
        self._rewrite_next()

    def _in_thread_read(self, segment: Segment, files: Files, handles: Handles, give_way: GiveWay) -> None:
        for batch in read_batches(handles, segment):
            give_way()
            if batch.next_offset > self._map.end:
                self._map.add(batch, give_way)
                if self._map.full:
                    return
        self._map.end = segment.next_offset

    # ---- 2. the segments ----

    def _rewrite_next(self) -> None:
        group = self._next_group()
        if group:
            work = partial(self._in_thread_rewrite, group)
            self._step(group, work, partial(self._take_over, group))
        else:
            self._step([], self._in_thread_write_down, self._over)

    def _next_group(self) -> list[Segment]:
        """Neighbours that have room in one segment, as they are now; what is not read whole yet stays by itself."""
        log = self.partition.log
        group: list[Segment] = []
        size = 0
        while self._old:
            segment = self._old[0]
            fits = size + segment.size <= log.segment_size_max and segment.next_offset <= self._map.end
            # What lies beside it may say where the partition begins: it stays where it is.
            if group and (not fits or segment.settled_size):
                break
            self._old.popleft()
            if segment in log.segments:
                group.append(segment)
                size += segment.size
        return group if len(group) > 1 or size else self._next_group() if self._old else []

    def _in_thread_rewrite(
        self, group: list[Segment], files: Files, handles: Handles, give_way: GiveWay
    ) -> None:
        remove_files(files, self._removals)
        first, last = group[0], group[-1]
        _remove_written(files, first)
        live = [range(first.base_offset, last.next_offset)]
        self._result = Rewritten()
        try:
            self._result = rewrite(handles, group, live, partial(self._kept, give_way))
        finally:
            if not self._result.changed:
                _remove_written(files, first)
        if self._result.changed:
            files.remove(first.path(INDEX_SUFFIX))
        if self._result.changed or self._renamed:
            files.sync_directory(self._directory)
        for write in self._indexes:
            write.carry_out(files, handles)
        if len(group) > 1 and not self._leaves_nothing(group):
            note = joined(first.base_offset).write_of(self._directory, last.next_offset)
            try:
                note.carry_out(files, handles)
            except DiskFull:
                _remove_written(files, first)
                raise

    def _kept(self, give_way: GiveWay, batch: Batch, live: list[range]) -> list[Batch]:
        retention_ms = self.partition.settings.delete_retention_ms
        return self._map.kept(batch, self._now_ms, retention_ms, self._ends, give_way)

    def _leaves_nothing(self, group: list[Segment]) -> bool:
        return not self._result.size and not group[0].settled_size

    def _take_over(self, group: list[Segment]) -> None:
        self._paid()
        self._size_before += sum(segment.size for segment in group)
        result = self._result
        log = self.partition.log
        if result.changed:
            if self._leaves_nothing(group):
                self._removals = [path for segment in group for path in log.drop_emptied(segment)]
            else:
                try:
                    self._put_in_place(group)
                except DiskFull as full:
                    self._step(
                        group, partial(self._in_thread_take_back, group[0]), partial(self.give_up, full)
                    )
                    return
            self._renamed = True
            self.partition.compacted(group[-1].next_offset)
        self._size += result.size
        self._rewrite_next()

    def _put_in_place(self, group: list[Segment]) -> None:
        log, files = self.partition.log, self._compactor.files
        if len(group) > 1:
            self._removals = log.joined(files, group, self._result)
        else:
            log.rewritten(files, group[0], self._result)
        self._indexes = [index_write(group[0])]

    @staticmethod
    def _in_thread_take_back(first: Segment, files: Files, handles: Handles, give_way: GiveWay) -> None:
        """At once: as long as it says that it is part of another one, nothing else may be done to a segment."""
        try:
            _remove_written(files, first)
        except DiskFull as full:
            raise SyncFailed(str(full)) from full

    def _paid(self) -> None:
        self._renamed = False
        self._removals = []
        self._indexes = []

    # ---- 3. the end ----

    def _in_thread_write_down(self, files: Files, handles: Handles, give_way: GiveWay) -> None:
        remove_files(files, self._removals)
        files.sync_directory(self._directory)
        for write in (*self._indexes, COMPACTED.write_of(self._directory, self._map.end)):
            write.carry_out(files, handles)

    def _over(self) -> None:
        name, known = self.partition.name, self._map
        before, behind = self._size_before, self._size
        logger.info(
            "partition %s is compacted to offset %d: %d octets of %d", name, known.end, behind, before
        )
        if known.unopened:
            said = "partition %s: %d batches cannot be opened and stay as they are, the first at %s"
            logger.warning(said, name, known.unopened, known.first_unopened)
        self._compactor.over(self.partition, known.end)

    def give_up(self, problem: Problem | None) -> None:
        name = self.partition.name
        if isinstance(problem, CorruptLog):
            logger.error("partition %s is not compacted: %s", name, problem)
            self.partition.mend(problem)
        elif isinstance(problem, DiskFull):
            logger.warning("partition %s is not compacted for now: %s", name, problem)
        elif isinstance(problem, OSError):
            logger.error("partition %s is not compacted, as it cannot be read: %s", name, problem)
        self._compactor.given_up(self.partition, problem, self._removals)


def _remove_written(files: Files, first: Segment) -> None:
    """What was to take a segment's place: first, and for good, the word that it is whole and what it replaces."""
    note, written = first.path(JOINED_SUFFIX), first.path(REWRITE_SUFFIX)
    if files.size(note) >= 0:
        files.remove(note)
        files.sync_directory(first.directory)
    files.remove(written)
