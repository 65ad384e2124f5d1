"""A partition: producers' batches in a log, and who waits for more of them.

Flow:   `append` gives a batch its offset; it waits here until the flusher takes it, for the journal or for
        the log's files; when its commit is safe the high watermark rises and the bells ring.
Limits: what waits is at most what comes in while one sync runs, and what the journal may hold. Of what the files
        have, the newest stay in memory (`TailLimit`), as long as the partition is in use. An answer to
        `read` has one batch at least and otherwise about as many octets as were asked for.
Why:    Only what is safe is read: an offset that somebody has seen never gets another record after a crash.
        A batch is not opened to be stored; for a time, its records are looked at when somebody asks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from broker.kafka import records
from broker.kafka.records import BatchHeader
from broker.model.errors import OffsetOutOfRange
from broker.model.producer import Producers
from broker.model.topic import TopicSettings
from broker.node import snapshots, times
from broker.node.metrics import Traffic
from broker.node.retention import first_kept
from broker.node.tail import Tail, TailLimit, octets_of, owned
from broker.node.times import Timed
from broker.storage import batch as batches
from broker.storage import journal, recovery
from broker.storage.batch import Batch
from broker.storage.errors import CorruptLog, DiskFull, SyncFailed
from broker.storage.file import FileRange, Files, Handles
from broker.storage.log import Log
from broker.storage.noted import SAFE
from broker.storage.segment import SETTLED_SUFFIX, Segment
from broker.storage.settlements import Settlement
from broker.storage.unsynced import Unsynced
from broker.storage.write import Write

if TYPE_CHECKING:
    from broker.node.flusher import Commit, Flusher

logger = logging.getLogger("broker.node")

# What a batch costs in memory beside its octets.
_BATCH_COST = 256
# What a partition takes that is empty.
_PARTITION_SIZE = 2 * 1024
# After so many octets it is written down that they are safe.
_NOTED_EACH = 1024 * 1024
_Found = TypeVar("_Found")
_Octets = TypeVar("_Octets", bytes, "bytes | FileRange")


class Appended(NamedTuple):
    """Where a batch is, or was already when its producer sent it a second time."""

    base_offset: int
    log_append_time: int
    """-1 if the records keep their producer's time."""
    commit: Commit
    """When it is done, the batch is safe."""


class Partition:
    """One partition of one topic, and its log's store for the flusher."""

    __slots__ = (
        "_appended_ms",
        "_began_ms",
        "_files",
        "_flusher",
        "_journaled",
        "_journaled_settlements",
        "_noted_in",
        "_noted_size",
        "_reader",
        "_resting",
        "_round",
        "_round_commit",
        "_settlements",
        "_tail",
        "_tail_limit",
        "_waiting",
        "bells",
        "closed",
        "high_watermark",
        "journal_number",
        "log",
        "name",
        "next_offset",
        "now_ms",
        "number",
        "producers",
        "settings",
        "start_offset",
        "traffic",
    )

    def __init__(
        self,
        name: str,
        number: int,
        log: Log,
        settings: TopicSettings,
        files: Files,
        reader: Handles,
        flusher: Flusher,
        now_ms: Callable[[], int],
        tail_limit: TailLimit,
    ) -> None:
        self.name = name
        self.number = number
        self.log = log
        self.closed = False
        self.journal_number = 0
        self.start_offset = log.mark
        """Of the first record that may be read, if compaction has left it; otherwise the next one is."""
        self.next_offset = log.next_offset
        """Of the next record; what lies before it may not be safe yet."""
        self.high_watermark = log.next_offset
        """Everything before it is safe, and may be read."""
        self.bells: dict[Callable[[], None], None] = {}
        """Called when there is more to read, or the partition is gone."""
        self.producers = Producers()
        self.traffic = Traffic()
        self._files = files
        self._reader = reader
        self._flusher = flusher
        self.now_ms = now_ms
        self._waiting: list[Batch] = []
        self._tail = Tail()
        self._tail_limit = tail_limit
        self._resting = True
        self._journaled = 0
        self._settlements: list[Settlement] = []
        self._journaled_settlements = 0
        # Beside this segment it is written where the partition begins; None if nobody knows.
        self._noted_in: Segment | None = None
        # So much of the last segment is written down as safe.
        self._noted_size = 0
        self._round: list[int] = []
        self._round_commit: Commit | None = None
        self._began_ms = self._appended_ms = now_ms()
        for segment in log.segments[:-1]:
            segment.sealed_ms = self._began_ms
        self.configure(settings)

    def configure(self, settings: TopicSettings) -> None:
        self.settings = settings
        self.log.syncs = settings.syncs

    @property
    def last_stable_offset(self) -> int:
        """Before it no transaction is open. There are none yet: the first offset of the earliest will bound it."""
        return self.high_watermark

    @property
    def memory(self) -> int:
        """About how many bytes it takes with the batches it has in memory."""
        return _PARTITION_SIZE + self._tail.size

    @property
    def size(self) -> int:
        """Octets on disk, or soon."""
        return self.log.size

    # ---- appending ----

    def append(self, header: BatchHeader, octets: bytes | memoryview) -> Appended:
        """Give a batch, which was checked, its place; or find where it has one.

        Raises InvalidProducerEpoch or OutOfOrderSequence for what its producer did wrong.
        """
        commit = self._flusher.open
        if header.producer_id >= 0:
            known = self.producers.check(
                header.producer_id, header.producer_epoch, header.base_sequence, header.count
            )
            if known is not None:
                time = known.timestamp if self.settings.append_time else -1
                return Appended(known.base_offset, time, commit)
        now_ms = self._appended_ms = self.now_ms()
        latest, append_time = header.max_timestamp, -1
        if self.settings.append_time:
            octets = records.with_log_append_time(octets, now_ms)
            latest = append_time = now_ms
        base_offset = self.next_offset
        batch = batches.place(owned(octets), base_offset, header.count, header.attributes, latest)
        if header.producer_id >= 0:
            self.producers.appended(
                header.producer_id,
                header.producer_epoch,
                header.base_sequence,
                header.count,
                base_offset,
                latest,
                now_ms,
            )
        self.traffic.records_in += header.count
        self.traffic.octets_in += batch.size
        self._waiting.append(batch)
        self._tail.add(batch)
        self._resting = False
        self.next_offset = batch.next_offset
        self._flusher.appended(self, batch.size + _BATCH_COST)
        if self._round_commit is not commit:
            self._round_commit = commit
            self._round = [self.next_offset]
            commit.waiters.append(partial(self._safe, self._round))
        self._round[0] = self.next_offset
        return Appended(base_offset, append_time, commit)

    def _safe(self, until: list[int]) -> None:
        self.high_watermark = until[0]
        self._tail.let_go(self._tail_limit.size_max, self._unfiled())
        self.ring()

    def _unfiled(self) -> int:
        """The first offset that no file has."""
        if writing := self.log.being_written:
            return writing[0][1].base_offset
        return self._waiting[0].base_offset if self._waiting else self.next_offset

    def ring(self) -> None:
        """Call those who wait, once."""
        if self.bells:
            bells, self.bells = self.bells, {}
            for bell in bells:
                bell()

    # ---- reading ----

    def read(self, offset: int, size_max: int) -> bytes:
        """Batches from the one that holds `offset` on, and maybe a part of another; empty at the high watermark.

        Raises OffsetOutOfRange.
        """
        return self._read(offset, size_max, self.log.read_octets)

    def share(self, offset: int, size_max: int) -> bytes | FileRange:
        """The same; what lies in a file and is much comes as a part of that."""
        return self._read(offset, size_max, self.log.share_octets)

    def _read(self, offset: int, size_max: int, of_log: Callable[[int, int], _Octets]) -> _Octets | bytes:
        self._check_offset(offset)
        if offset == self.high_watermark:
            return b""
        if not self._tail.has(offset):
            found = self._mended(partial(of_log, offset, size_max))
            if len(found):
                return found
        return octets_of(self._tail.batches(offset, size_max, self.high_watermark))

    def batches(self, offset: int, size_max: int) -> list[bytes]:
        """The same batches, each by itself and whole; those that are damaged are passed over.

        Raises OffsetOutOfRange.
        """
        self._check_offset(offset)
        below = self.high_watermark
        if offset == below:
            return []
        found: list[Batch] = []
        if not self._tail.has(offset):
            found = self._mended(partial(self.log.read, offset, max(size_max, 1)))
        found = found or self._tail.batches(offset, size_max, below)
        return [octets_of([batch]) for batch in found if batch.base_offset < below]

    def _check_offset(self, offset: int) -> None:
        if not self.start_offset <= offset <= self.high_watermark:
            raise OffsetOutOfRange(
                f"{self.name}: offset {offset} where {self.start_offset} to {self.high_watermark} are"
            )

    def _mended(self, look: Callable[[], _Found]) -> _Found:
        """What it finds in the files, when what is damaged in them is passed over."""
        while True:
            try:
                return look()
            except CorruptLog as error:
                if not self.mend(error):
                    raise
            except OSError as error:
                raise SyncFailed(f"partition {self.name}: cannot be read: {error.strerror}") from error

    def _in_memory(self) -> list[Batch]:
        """What no file has yet, ascending."""
        writing = self.log.being_written
        return [batch for _, batch in writing] + self._waiting if writing else self._waiting

    @property
    def _bounds(self) -> range:
        return range(self.start_offset, self.high_watermark)

    def offset_of_time(self, timestamp: int) -> Timed | None:
        """The first record with this time or a later one; None if there is none."""
        return self._mended(partial(times.first_since, self.log, self._in_memory(), self._bounds, timestamp))

    def latest_time(self) -> Timed | None:
        """The first of the records with the largest time; None if there are none, or none that has a time."""
        return self._mended(partial(times.newest, self.log, self._in_memory(), self._bounds))

    @property
    def largest_time(self) -> int | None:
        """About that of all records, without looking at them; None if there are none."""
        found = self._mended(partial(times.largest, self.log, self._in_memory(), self._bounds))
        return found if found >= 0 else None

    def time_of(self, offset: int) -> int | None:
        """About when the record at an offset was made: the largest time in its batch; None if it is not there."""
        if offset not in self._bounds:
            return None
        return self._mended(partial(self._time_of, offset))

    def _time_of(self, offset: int) -> int | None:
        for _, _, span in self.log.spans_from(offset):
            return span.max_timestamp
        for batch in self._in_memory():
            if batch.next_offset > offset:
                return batch.max_timestamp
        return None

    def last_batch_offset(self) -> int:
        """Where the newest batch begins that may be read; the high watermark if there is none."""
        return self._mended(self._last_batch_offset)

    def _last_batch_offset(self) -> int:
        found = self.high_watermark
        for batch in reversed(self._in_memory()):
            if batch.base_offset < self.high_watermark:
                return max(batch.base_offset, self.start_offset)
        for segment in reversed(self.log.segments):
            for _, _, span in self.log.last_spans(segment):
                found = max(span.base_offset, self.start_offset)
            if found < self.high_watermark:
                return found
        return found

    # ---- letting go ----

    def move_start(self, offset: int) -> Commit:
        """Nothing before `offset` is read any more; segments that lie before it go when that is safe.

        Raises OffsetOutOfRange beyond the high watermark.
        """
        if offset > self.high_watermark:
            raise OffsetOutOfRange(f"{self.name}: offset {offset} lies behind {self.high_watermark}")
        commit = self._flusher.open
        if offset > self.start_offset:
            self.start_offset = offset
            self._note_start()
        return commit

    def _note_start(self) -> None:
        """Have written where the partition begins, and then let go of what lies before."""
        self._settlements.append(Settlement(self.start_offset, 0, 0))
        self._flusher.settled(self)
        self._flusher.settle_soon()
        self._flusher.open.waiters.append(partial(self._drop_before, self.start_offset))

    def _drop_before(self, offset: int) -> None:
        if self.closed:
            return
        going, past = self.log.before(offset), self._last_is_past
        if not going and not past:
            return
        if not self._settlements and (past or self._noted_in in (None, *going)):
            self._note_start()  # what lies beside them may be the only word on where the partition begins
        elif going:
            self._flusher.remove(self.log.drop_before(offset))

    @property
    def _last_is_past(self) -> bool:
        """Nothing of the last segment may be read any more: another one begins with the next note of the start."""
        return self.log.ends_before(self.start_offset)

    def retain(self, now_ms: int) -> None:
        """Let go of what is too old or too much, as its topic says; called now and then."""
        settings = self.settings
        if self._resting:
            self._tail.let_go(0, self._unfiled())
        self._resting = True
        roll_ms = settings.segment_ms
        if settings.compacts:  # the last segment is not compacted
            roll_ms = min(roll_ms, settings.compaction_lag_max_ms)
        if self.log.size and now_ms - self._began_ms >= roll_ms:
            self.log.roll_due = True
        if settings.deletes:
            start = first_kept(self.log, settings, now_ms, self._appended_ms, self.high_watermark)
            if start > self.start_offset:
                self.move_start(start)
                return
        self._drop_before(self.start_offset)

    # ---- what the flusher asks for ----

    def to_journal(self, now_ms: int, batch_parts: list[bytes], settlement_parts: list[bytes]) -> None:
        for batch in self._waiting[self._journaled :]:
            batch_parts.append(journal.whole_batch_entry(self.log.id, batch.size))
            batch_parts += batch.buffers
        self._journaled = len(self._waiting)
        if len(self._settlements) > self._journaled_settlements:
            entries = self._settlements[self._journaled_settlements :]
            settlement_parts.append(journal.settlements_entry(self.log.id, entries))
            self._journaled_settlements = len(self._settlements)

    def for_files(self, *, journaled_only: bool, settlements: bool) -> tuple[list[Write], list[Write]]:
        end = self._journaled if journaled_only else len(self._waiting)
        settled_end = self._journaled_settlements if journaled_only else len(self._settlements)
        if not settlements:
            settled_end = 0
        taken, self._waiting = self._waiting[:end], self._waiting[end:]
        entries, self._settlements = self._settlements[:settled_end], self._settlements[settled_end:]
        # What was safe in the journal must not be less so behind it, even if the topic syncs nothing by now.
        self.log.syncs = self.settings.syncs or self._journaled > 0
        self._journaled = 0
        self._journaled_settlements = max(0, self._journaled_settlements - settled_end)
        before = self.log.segment_count
        writes, settled = self.log.write(taken, entries, anew=bool(entries) and self._last_is_past)
        self.log.syncs = self.settings.syncs
        last = self.log.last_segment
        if entries:
            self._noted_in = last
        if last is not None and self.log.segment_count != before:
            self._rolled(before)
            if before:
                writes.append(snapshots.write_of(self.producers, last))
        if taken and last is not None and self.settings.syncs and last.size - self._noted_size >= _NOTED_EACH:
            settled.append(self._safe_note(last))
        return writes, settled

    def _rolled(self, before: int) -> None:
        """There were so many segments, and now there are more."""
        self._began_ms = self.now_ms()
        for segment in self.log.segments[max(before - 1, 0) : -1]:
            segment.sealed_ms = self._began_ms
        self._noted_size = 0

    def _safe_note(self, last: Segment) -> Write:
        """For behind a sync: it tells recovery what is damage and not a commit that was not finished."""
        self._noted_size = last.size
        return SAFE.write_of(self.log.directory, self.high_watermark)

    def note_safe(self) -> None:
        """When everything is safe, and nothing is being written."""
        last = self.log.last_segment
        if last is not None and last.size > self._noted_size and self.settings.syncs:
            with suppress(DiskFull):
                self._safe_note(last).carry_out(self._files, self._reader)

    def drop_settled(self) -> list[str]:
        """Never: nothing of a partition is settled, and an empty segment may be where its start is noted."""
        return []

    def drop_all(self) -> list[str]:
        """Never: the last segment says where offsets go on."""
        return []

    def keep(self, batch: Batch, live: list[range]) -> list[Batch]:
        """What stays when a segment is written anew."""
        return [batch]

    def compacted(self, before: int) -> None:
        """Segments before this offset have less in them: what memory still has of them is not what is there any more."""
        self._tail.let_go(0, before)

    def mend(self, error: CorruptLog) -> bool:
        report, lost = recovery.mend(self._files, self._reader, self.log, error)
        for line in (*report.cut, *report.damaged):
            logger.error("partition %s: %s", self.name, line)
        at_most = "at most " if self.settings.compacts else ""
        logger.error(
            "partition %s: %s%d records are lost to a damaged disk: %s", self.name, at_most, lost, error
        )
        return bool(report.damaged)

    # ---- at start ----

    def make_safe(self, unsynced: Unsynced) -> None:
        """What a process that was killed has written may not be on the disk, and is read from now on."""
        for segment in self.log.segments[-1:]:
            if self.log.next_offset <= self.log.safe:  # it was stopped, and not killed
                segment.unsynced = segment.unnamed = False
                self._noted_size = segment.size
            elif segment.unsynced and self.settings.syncs:
                unsynced.add(segment.log_path)
                segment.unsynced = segment.unnamed = False
            if segment.settled_unsynced:
                unsynced.add(segment.path(SETTLED_SUFFIX))
                segment.settled_unsynced = segment.settled_unnamed = False

    def restore_producers(self) -> None:
        """From the newest snapshot that can be read, and the headers of the batches behind it."""
        since = snapshots.restore(self.producers, self.log, self._files, self._reader, self.name)
        self._mended(partial(snapshots.replay, self.producers, self.log, since, self.now_ms()))
