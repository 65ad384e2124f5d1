"""The end of a partition in memory: what no file has yet, and before that the newest of what the files have.

Flow:   a partition adds what is appended, reads here what is here, and lets go of the oldest.
Limits: a part of a request that was kept would keep all of it: it is copied unless it is most of that.
Why:    Most consumers are at the end, and need no file.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from itertools import islice
from typing import Final

from broker.storage.batch import Batch

_COPIED_SHARE: Final = 2
_TAIL_SIZE: Final = 128 * 1024
_TAILS_SIZE: Final = 256 * 1024 * 1024


class TailLimit:
    """What the files have of each partition as well has its end in memory: so much of it, and so much of all."""

    __slots__ = ("size_max",)

    def __init__(self) -> None:
        self.size_max = _TAIL_SIZE

    def share(self, partitions: int) -> None:
        self.size_max = min(_TAIL_SIZE, _TAILS_SIZE // max(partitions, 1))


class Tail:
    """Batches, ascending and without gaps between them."""

    __slots__ = ("_batches", "size")

    def __init__(self) -> None:
        self._batches: deque[Batch] = deque()
        self.size = 0
        """Octets."""

    def add(self, batch: Batch) -> None:
        self._batches.append(batch)
        self.size += batch.size

    def has(self, offset: int) -> bool:
        """Whether `offset` and everything behind it is here."""
        return bool(self._batches) and offset >= self._batches[0].base_offset

    def let_go(self, size_max: int, before: int) -> None:
        """Of the oldest, down to this size, of what lies before this offset."""
        batches = self._batches
        while batches and self.size > size_max and batches[0].base_offset < before:
            self.size -= batches.popleft().size

    def batches(self, offset: int, size_max: int, below: int) -> list[Batch]:
        """Those that reach behind `offset` and begin before `below`, the first one whatever its size."""
        found: list[Batch] = []
        at = max(bisect_right(self._batches, offset, key=_base_offset) - 1, 0)
        for batch in islice(self._batches, at, None):
            if batch.next_offset <= offset:
                continue
            if batch.base_offset >= below or (found and batch.size > size_max):
                break
            found.append(batch)
            size_max -= batch.size
        return found


def owned(octets: bytes | memoryview) -> bytes | memoryview:
    """The same, in a way that does not keep much else in memory."""
    if isinstance(octets, memoryview) and isinstance(octets.obj, bytes):
        return bytes(octets) if len(octets) * _COPIED_SHARE < len(octets.obj) else octets
    return octets


def octets_of(batches: list[Batch]) -> bytes:
    return b"".join([buffer for batch in batches for buffer in batch.buffers])


def _base_offset(batch: Batch) -> int:
    return batch.base_offset
