"""A queue's messages on disk: the model's `Store` over a log.

Flow:   a queue appends and settles; both wait here until the flusher takes them, for the journal
        (`to_journal`) or for the log's files (`for_files`). What the journal took still waits for the
        files. Reading finds what waits here, and the rest in the log.
Limits: what waits is at most what comes in while one sync runs, and what the journal may hold.
Why:    Batches are made when they go to the files, so that one batch holds what many passes brought, and
        what was settled until then need not go there at all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from broker.amqp.envelope import Envelope
from broker.model.message import Slice, earliest
from broker.node import records
from broker.storage import batch as batches
from broker.storage import journal, recovery
from broker.storage.batch import Batch
from broker.storage.errors import CorruptLog, SyncFailed
from broker.storage.file import Files, Handles
from broker.storage.log import Log
from broker.storage.settlements import Settled, Settlement, count_before, settlement
from broker.storage.write import Write

if TYPE_CHECKING:
    from broker.node.flusher import Flusher

logger = logging.getLogger("broker.node")

# envelope, contents, offsets, body size, expires at, transient, and where they differ the envelope of each and
# when each expires: a tuple, as it costs a tenth of an object.
Pushed: TypeAlias = tuple[
    Envelope, list[bytes], range, int | None, int, bool, Sequence[Envelope] | None, list[int] | None
]

_READ_SIZE = 1024 * 1024
# What a message costs in memory beside its body.
_MESSAGE_COST = 128


class QueueStore:
    """One queue's log, and what is to go there."""

    __slots__ = (
        "_early",
        "_files",
        "_flusher",
        "_journaled",
        "_journaled_settlements",
        "_mark",
        "_noted_mark",
        "_now_ms",
        "_pushed",
        "_reader",
        "_recovered_mark",
        "_settlements",
        "closed",
        "journal_number",
        "log",
        "name",
    )

    def __init__(
        self,
        name: str,
        log: Log,
        files: Files,
        reader: Handles,
        flusher: Flusher,
        now_ms: Callable[[], int],
    ) -> None:
        self.name = name
        self.log = log
        self.closed = False
        self.journal_number = 0
        """The newest journal that holds something of this queue; 0 is none."""
        self._files = files
        self._reader = reader
        self._flusher = flusher
        self._now_ms = now_ms
        self._pushed: list[Pushed] = []
        self._journaled = 0
        self._settlements: list[Settlement] = []
        self._journaled_settlements = 0
        # Settled while they wait here: the log hears of it when it gets them.
        self._early: list[range] = []
        self._mark = self._noted_mark = log.mark
        # What an earlier process handed out lies before this.
        self._recovered_mark = log.mark

    # ---- what a queue asks for ----

    def append(self, piece: Slice, transient: bool) -> None:
        envelope: Any = piece.envelope
        envelopes: Any = piece.envelopes
        self._pushed.append(
            (
                envelope,
                piece.contents,
                piece.offsets,
                piece.body_size,
                piece.expires_at,
                transient,
                envelopes,
                piece.expiries,
            )
        )
        self._flusher.appended(self, piece.size + _MESSAGE_COST * len(piece.offsets))

    def settle(self, offsets: range) -> None:
        waiting_from = self._pushed[0][2].start if self._pushed else offsets.stop
        if offsets[-1] < waiting_from:
            self.log.mark_settled(offsets)
        else:
            cut = count_before(offsets, waiting_from)
            if cut:
                self.log.mark_settled(offsets[:cut])
            self._early.append(offsets[cut:])
        self._remember(offsets)
        self._flusher.settled(self)

    def _remember(self, offsets: range) -> None:
        """Have it written that these offsets are settled."""
        waiting = self._settlements
        if len(waiting) > self._journaled_settlements and offsets.step == 1:
            last = waiting[-1]
            if last.step == 1 and last.number and last.first + last.number == offsets.start:
                waiting[-1] = Settlement(last.first, last.number + len(offsets), 1)
                return
        waiting.append(settlement(offsets))

    def settle_from(self, offset: int) -> None:
        for offsets in self.log.settle_from(offset):
            self._remember(offsets)
        for pushed in self._pushed:
            if pushed[2].start >= offset:
                self._early.append(pushed[2])
                self._remember(pushed[2])
        self._flusher.settled(self)

    def read(self, offset: int, size_max: int) -> list[Slice]:
        while True:
            found = self._read_log(offset, size_max)
            pieces = [piece for batch in found for piece in self._pieces(batch, offset)]
            if pieces:
                return pieces
            if not found:
                return self._read_waiting(offset, size_max)
            offset = found[-1].next_offset

    def fill(self, piece: Slice) -> None:
        wanted = piece.offsets
        by_offset: dict[int, bytes] = {}
        for _, contents, offsets, *_ in self._pushed:
            if offsets.start <= wanted[-1] and wanted[0] < offsets.stop:
                by_offset.update(zip(offsets, contents, strict=True))
        at = wanted[0]
        while at <= wanted[-1] and at not in by_offset and (found := self._read_log(at, 1)):
            for batch in found:
                run = records.decode(batch.payload, batch.count).run
                by_offset.update(
                    zip(
                        range(batch.base_offset, batch.next_offset),
                        run.contents,
                        strict=True,
                    )
                )
            at = found[-1].next_offset
        readable = next(
            (at for at, offset in enumerate(wanted) if offset not in by_offset),
            len(wanted),
        )
        piece.fill([by_offset[offset] for offset in wanted[:readable]])

    def handed_out(self, offset: int) -> None:
        if offset >= self._mark:
            if self._mark == self._noted_mark:
                self._flusher.settled(self)
            self._mark = offset + 1

    # ---- what the flusher asks for ----

    def to_journal(
        self,
        now_ms: int,
        batch_parts: list[bytes],
        settlement_parts: list[bytes],
    ) -> None:
        """Add the entries for what no journal holds yet."""
        log_id = self.log.id
        for group in _groups(self._pushed[self._journaled :]):
            payload = _encode(group)
            batch_parts.append(
                journal.batch_entry(
                    log_id,
                    group[0][2].start,
                    group[-1][2].stop - group[0][2].start,
                    batches.TRANSIENT if group[0][5] else 0,
                    now_ms,
                    _latest(group),
                    len(payload[0]) + len(payload[1]),
                )
            )
            batch_parts += payload
        self._journaled = len(self._pushed)
        self._note_mark()
        if len(self._settlements) > self._journaled_settlements:
            entries = self._settlements[self._journaled_settlements :]
            settlement_parts.append(journal.settlements_entry(log_id, entries))
            self._journaled_settlements = len(self._settlements)

    def for_files(self, *, journaled_only: bool, settlements: bool) -> tuple[list[Write], list[Write]]:
        """What waits, as writes to the log's files: first those of messages, then those of settlements.

        `journaled_only` takes what a journal holds and no more. Messages whose settlement a journal holds,
        too, are left out: not what was settled since, as the copy of a dead letter may not be safe yet.
        """
        settled = self._journaled_settled()
        if settlements and not journaled_only:
            self._note_mark()
        end = self._journaled if journaled_only else len(self._pushed)
        settled_end = self._journaled_settlements if journaled_only else len(self._settlements)
        if not settlements:
            settled_end = 0
        taken, self._pushed = self._pushed[:end], self._pushed[end:]
        entries, self._settlements = (
            self._settlements[:settled_end],
            self._settlements[settled_end:],
        )
        made = self._batches(taken, settled)
        self._journaled = 0
        self._journaled_settlements = max(0, self._journaled_settlements - settled_end)
        writes = self.log.write(made, entries)
        self._tell_early()
        return writes

    def _note_mark(self) -> None:
        """How far the queue has handed out goes along with the settlements."""
        if self._mark > self._noted_mark:
            self._noted_mark = self._mark
            self._settlements.append(Settlement(self._mark, 0, 0))

    def _tell_early(self) -> None:
        """The log has got messages that were settled before."""
        early, self._early = self._early, []
        waiting_from = self._pushed[0][2].start if self._pushed else None
        for offsets in early:
            cut = len(offsets) if waiting_from is None else count_before(offsets, waiting_from)
            if cut:
                self.log.mark_settled(offsets[:cut])
            if cut < len(offsets):
                self._early.append(offsets[cut:])

    def drop_settled(self) -> list[str]:
        return self.log.drop_settled()

    def drop_all(self) -> list[str]:
        """Files of all segments, if the whole log is settled; not while a journal holds something of it."""
        return [] if self._pushed or self._settlements else self.log.drop_all()

    # ---- batches ----

    def _journaled_settled(self) -> Settled | None:
        """Of what the journal took, the offsets that it also says to be settled."""
        entries = [entry for entry in self._settlements[: self._journaled_settlements] if entry.number]
        if not entries or not self._journaled:
            return None
        settled = Settled(self._pushed[0][2].start)
        for entry in entries:
            settled.add(entry.offsets)
        return settled

    def _batches(self, taken: list[Pushed], settled: Settled | None) -> list[Batch]:
        """As few batches as can be, without those of which all is settled."""
        if settled:
            taken = [pushed for pushed in taken if settled.unsettled(pushed[2].start, pushed[2].stop)]
        return [self._batch(group) for group in _groups(taken)]

    def _batch(self, group: list[Pushed]) -> Batch:
        first = group[0][2].start
        return batches.encode(
            first,
            group[-1][2].stop - first,
            _encode(group),
            attributes=batches.TRANSIENT if group[0][5] else 0,
            base_timestamp=self._now_ms(),
            max_timestamp=_latest(group),
        )

    def keep(self, batch: Batch, live: list[range]) -> list[Batch]:
        """Of a batch, new ones with the messages that live: called in a thread, when a segment is written anew."""
        run, expiries = records.decode(batch.payload, batch.count)
        made = []
        for offsets in live:
            part = slice(offsets.start - batch.base_offset, offsets.stop - batch.base_offset)
            contents = run.contents[part]
            envelopes = run.envelopes[part] if run.envelopes is not None else None
            made.append(
                batches.encode(
                    offsets.start,
                    len(contents),
                    records.encode(
                        envelopes[0] if envelopes else run.envelope,
                        contents,
                        run.body_size,
                        envelopes,
                        expiries[part] if expiries is not None else None,
                    ),
                    attributes=batch.attributes,
                    base_timestamp=batch.base_timestamp,
                    max_timestamp=batch.max_timestamp,
                )
            )
        return made

    def _settled_early(self, waiting: list[Pushed]) -> Settled | None:
        if not self._early or not waiting:
            return None
        first = waiting[0][2].start
        settled = Settled(first)
        for offsets in self._early:
            settled.add(offsets)
        return settled

    def _read_waiting(self, offset: int, size_max: int) -> list[Slice]:
        found: list[Slice] = []
        settled = self._settled_early(self._pushed)
        for envelope, contents, offsets, body_size, expires_at, _, envelopes, expiries in self._pushed:
            if offsets.stop <= offset:
                continue
            whole = Slice(envelope, contents, offsets, body_size, expires_at, True, -1, envelopes, expiries)
            first = max(offset, offsets.start)
            unsettled = settled.unsettled(first, offsets.stop) if settled else [range(first, offsets.stop)]
            for part in unsettled:
                found.append(whole.part(slice(part.start - offsets.start, part.stop - offsets.start)))
                size_max -= found[-1].size
            if size_max <= 0:
                break
        return found

    def _read_log(self, offset: int, size_max: int) -> list[Batch]:
        """From the files, without what is damaged."""
        while True:
            try:
                return self.log.read(offset, size_max)
            except CorruptLog as error:
                if not self.mend(error):
                    raise
            except OSError as error:  # what stands there may be well, and is not given up
                raise SyncFailed(f"queue {self.name}: cannot be read: {error.strerror}") from error

    def mend(self, error: CorruptLog) -> bool:
        """Go on without what is damaged, and say what that was; False if nothing was found to be."""
        report, lost = recovery.mend(self._files, self._reader, self.log, error)
        for line in (*report.cut, *report.damaged):
            logger.error("queue %s: %s", self.name, line)
        logger.error("queue %s: %d messages are lost to a damaged disk: %s", self.name, lost, error)
        return bool(report.damaged)

    def _pieces(self, batch: Batch, offset: int) -> list[Slice]:
        """The messages of a batch that wait still, from `offset` on."""
        whole = _slice(batch)
        found = []
        for unsettled in self.log.unsettled(batch):
            for offsets, redelivered in self._around_mark(unsettled):
                offsets = offsets[max(0, offset - offsets.start) :]
                if not offsets:
                    continue
                start = offsets.start - batch.base_offset
                piece = whole.part(slice(start, start + len(offsets)))
                piece.redelivered = redelivered
                found.append(piece)
        return found

    def _around_mark(self, offsets: range) -> list[tuple[range, bool]]:
        """What an earlier process may have handed out already, and what not."""
        mark = self._recovered_mark
        if offsets.start >= mark:
            return [(offsets, False)]
        before = mark - offsets.start
        return [(offsets[:before], True), (offsets[before:], False)]

    # ---- at start ----

    def live_size(self) -> int:
        """About how many octets of bodies the log holds: those of its file, for what is live of it."""
        return sum(
            segment.size * segment.live // segment.records for segment in self.log.segments if segment.records
        )

    def expiries(self) -> Iterator[tuple[int, range]]:
        """The batches that expire, if any do: when, and which offsets; ends when the queue is deleted."""
        for segment in self.log.segments:
            at = segment.base_offset
            while segment.max_timestamp and not self.closed and (found := self._read_log(at, _READ_SIZE)):
                for batch in found:
                    if batch.max_timestamp and batch.base_offset < segment.next_offset:
                        for at, moment in enumerate(_slice(batch).expiries or (), batch.base_offset):
                            yield moment, range(at, at + 1)
                at = found[-1].next_offset
                if at >= segment.next_offset:
                    break


def _slice(batch: Batch) -> Slice:
    """All messages of a batch."""
    run, expiries = records.decode(batch.payload, batch.count)
    offsets = range(batch.base_offset, batch.next_offset)
    expires_at = batch.max_timestamp
    if expiries is not None:
        expires_at = earliest(expiries)
    elif run.envelope.facts.expires:
        expiries = [expires_at] * batch.count
    return Slice(
        run.envelope,
        run.contents,
        offsets,
        run.body_size,
        expires_at,
        True,
        run.size,
        run.envelopes,
        expiries,
    )


def _groups(waiting: Iterable[Pushed]) -> list[list[Pushed]]:
    """What can be in one batch each; reading takes a batch whole, so that none gets much larger than a read."""
    groups: list[list[Pushed]] = []
    last: Pushed | None = None
    size = 0
    for pushed in waiting:
        if last is not None and size < _READ_SIZE and _goes_on(last, pushed):
            groups[-1].append(pushed)
        else:
            groups.append([pushed])
            size = 0
        size += sum(map(len, pushed[1]))
        last = pushed
    return groups


def _goes_on(last: Pushed, pushed: Pushed) -> bool:
    """Both can be in one batch."""
    return (
        pushed[2].start == last[2].stop
        and pushed[0].facts is last[0].facts
        and pushed[5] is last[5]
        and (pushed[7] is None) is (last[7] is None)
        and (pushed[4] == last[4] or pushed[7] is not None)
    )


def _encode(group: list[Pushed]) -> list[bytes]:
    """The payload of one batch, in pieces."""
    envelope, contents, _, body_size, _, _, envelopes, expiries = group[0]
    if len(group) > 1:
        contents = [content for pushed in group for content in pushed[1]]
        if any(pushed[3] != body_size for pushed in group):
            body_size = None
        if any(pushed[0] is not envelope or pushed[6] is not None for pushed in group):
            envelopes = [one for pushed in group for one in pushed[6] or [pushed[0]] * len(pushed[1])]
        if expiries is not None:
            expiries = [moment for pushed in group for moment in pushed[7] or ()]
    return records.encode(envelope, contents, body_size, envelopes, expiries)


def _latest(group: list[Pushed]) -> int:
    """When the last message of a batch expires; 0 is never."""
    return max([max(pushed[7]) if pushed[7] is not None else pushed[4] for pushed in group])
