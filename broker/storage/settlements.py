"""Which offsets of a segment are settled, in memory and on disk.

Flow:   a log adds the offsets its owner settled; recovery reads them back; a reader passes them over.
Shape:  on disk (`.settled`, and in the journal), big endian, blocks of
        crc u32 of the rest of the block | entry count u32 | (first offset u64 | number u32 | step u32)*
        An entry with number 0 is no settlement but the owner's mark: every offset below `first` has
        been handed out at least once.
Limits: an octet of memory for each offset of a segment that was settled out of order; none otherwise.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import google_crc32c

_BLOCK = struct.Struct(">II")
_ENTRY = struct.Struct(">QII")


class Settlement(NamedTuple):
    """The offsets `first`, `first + step`, ... , `number` of them; or, with number 0, the mark `first`."""

    first: int
    number: int
    step: int

    @property
    def offsets(self) -> range:
        return range(self.first, self.first + self.number * self.step, self.step or 1)


def settlement(offsets: range) -> Settlement:
    return Settlement(offsets.start, len(offsets), offsets.step)


def count_before(offsets: range, stop: int) -> int:
    """How many of the offsets lie before `stop`."""
    if stop <= offsets.start:
        return 0
    return len(range(offsets.start, min(stop, offsets.stop), offsets.step))


def encode_entries(entries: Iterable[Settlement]) -> bytes:
    return b"".join([_ENTRY.pack(*entry) for entry in entries])


def decode_entries(octets: bytes) -> Iterator[Settlement]:
    return map(Settlement._make, _ENTRY.iter_unpack(octets))


def encode_block(entries: Sequence[Settlement]) -> bytes:
    body = len(entries).to_bytes(4) + encode_entries(entries)
    crc: int = google_crc32c.value(body)
    return crc.to_bytes(4) + body


def decode_blocks(octets: bytes) -> tuple[list[Settlement], int]:
    """The entries of all whole blocks, and how many octets they take."""
    entries: list[Settlement] = []
    at = 0
    while len(octets) - at >= _BLOCK.size:
        crc, count = _BLOCK.unpack_from(octets, at)
        start = at + _BLOCK.size
        end = start + count * _ENTRY.size
        if end > len(octets) or google_crc32c.value(octets[at + 4 : end]) != crc:
            break
        entries.extend(decode_entries(octets[start:end]))
        at = end
    return entries, at


class Settled:
    """The settled offsets of one segment.

    Mostly they are a prefix, as consumers acknowledge in order; then one number says it all. What was
    settled beyond the prefix is an octet in `_beyond`, which starts at the segment's base offset.
    """

    __slots__ = ("_base", "_beyond", "_prefix_end")

    def __init__(self, base_offset: int) -> None:
        self._base = base_offset
        self._prefix_end = base_offset
        self._beyond: bytearray | None = None

    def add(self, offsets: range) -> int:
        """Note them; returns how many had not been settled before."""
        if self._beyond is None:
            if offsets.step == 1 and offsets.start <= self._prefix_end:
                new = max(0, offsets.stop - self._prefix_end)
                self._prefix_end += new
                return new
            self._beyond = bytearray(b"\1" * (self._prefix_end - self._base))
        beyond = self._beyond
        start = offsets.start - self._base
        stop = offsets[-1] + 1 - self._base
        if len(beyond) < stop:
            beyond.extend(bytes(stop - len(beyond)))
        count = len(offsets)
        new = count - beyond[start : stop : offsets.step].count(1)
        beyond[start : stop : offsets.step] = b"\1" * count
        return new

    def __bool__(self) -> bool:
        return self._beyond is not None or self._prefix_end > self._base

    def __contains__(self, offset: int) -> bool:
        if self._beyond is None:
            return offset < self._prefix_end
        at = offset - self._base
        return at < len(self._beyond) and self._beyond[at] == 1

    def unsettled(self, first: int, stop: int) -> list[range]:
        """The offsets from `first` to before `stop` that are not settled, as ascending ranges."""
        if self._beyond is None:
            first = max(first, self._prefix_end)
            return [range(first, stop)] if first < stop else []
        found = []
        beyond, base = self._beyond, self._base
        at, end = first - base, stop - base
        while at < end:
            start = beyond.find(0, at, end)
            if start < 0:
                start = max(at, len(beyond))
                if start < end:
                    found.append(range(start + base, end + base))
                break
            at = beyond.find(1, start, end)
            if at < 0:
                at = end
            found.append(range(start + base, at + base))
        return found
