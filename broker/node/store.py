"""What the flusher asks of whoever has a log: queues' and partitions' stores."""

from __future__ import annotations

from typing import Protocol

from broker.storage.batch import Batch
from broker.storage.errors import CorruptLog
from broker.storage.log import Log
from broker.storage.write import Write


class Store(Protocol):
    """Something that waits for its log's files, or for the journal."""

    name: str
    """For whoever reads the log lines."""
    log: Log
    closed: bool
    """It is deleted: nothing of it is written any more."""
    journal_number: int
    """The newest journal that holds something of it; 0 is none."""

    def to_journal(self, now_ms: int, batch_parts: list[bytes], settlement_parts: list[bytes]) -> None:
        """Add the entries for what no journal holds yet."""
        ...

    def for_files(self, *, journaled_only: bool, settlements: bool) -> tuple[list[Write], list[Write]]:
        """What waits, as writes to the log's files: first those of messages, then those of settlements."""
        ...

    def drop_settled(self) -> list[str]:
        """Files of the sealed segments of which nothing is of use any more."""
        ...

    def drop_all(self) -> list[str]:
        """Files of all segments, if nothing in the log is of use any more."""
        ...

    def keep(self, batch: Batch, live: list[range]) -> list[Batch]:
        """What stays of a batch when its segment is written anew: called in a thread."""
        ...

    def mend(self, error: CorruptLog) -> bool:
        """Go on without what is damaged, and say what that was; False if nothing was found to be."""
        ...
