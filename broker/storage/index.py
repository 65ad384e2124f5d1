"""Where in a segment an offset is, roughly: one entry for each 64 KiB.

Flow:   a log adds each batch it places; a reader starts at the position before its offset and walks.
Shape:  on disk, beside a sealed segment (`.index`), big endian:
        magic u32 "LVIX" | crc u32 of the rest | base offset u64 | next offset u64 | segment size u64
        | records u64 | max timestamp i64 | entry count u32 | offsets u64* | positions u64*
Limits: an entry for each 64 KiB of segment, so 256 for one of 16 MiB.
Why:    Never trusted: a file that does not fit its segment to the octet is made anew by a scan.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_right
from dataclasses import dataclass

import google_crc32c

_INTERVAL = 64 * 1024
_MAGIC = 0x4C564958
_HEAD = struct.Struct(">II")
_FIGURES = struct.Struct(">QQQQqI")


class Index:
    """Offset to position, ascending in both."""

    __slots__ = ("_offsets", "_positions")

    def __init__(self) -> None:
        self._offsets = array("Q")
        self._positions = array("Q")

    def add(self, offset: int, position: int) -> None:
        """Note a batch, if it is far enough behind the last noted one."""
        if not self._positions or position - self._positions[-1] >= _INTERVAL:
            self._offsets.append(offset)
            self._positions.append(position)

    def position(self, offset: int) -> int:
        """Of a batch at or before `offset`; 0 is the start of the segment."""
        entry = bisect_right(self._offsets, offset) - 1
        return self._positions[entry] if entry >= 0 else 0


@dataclass(slots=True, eq=False)
class IndexFile:
    """What stands in an index file."""

    base_offset: int
    next_offset: int
    size: int
    records: int
    """Records in the segment, those not counted that do not outlive their process."""
    max_timestamp: int
    index: Index


def encode(file: IndexFile) -> bytes:
    offsets, positions = file.index._offsets, file.index._positions
    body = _FIGURES.pack(
        file.base_offset,
        file.next_offset,
        file.size,
        file.records,
        file.max_timestamp,
        len(offsets),
    )
    body += _big_endian(offsets).tobytes() + _big_endian(positions).tobytes()
    return _HEAD.pack(_MAGIC, google_crc32c.value(body)) + body


def decode(octets: bytes, base_offset: int, size: int) -> IndexFile | None:
    """The index of the segment with this base offset and size; None if the octets are not that."""
    if len(octets) < _HEAD.size + _FIGURES.size:
        return None
    magic, crc = _HEAD.unpack_from(octets)
    body = octets[_HEAD.size :]
    if magic != _MAGIC or google_crc32c.value(body) != crc:
        return None
    base, next_offset, segment_size, records, max_timestamp, count = _FIGURES.unpack_from(body)
    if base != base_offset or segment_size != size or len(body) != _FIGURES.size + count * 16:
        return None
    index = Index()
    middle = _FIGURES.size + count * 8
    index._offsets.frombytes(body[_FIGURES.size : middle])
    index._positions.frombytes(body[middle:])
    index._offsets = _big_endian(index._offsets)
    index._positions = _big_endian(index._positions)
    return IndexFile(base, next_offset, segment_size, records, max_timestamp, index)


def _big_endian(numbers: array[int]) -> array[int]:
    """The numbers between the machine's order and the file's, in either direction."""
    swapped = array("Q", numbers)
    if sys.byteorder == "little":
        swapped.byteswap()
    return swapped
