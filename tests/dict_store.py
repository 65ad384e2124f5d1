"""A queue's store that keeps everything in a dictionary, and complains about whoever uses it wrongly.

Fault model: `lose` takes messages away as a damaged disk does; `restarted` is what a process finds that
starts after this one was killed: transient messages are gone, what was handed out counts as redelivered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from broker.model.message import Slice


@dataclass(frozen=True)
class Kept:
    """One message."""

    envelope: Any
    content: bytes
    body_size: int | None
    expires_at: int
    transient: bool
    batch: int
    """The number of the append that it came with."""


class DictStore:
    def __init__(self) -> None:
        self.kept: dict[int, Kept] = {}
        """By offset: appended and not settled."""
        self.lost: set[int] = set()
        self.mark = 0
        """Every offset below it has been handed out."""
        self.reads: list[tuple[int, int]] = []
        """(offset, size_max) of each read."""
        self._redelivered_before = 0
        self._appends = 0
        self._next_offset = 0

    # ---- what a queue asks for ----

    def append(self, piece: Slice, transient: bool) -> None:
        assert piece.offsets.step == 1
        assert piece.offsets.start >= self._next_offset, "offsets rise"
        assert len(piece.contents) == len(piece.offsets)
        self._next_offset = piece.offsets.stop
        self._appends += 1
        envelopes = piece.envelopes or [piece.envelope] * len(piece)
        expiries = piece.expiries or [piece.expires_at] * len(piece)
        for offset, envelope, content, expires_at in zip(
            piece.offsets, envelopes, piece.contents, expiries, strict=True
        ):
            self.kept[offset] = Kept(envelope, content, piece.body_size, expires_at, transient, self._appends)

    def settle(self, offsets: range) -> None:
        for offset in offsets:
            assert offset in self.kept or offset in self.lost, (
                f"{offset} was settled twice, or never appended"
            )
            self.kept.pop(offset, None)

    def settle_from(self, offset: int) -> None:
        for kept in [kept for kept in self.kept if kept >= offset]:
            del self.kept[kept]

    def read(self, offset: int, size_max: int) -> list[Slice]:
        assert size_max > 0
        self.reads.append((offset, size_max))
        found: list[Slice] = []
        batch = 0
        for at in sorted(at for at in self.kept if at >= offset):
            kept = self.kept[at]
            if size_max <= 0 and kept.batch != batch:
                break
            redelivered = at < self._redelivered_before
            last = found[-1] if found else None
            if (
                last is not None
                and kept.batch == batch
                and last.offsets.stop == at
                and last.redelivered is redelivered
                and last.envelope is kept.envelope
                and last.expires_at == kept.expires_at
            ):
                found[-1] = last = self._slice(range(last.offsets.start, at + 1), redelivered)
            else:
                found.append(self._slice(range(at, at + 1), redelivered))
            batch = kept.batch
            size_max -= kept.envelope.measure([kept.content])
        return found

    def fill(self, piece: Slice) -> None:
        readable = 0
        for offset in piece.offsets:
            if offset not in self.kept:
                assert offset in self.lost, f"{offset} is asked for, and was settled"
                break
            readable += 1
        piece.fill([self.kept[offset].content for offset in piece.offsets[:readable]])

    def handed_out(self, offset: int) -> None:
        self.mark = max(self.mark, offset + 1)

    # ---- what a test asks for ----

    def _slice(self, offsets: range, redelivered: bool) -> Slice:
        first = self.kept[offsets.start]
        piece = Slice(
            first.envelope,
            [self.kept[offset].content for offset in offsets],
            offsets,
            first.body_size,
            first.expires_at,
            True,
        )
        piece.redelivered = redelivered
        if first.envelope.facts.expires:
            piece.expiries = [first.expires_at] * len(offsets)
        return piece

    def lose(self, offset: int) -> None:
        del self.kept[offset]
        self.lost.add(offset)

    def restarted(self) -> DictStore:
        store = DictStore()
        store.kept = {offset: kept for offset, kept in self.kept.items() if not kept.transient}
        store.mark = store._redelivered_before = self.mark
        store._appends, store._next_offset = self._appends, self._next_offset
        return store

    def expiries(self) -> list[tuple[int, range]]:
        """Of what is kept: when it expires, for whom that is a time of its own."""
        return [
            (kept.expires_at, range(offset, offset + 1))
            for offset, kept in sorted(self.kept.items())
            if kept.envelope.facts.expiration_ms is not None
        ]
