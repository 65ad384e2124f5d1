"""Room on the disk that is put by for acknowledgements, and for what the journal holds and the files must get as well.

Flow:   the node looks at it each second, gives it up while the disk is full, and at start if there is too little room.
Shape:  `reserve` in the data folder, a file of which nobody reads anything.
"""

from __future__ import annotations

import os

from broker.storage.errors import DiskFull
from broker.storage.file import Files


class Reserve:
    """The file."""

    def __init__(self, files: Files, data: str, size: int, disk_free_limit: int) -> None:
        self._files = files
        self._data = data
        self._path = os.path.join(data, "reserve")
        self._size = size
        self._disk_free_limit = disk_free_limit

    def keep(self, *, disk_full: bool) -> bool:
        """Give it up while the disk is full, and take it again when there is room; whether it is there.

        Without it nothing more is taken from publishers: a checkpoint, or recovery, might find no room.
        """
        if disk_full:
            self.remove()
            return False
        if not self._size or self._files.size(self._path) >= self._size:
            return True
        if self._files.free_bytes(self._data) < self._size + self._disk_free_limit:
            return False
        try:
            self._files.reserve(self._path, self._size)
        except DiskFull:
            self.remove()
            return False
        return True

    def make_room(self) -> None:
        """On a full disk, recovery needs what was put by for it."""
        if self._files.free_bytes(self._data) < self._size:
            self.remove()

    def remove(self) -> None:
        self._files.remove(self._path)
