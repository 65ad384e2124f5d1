"""Which offsets of a segment are settled, in memory and on disk.

Flow:   a log adds the offsets its owner settled; recovery reads them back; a reader passes them over.
Shape:  on disk (`.settled`, and in the journal), big endian, blocks of
        crc u32 of the rest of the block | entry count u32 | (first offset u64 | number u32 | step u32)*
        An entry with number 0 is no settlement but the owner's mark: every offset below `first` has
        been handed out at least once.
Limits: an octet of memory for each offset between the first that is not settled and the last that is.
        A search for the next whole block behind a damaged one looks at 1 MiB.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import google_crc32c

_BLOCK = struct.Struct(">II")
_ENTRY = struct.Struct(">QII")
_SEARCH_MAX = 1024 * 1024


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
    assert entries
    body = len(entries).to_bytes(4) + encode_entries(entries)
    crc: int = google_crc32c.value(body)
    return crc.to_bytes(4) + body


class Blocks(NamedTuple):
    """What stands in a file of settlements."""

    entries: list[Settlement]
    """Of all whole blocks."""
    damaged: list[range]
    """The octets between whole blocks that are none."""
    size: int
    """Where the last whole block ends."""


def decode_blocks(octets: bytes) -> Blocks:
    entries: list[Settlement] = []
    damaged: list[range] = []
    at = size = 0
    while at < len(octets):
        end = _block_end(octets, at)
        if end:
            entries.extend(decode_entries(octets[at + _BLOCK.size : end]))
            at = size = end
            continue
        places = range(at + 1, min(len(octets), at + _SEARCH_MAX))
        following = next((place for place in places if _block_end(octets, place)), None)
        if following is None:
            break
        damaged.append(range(at, following))
        at = following
    return Blocks(entries, damaged, size)


def _block_end(octets: bytes, at: int) -> int:
    """Where the block that starts here ends; 0 if none does."""
    if len(octets) - at < _BLOCK.size:
        return 0
    crc, count = _BLOCK.unpack_from(octets, at)
    end: int = at + _BLOCK.size + count * _ENTRY.size
    if not count or end > len(octets) or google_crc32c.value(octets[at + 4 : end]) != crc:
        return 0
    return end


class Settled:
    """The settled offsets of one segment.

    Mostly they are a prefix, as consumers acknowledge in order; then one number says it all. What was
    settled behind the first offset that is not is an octet in `_beyond`, which starts at that offset.
    """

    __slots__ = ("_beyond", "_prefix_end")

    def __init__(self, base_offset: int) -> None:
        self._prefix_end = base_offset
        self._beyond = bytearray()

    def add(self, offsets: range) -> int:
        """Note them; returns how many had not been settled before."""
        if offsets.step == 1 and offsets.start <= self._prefix_end:
            return self._extend(offsets.stop - self._prefix_end)
        offsets = offsets[count_before(offsets, self._prefix_end) :]
        if not offsets:
            return 0
        beyond = self._beyond
        start = offsets.start - self._prefix_end
        stop = offsets[-1] + 1 - self._prefix_end
        if len(beyond) < stop:
            beyond.extend(bytes(stop - len(beyond)))
        count = len(offsets)
        new = count - beyond[start : stop : offsets.step].count(1)
        beyond[start : stop : offsets.step] = b"\1" * count
        if not start:
            self._catch_up()
        return new

    def _extend(self, count: int) -> int:
        """The next `count` offsets behind the prefix are settled; returns how many had not been."""
        if count <= 0:
            return 0
        self._prefix_end += count
        beyond = self._beyond
        if not beyond:
            return count
        known = beyond.count(1, 0, count)
        del beyond[:count]
        self._catch_up()
        return count - known

    def _catch_up(self) -> None:
        """What was settled beyond the prefix may be a part of it now."""
        count = self._beyond.find(0)
        if count < 0:
            count = len(self._beyond)
        if count:
            del self._beyond[:count]
            self._prefix_end += count

    def unsettled(self, first: int, stop: int) -> list[range]:
        """The offsets from `first` to before `stop` that are not settled, as ascending ranges."""
        base = self._prefix_end
        first = max(first, base)
        beyond = self._beyond
        if not beyond:
            return [range(first, stop)] if first < stop else []
        found = []
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
