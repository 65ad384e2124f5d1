"""The logs of queues and partitions at start: opened one after another, with what the journal holds laid over them.

Flow:   the node opens each that its definitions name, then the journal goes, and then what they do not name.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from broker.storage import journal, recovery
from broker.storage.file import Files, Handles
from broker.storage.log import Log
from broker.storage.unsynced import Unsynced

logger = logging.getLogger("broker.node")


class RecoveredLogs:
    """What the last process has left."""

    def __init__(
        self, files: Files, reader: Handles, found: journal.JournalReport, known_id: Callable[[int], None]
    ) -> None:
        """`found` is what was in the journal; `known_id` hears of each log's id."""
        self._files = files
        self._reader = reader
        self._journal = found
        self._known_id = known_id
        self.unsynced = Unsynced()
        """Is synced before the journal goes."""
        self._by_log: dict[int, list[journal.Entry]] = {}
        for entry in found.entries:
            self._by_log.setdefault(entry.log_id, []).append(entry)
        for line in found.cut:
            logger.warning("journal: %s; nothing that was confirmed is missing", line)
        for line in found.damaged:
            logger.error("journal: %s", line)

    def open(
        self, id: int, directory: str, name: str, segment_size_max: int, syncs: bool, settles: bool = False
    ) -> Log:
        """The log in a directory; `name` is for whoever reads what was wrong with it."""
        log, report = recovery.open_log(
            self._files,
            self._reader,
            id,
            directory,
            segment_size_max=segment_size_max,
            journal=self._by_log.get(id, ()),
            settles=settles,
            syncs=syncs,
            later=self.unsynced,
        )
        missing = "nothing that was confirmed is missing" if syncs else "it was confirmed without a sync"
        for line in report.cut:
            logger.warning("%s: %s; %s", name, line, missing)
        for line in report.damaged:
            logger.error("%s: %s", name, line)
        self._known_id(id)
        return log

    def all_are_open(self, journal_directory: str) -> None:
        """They have what the journal held. Raises SyncFailed."""
        self.unsynced.sync(self._files)
        for path in self._journal.paths:
            self._files.remove(path)
        self._files.sync_directory(journal_directory)
        self._journal.entries.clear()
        self._by_log.clear()

    def remove_strangers(self, one: str, known: set[str]) -> None:
        """Queues and topics that did not outlive the last process may have left a log behind, beside `one`.

        New ones may get their numbers: so that they are gone must be safe, too.
        """
        directory = one.rpartition("/")[0]
        self._files.make_directory(directory)
        for name in self._files.names(directory):
            if name not in known:
                self._files.remove_directory(os.path.join(directory, name))
        self._files.sync_directory(directory)
