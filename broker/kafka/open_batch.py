"""The records of one batch, one after another, of which no more is kept inflated than a piece.

Flow:   the owner gives `read`, which says what the inflated records are from some byte on, and takes records.
Limits: a piece is as large as `read` makes it, or as the record that it begins with. A record above `size_max` is
        passed over, and never whole in memory.
Why:    A batch of a few kilobytes may have 100 MiB of records, and be open in a thousand consumers that take one
        at a time. `records.iterate` is the plain form, for where a batch is opened and closed again at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from broker.kafka.records import BatchHeader, Record, invalid, read_record, read_varint

# Of a record, its size; and what comes before its key.
_SIZE_MAX: Final = 5
_HEAD_MAX: Final = _SIZE_MAX + 1 + 10 + 5


class OversizedRecord(NamedTuple):
    """A record that was passed over."""

    offset: int
    size: int
    """Bytes, with its key and its headers."""


class OpenBatch:
    """Records of the batch with this header."""

    __slots__ = ("_at", "_before", "_left", "_offset_min", "_read", "_size_max", "header", "piece")

    def __init__(self, header: BatchHeader, read: Callable[[int, int], bytes], size_max: int) -> None:
        """`read(start, size)` returns so many inflated bytes, or more, and fewer only at the end."""
        self.header = header
        self._read = read
        self._size_max = size_max
        self._left = header.count
        self._offset_min = header.base_offset
        self.piece = b""
        """What is kept inflated: the records that come next."""
        self._before = 0
        """Inflated bytes before the piece."""
        self._at = 0

    def next(self) -> Record | OversizedRecord | None:
        """None behind the last one. Raises RecordProblem, and what `read` raises: then another call asks it again."""
        if not self._left:
            return None
        header = self.header
        found: Record | OversizedRecord
        try:
            size, start = read_varint(self._have(_SIZE_MAX), self._at)
            if size > self._size_max:
                found, end = self._oversized()
            else:
                found, end = read_record(header, self._have(start - self._at + size), self._at)
        except IndexError:
            raise invalid(f"{header.count} records in {self._before + len(self.piece)} octets") from None
        offset_max = header.base_offset + header.last_offset_delta
        if not self._offset_min <= found.offset <= offset_max:
            raise invalid(f"offset {found.offset} where one from {self._offset_min} to {offset_max} comes")
        self._left -= 1
        self._offset_min = found.offset + 1
        self._at = end
        if end >= len(self.piece) or not self._left:
            self._before += end
            self.piece = b""
            self._at = 0
        return found

    def _have(self, size: int) -> bytes:
        """The piece, with so many bytes from `_at` on if there are."""
        if len(self.piece) - self._at < size:
            self._before += self._at
            self._at = 0
            self.piece = b""
            self.piece = self._read(self._before, size)
        return self.piece

    def _oversized(self) -> tuple[OversizedRecord, int]:
        """The record at `_at`, and where it ends in the piece or behind it."""
        piece = self._have(_HEAD_MAX)
        size, start = read_varint(piece, self._at)
        _, at = read_varint(piece, start + 1)
        delta, _ = read_varint(piece, at)
        return OversizedRecord(self.header.base_offset + delta, size), start + size
