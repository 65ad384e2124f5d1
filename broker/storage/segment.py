"""One file of a log, and what is known of it.

Flow:   a log owns segments; recovery makes them from files.
Shape:  `<base offset, 20 digits>.log` holds batches one after another; beside it `.settled` holds what
        was settled of them and, once sealed, `.index` where they are. `ls` sorts them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.storage.batch import Batch
from broker.storage.index import Index
from broker.storage.settlements import Settled

LOG_SUFFIX = ".log"
INDEX_SUFFIX = ".index"
SETTLED_SUFFIX = ".settled"
REWRITE_SUFFIX = ".rewrite"
CUT_SUFFIX = ".cut"


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
    """Records that are not settled."""
    max_timestamp: int = 0
    settled_size: int = 0
    """Octets of the `.settled` file."""
    sealed: bool = False
    rewriting: bool = False
    """A thread writes it anew: it must stay until that is done."""
    index: Index = field(default_factory=Index)
    settled: Settled = field(init=False)

    def __post_init__(self) -> None:
        self.settled = Settled(self.base_offset)

    def path(self, suffix: str) -> str:
        return f"{self.directory}/{self.base_offset:020d}{suffix}"

    def add(self, batch: Batch) -> None:
        """Give a batch its place in the file."""
        self.index.add(batch.base_offset, self.size)
        self.size += batch.size
        self.next_offset = batch.next_offset
        self.max_timestamp = max(self.max_timestamp, batch.max_timestamp)
        self.live += batch.count
        if not batch.transient:
            self.records += batch.count
