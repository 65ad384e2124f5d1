"""One file of a log, and what is known of it.

Flow:   a log owns segments; recovery makes them from files.
Shape:  `<base offset, 20 digits>.log` holds batches one after another; beside it `.settled` holds what
        was settled of them and, once sealed, `.index` where they are. `ls` sorts them. `.rewrite` is a
        file that is not finished yet, `.joined` says that it is and which segments it replaces, `.cut` is what
        recovery took out. A partition has `.producers` beside, too:
        what was known of its producers before this segment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from broker.storage.batch import Batch
from broker.storage.index import Index
from broker.storage.settlements import Settled

SEGMENT_SIZE_MAX: Final = 16 * 1024 * 1024
SEGMENT_OFFSETS_MAX: Final = 1 << 20
# More than a log ever gets to: a million messages a second for 100,000 years.
OFFSET_MAX: Final = 1 << 62

LOG_SUFFIX = ".log"
INDEX_SUFFIX = ".index"
SETTLED_SUFFIX = ".settled"
REWRITE_SUFFIX = ".rewrite"
JOINED_SUFFIX = ".joined"
CUT_SUFFIX = ".cut"
PRODUCERS_SUFFIX = ".producers"
# Files that are of no use without the segment.
COMPANION_SUFFIXES = (INDEX_SUFFIX, SETTLED_SUFFIX, PRODUCERS_SUFFIX)
_BASE = re.compile("[0-9]{20}")


@dataclass(slots=True, eq=False)
class Segment:
    """The batches with offsets from `base_offset` to before `next_offset`."""

    directory: str
    base_offset: int
    next_offset: int
    size: int = 0
    """Octets of the file, those counted that are being written."""
    readable_size: int = 0
    """Octets of the file that are there."""
    records: int = 0
    """Records in the segment, those not counted that do not outlive their process."""
    live: int = 0
    """Offsets that are not settled; those that no batch has count as settled."""
    max_timestamp: int = 0
    sealed_ms: int = 0
    """When its owner saw that it is full; 0 if that is not known."""
    settled_size: int = 0
    """Octets of the `.settled` file."""
    sealed: bool = False
    rewriting: bool = False
    """A thread writes it anew: it must stay until that is done."""
    unsynced: bool = False
    """The end of the file may be in memory only: transient, or left so by a process that was killed."""
    unnamed: bool = True
    """The file's name may be in memory only."""
    settled_unsynced: bool = False
    settled_unnamed: bool = True
    """The same of the `.settled` file."""
    damage: list[range] = field(default_factory=list)
    """Octets that reading passes over, ascending."""
    index: Index = field(default_factory=Index)
    settled: Settled = field(init=False)
    log_path: str = field(init=False)

    def __post_init__(self) -> None:
        self.settled = Settled(self.base_offset)
        self.log_path = self.path(LOG_SUFFIX)

    def path(self, suffix: str) -> str:
        return f"{self.directory}/{self.base_offset:020d}{suffix}"

    def add(self, batch: Batch) -> None:
        """Give a batch its place in the file."""
        if batch.base_offset > self.next_offset:
            self.settled.add(range(self.next_offset, batch.base_offset))
        self.index.add(batch.base_offset, self.size, self.max_timestamp)
        self.size += batch.size
        self.next_offset = batch.next_offset
        self.max_timestamp = max(self.max_timestamp, batch.max_timestamp)
        self.live += batch.next_offset - batch.base_offset
        if not batch.transient:
            self.records += batch.count

    def settle(self, offsets: range) -> int:
        """Count offsets of this segment as settled; returns how many were not."""
        new = self.settled.add(offsets)
        self.live -= new
        return new

    def sound_part(self, position: int) -> range:
        """The octets that can be read at or behind a position, up to the next damage."""
        for damaged in self.damage:
            if position < damaged.start:
                return range(position, damaged.start)
            position = max(position, damaged.stop)
        return range(position, self.readable_size)


def base_of(name: str, suffix: str) -> int | None:
    """The base offset in a file's name; None for a file of another kind."""
    base = name.removesuffix(suffix)
    return int(base) if name.endswith(suffix) and _BASE.fullmatch(base) else None
