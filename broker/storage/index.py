"""Where in a segment an offset or a time is, roughly: one entry for each 64 KiB.

Flow:   a log adds each batch it places; a reader starts at the position before its offset and walks.
Shape:  on disk, beside a sealed segment (`.index`), big endian:
        magic u32 "LVI2" | crc u32 of the rest | base offset u64 | next offset u64 | segment size u64
        | records u64 | max timestamp i64 | entry count u32 | offsets u64* | positions u64* | timestamps i64*
Limits: an entry for each 64 KiB of segment, so 256 for one of 16 MiB.
Why:    Never trusted: a file that does not fit its segment to the octet is made anew by a scan.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import google_crc32c

_INTERVAL = 64 * 1024
_MAGIC = 0x4C564932
_HEAD = struct.Struct(">II")
_FIGURES = struct.Struct(">QQQQqI")


class Index:
    """Offset to position, and time to position, ascending in each."""

    __slots__ = ("_offsets", "_positions", "_timestamps")

    def __init__(self) -> None:
        self._offsets = array("Q")
        self._positions = array("Q")
        self._timestamps = array("q")

    def add(self, offset: int, position: int, latest: int) -> None:
        """Note a batch, if it is far enough behind the last noted one; `latest` is the largest timestamp before it."""
        if not self._positions or position - self._positions[-1] >= _INTERVAL:
            self._offsets.append(offset)
            self._positions.append(position)
            self._timestamps.append(latest)

    def position(self, offset: int) -> int:
        """Of a batch at or before `offset`; 0 is the start of the segment."""
        entry = bisect_right(self._offsets, offset) - 1
        return self._positions[entry] if entry >= 0 else 0

    def latest_before(self, offset: int) -> int:
        """The largest timestamp before the position of `offset`; 0 if there is none."""
        entry = bisect_right(self._offsets, offset) - 1
        return self._timestamps[entry] if entry >= 0 else 0

    def position_of_time(self, timestamp: int) -> int:
        """Of a batch before which every timestamp is smaller; 0 is the start of the segment."""
        entry = bisect_left(self._timestamps, timestamp) - 1
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
    index = file.index
    body = _FIGURES.pack(
        file.base_offset,
        file.next_offset,
        file.size,
        file.records,
        file.max_timestamp,
        len(index._offsets),
    )
    for numbers in (index._offsets, index._positions, index._timestamps):
        body += _big_endian(numbers).tobytes()
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
    if base != base_offset or segment_size != size or len(body) != _FIGURES.size + count * 24:
        return None
    index = Index()
    at = _FIGURES.size
    columns = []
    for kind in "QQq":
        numbers = array(kind, body[at : at + count * 8])
        columns.append(_big_endian(numbers))
        at += count * 8
    index._offsets, index._positions, index._timestamps = columns
    return IndexFile(base, next_offset, segment_size, records, max_timestamp, index)


def _big_endian(numbers: array[int]) -> array[int]:
    """The numbers between the machine's order and the file's, in either direction."""
    swapped = array(numbers.typecode, numbers)
    if sys.byteorder == "little":
        swapped.byteswap()
    return swapped
