"""Walk over a segment's file that may be damaged: from batch to sound batch.

Flow:   recovery walks over files that it cannot believe, and over those in which a reader stumbled.
Limits: a piece of the file in memory, or two batches; from the first bad octet on the rest of it.
Why:    A payload may hold what looks like a batch, so that a batch must have an offset that is due there, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from broker.storage import batch as batches
from broker.storage.batch import Batch
from broker.storage.file import Handles
from broker.storage.segment import OFFSET_MAX, SEGMENT_OFFSETS_MAX

PIECE_SIZE: Final = 1024 * 1024


class Part(NamedTuple):
    """A sound batch, or octets that are none up to the next one."""

    at: int
    end: int
    batch: Batch | None
    reason: str = ""
    following: int | None = None
    """The base offset of the sound batch behind bad octets."""


def walk(reader: Handles, path: str, size: int, bounds: range) -> Iterator[Part]:
    """What lies in the first `size` octets of a segment's file, with offsets within `bounds`; it may be shorter.

    Where nobody knows the last of them, offsets cannot be far from each other.
    """
    window = _Window(reader, path, size)
    at, due = 0, bounds.start
    while at < window.size:
        where = window.hold(at)
        reason = _problem(window.octets, where, due, bounds)
        if not reason:
            batch = batches.decode(window.octets, where)
            part = Part(at, at + batch.size, batch)
            due = batch.next_offset
        elif at < window.size:
            rest = window.hold_rest(at)
            end = _next_sound(rest, 0, due, bounds)
            following = None if end is None else batches.span(rest, end).base_offset
            part = Part(at, at + (len(rest) if end is None else end), None, reason, following)
        else:  # it ends here, before it should
            return
        yield part
        at = part.end


class _Window:
    """A piece of a file."""

    __slots__ = ("_begin", "_path", "_reader", "octets", "size")

    def __init__(self, reader: Handles, path: str, size: int) -> None:
        self._reader = reader
        self._path = path
        self._begin = 0
        self.octets = b""
        self.size = size
        """Of the file, as far as is known."""

    def hold(self, at: int) -> int:
        """Have the batch at `at` here whole, and the next one, if the file has them; returns where it starts."""
        where = at - self._begin
        if self._has_two(where):
            return where
        want = PIECE_SIZE
        self._load(at, want)
        while not self._has_two(0):
            want *= 2
            self._load(at, want)
        return 0

    def hold_rest(self, at: int) -> bytes:
        """Have everything here from `at` on."""
        self._load(at, self.size - at)
        return self.octets

    def _has_two(self, where: int) -> bool:
        octets = self.octets
        if self._begin + len(octets) >= self.size:
            return True
        for _ in range(2):
            size = batches.whole_size(octets, where)
            where += size
            if not size or where > len(octets):
                return False
        return True

    def _load(self, at: int, size: int) -> None:
        size = min(size, self.size - at)
        self._begin, self.octets = at, self._reader.read(self._path, at, size)
        if len(self.octets) < size:
            self.size = at + len(self.octets)


def _problem(octets: bytes, at: int, due: int, bounds: range) -> str:
    """Of a batch in a segment with these offsets.

    A body may hold what looks like a batch, with any offset: behind a torn header it would be found.
    """
    if reason := batches.problem(octets, at):
        return reason
    span = batches.span(octets, at)
    if span.base_offset < due:
        return f"base offset {span.base_offset} where at least {due} is due"
    far = due > bounds.start and span.base_offset - due > SEGMENT_OFFSETS_MAX
    if span.next_offset > bounds.stop or (far and bounds.stop == OFFSET_MAX):
        return f"base offset {span.base_offset} where {due} or little more is due"
    if span.base_offset > due and _goes_back(octets, at + span.size, range(due, span.next_offset)):
        return f"base offset {span.base_offset} where {due} is due, and the next one is less"
    return ""


def _goes_back(octets: bytes, at: int, offsets: range) -> bool:
    """Whether a sound batch has one of these offsets, so that the one before it has a wrong one: no crc covers that."""
    if len(octets) - at < batches.HEADER_SIZE or batches.span(octets, at).base_offset not in offsets:
        return False
    return not batches.problem(octets, at)


def _next_sound(octets: bytes, at: int, due: int, bounds: range) -> int | None:
    """Where the next batch is behind bad octets.

    Mostly their length is sound, and says where: what looks like a batch in their payload is passed over.
    """
    end = at + batches.whole_size(octets, at)
    if end == len(octets):
        return None
    if at < end < len(octets) and not _problem(octets, end, due, bounds):
        return end
    found = batches.next_whole(octets, at)
    while found is not None and _problem(octets, found, due, bounds):
        found = batches.next_whole(octets, found)
    return found
