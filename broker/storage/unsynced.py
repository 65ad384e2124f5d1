"""What a start has written, or found, that may not be on the disk yet: synced together, before the journal goes.

Why:    A sync waits for the disk, and many that wait at the same time wait about as long as one: a thousand logs with
        a file and a directory each took 1.4 s one after another, and 0.16 s together.
"""

from __future__ import annotations

import os

from broker.storage.file import Files


class Unsynced:
    """Files, and directories with names in them."""

    def __init__(self) -> None:
        self._files: dict[str, None] = {}
        self._directories: dict[str, None] = {}

    def add(self, path: str) -> None:
        """A file and its name."""
        self._files[path] = None
        self.add_directory(os.path.dirname(path))

    def add_directory(self, path: str) -> None:
        self._directories[path] = None

    def sync(self, files: Files) -> None:
        """Raises SyncFailed."""
        files.sync_all(self._files, self._directories)
        self._files.clear()
        self._directories.clear()
