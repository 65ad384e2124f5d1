"""A queue's messages on disk: the model's `Store` over a log.

Flow:   a queue appends and settles; what it appended waits here until the flusher starts a commit, and
        is then made into batches, so that one batch holds what many passes brought.
Limits: what waits here is at most what comes in while one sync runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from broker.model.message import Run, Slice
from broker.node import records
from broker.storage import batch as batches
from broker.storage import recovery
from broker.storage.batch import Batch
from broker.storage.errors import CorruptLog
from broker.storage.file import Files, Handles
from broker.storage.log import Log

if TYPE_CHECKING:
    from broker.node.flusher import Flusher

logger = logging.getLogger("broker.node")


class _Pushed(NamedTuple):
    run: Run
    contents: list[bytes]
    offsets: range
    expires_at: int
    transient: bool

    def goes_on_from(self, last: _Pushed) -> bool:
        """It can be in one batch with what came before."""
        return (
            self.run.facts is last.run.facts
            and self.run.routing_key == last.run.routing_key
            and self.run.exchange == last.run.exchange
            and self.expires_at == last.expires_at
            and self.transient == last.transient
            and self.offsets.start == last.offsets.stop
            and _frames_of(self.run) == _frames_of(last.run)
        )


def _frames_of(run: Run) -> tuple[int, int, int | None]:
    """What else a batch says once for all its contents."""
    return run.channel, run.frame_max, run.body_size  # type: ignore[attr-defined]


class QueueStore:
    """One queue's log, and what is to go there."""

    def __init__(
        self, name: str, log: Log, files: Files, reader: Handles, flusher: Flusher, now_ms: Callable[[], int]
    ) -> None:
        self.name = name
        self.log = log
        self.closed = False
        self._files = files
        self._reader = reader
        self._flusher = flusher
        self._now_ms = now_ms
        self._pushed: list[_Pushed] = []
        # What an earlier process handed out or left behind as transient lies before this.
        self._recovered_mark = log.mark
        self._recovered_end = log.next_offset

    # ---- what a queue asks for ----

    def append(
        self, run: Run, contents: list[bytes], offsets: range, expires_at: int, transient: bool
    ) -> None:
        self._pushed.append(_Pushed(run, contents, offsets, expires_at, transient))
        self._flusher.appended(self)

    def settle(self, offsets: range) -> None:
        if self._pushed and offsets[-1] >= self._pushed[0].offsets.start:
            self.seal()
        self.log.settle(offsets)
        self._flusher.settled(self)

    def settle_from(self, offset: int) -> None:
        self.seal()
        at = offset
        while pieces := self.read(at, 1 << 20):
            for piece in pieces:
                self.log.settle(piece.offsets)
            at = pieces[-1].offsets[-1] + 1
        self._flusher.settled(self)

    def read(self, offset: int, size_max: int) -> list[Slice]:
        self.seal()
        while True:
            found = self._read_batches(offset, size_max)
            pieces = [piece for batch in found for piece in self._pieces(batch, offset)]
            if pieces or not found:
                return pieces
            offset = found[-1].next_offset

    def fill(self, piece: Slice) -> None:
        wanted = piece.offsets
        by_offset: dict[int, bytes] = {}
        at = wanted[0]
        while at <= wanted[-1] and (found := self._read_batches(at, 1)):
            for batch in found:
                run = records.decode(batch.payload, batch.count)
                by_offset.update(zip(range(batch.base_offset, batch.next_offset), run.contents, strict=True))
            at = found[-1].next_offset
        whole = next((at for at, offset in enumerate(wanted) if offset not in by_offset), len(wanted))
        piece.offsets = wanted[:whole] or wanted[:1]
        piece.contents = [by_offset[offset] for offset in wanted[:whole]]
        if whole:
            piece.size = piece.run.measure(piece.contents)

    def handed_out(self, offset: int) -> None:
        if offset >= self.log.mark:
            self.log.mark = offset + 1

    # ---- at start ----

    def live_size(self) -> int:
        """About how many octets of bodies the log holds: those of its file, for what is live of it."""
        return sum(
            segment.planned_size * segment.live // segment.records
            for segment in self.log.segments
            if segment.records
        )

    def expiries(self) -> Iterator[tuple[int, range]]:
        """The batches that expire, if any do: when, and which offsets."""
        for segment in self.log.segments:
            at = segment.base_offset
            while segment.max_timestamp and (found := self._read_batches(at, 1 << 20)):
                for batch in found:
                    if batch.max_timestamp and batch.base_offset < segment.next_offset:
                        yield batch.max_timestamp, range(batch.base_offset, batch.next_offset)
                at = found[-1].next_offset
                if at >= segment.next_offset:
                    break

    # ---- batches ----

    def seal(self) -> None:
        """Make batches of what was appended."""
        if not self._pushed:
            return
        pushed, self._pushed = self._pushed, []
        group = [pushed[0]]
        for one in pushed[1:]:
            if one.goes_on_from(group[-1]):
                group.append(one)
            else:
                self._append_batch(group)
                group = [one]
        self._append_batch(group)

    def _append_batch(self, group: list[_Pushed]) -> None:
        first = group[0]
        contents = first.contents
        if len(group) > 1:
            contents = [content for one in group for content in one.contents]
        self.log.append(
            batches.encode(
                first.offsets.start,
                len(contents),
                records.encode(first.run, contents),
                attributes=batches.TRANSIENT if first.transient else 0,
                base_timestamp=self._now_ms(),
                max_timestamp=first.expires_at,
            )
        )

    def _read_batches(self, offset: int, size_max: int) -> list[Batch]:
        """From the log; what is damaged is taken out and said."""
        while True:
            try:
                return self.log.read(offset, size_max)
            except CorruptLog as error:
                report, lost = recovery.mend(self._files, self._reader, self.log, error)
                for line in (*report.cut, *report.damaged):
                    logger.error("queue %s: %s", self.name, line)
                logger.error("queue %s: %d messages are lost to a damaged disk: %s", self.name, lost, error)

    def _pieces(self, batch: Batch, offset: int) -> list[Slice]:
        """The messages of a batch that wait still, from `offset` on."""
        if batch.transient and batch.base_offset < self._recovered_end:
            return []
        run = records.decode(batch.payload, batch.count)
        found = []
        for whole in self.log.unsettled(batch):
            for offsets, redelivered in self._around_mark(whole):
                offsets = offsets[max(0, offset - offsets.start) :]
                if not offsets:
                    continue
                start = offsets.start - batch.base_offset
                contents = run.contents[start : start + len(offsets)]
                piece = Slice(
                    run, contents, offsets, run.measure(contents), batch.max_timestamp, stored=True
                )
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
