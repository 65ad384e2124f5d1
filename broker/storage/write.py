"""What a log wants on the disk, or off it: octets for files, and files that go, as data for another thread.

Flow:   a log hands out writes and names files to be removed; a worker carries it out, in the order in which it came.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from broker.storage.file import Files, Handles
from broker.storage.index import IndexFile, encode
from broker.storage.segment import INDEX_SUFFIX, JOINED_SUFFIX, SETTLED_SUFFIX, Segment
from broker.storage.unsynced import Unsynced


@dataclass(slots=True, eq=False)
class Write:
    """Octets for one file, to be carried out in the order in which a log handed them out.

    That a segment exists says that the one before it is safe.
    """

    path: str
    position: int
    buffers: list[bytes]
    sync: bool
    """They are on the disk when this is done."""
    created: bool
    """The file may be new: its name must be safe, too."""
    behind_unsynced: bool = False
    """With `sync`, what the file has before them must be on the disk as well, and may not be yet."""
    last: bool = False
    """Nothing more comes to this file."""
    reused: str = ""
    """A file that gets this one's name first, and is written over."""

    def carry_out(self, files: Files, handles: Handles) -> None:
        """Twice is harmless. Raises DiskFull or SyncFailed."""
        if self.created:
            directory = os.path.dirname(self.path)
            files.make_directory(directory)
            if self.reused and files.size(self.reused) >= 0:
                files.rename(self.reused, self.path)
        if self.buffers or not self.position:
            whole = self.sync and not self.behind_unsynced
            handles.write(self.path, self.position, self.buffers, sync=whole)
        if self.sync and self.behind_unsynced:
            handles.sync(self.path)
        if self.created:
            files.sync_directory(directory)
        if self.last:
            handles.forget(self.path)

    def carry_out_unsynced(self, files: Files, handles: Handles, unsynced: Unsynced) -> None:
        """The same, where `unsynced` gets what is still to be synced. Raises DiskFull."""
        directory = os.path.dirname(self.path)
        if self.created:
            files.make_directory(directory, sync=False)
            unsynced.add_directory(os.path.dirname(directory))
            unsynced.add_directory(directory)
        if self.buffers or not self.position:
            handles.write(self.path, self.position, self.buffers)
        if self.sync:
            unsynced.add(self.path)
        if self.last:
            handles.forget(self.path)


def remove_files(files: Files, paths: list[str]) -> None:
    """Remove files and, with a slash at the end, directories.

    Without its settlements a segment's messages would be back, and without a word on what was joined so would be
    what they are part of now: those go when the others are gone for good.
    """
    later: list[str] = []
    for path in paths:
        if path.endswith(("/", SETTLED_SUFFIX, JOINED_SUFFIX)):
            later.append(path)
        else:
            files.remove(path)
    notes = [path for path in later if not path.endswith("/") and files.size(path) >= 0]
    for directory in dict.fromkeys(map(os.path.dirname, notes)):
        files.sync_directory(directory)
    for path in notes:
        files.remove(path)
    for path in notes:
        if path.endswith(JOINED_SUFFIX):  # nor may it come back itself
            files.sync_directory(os.path.dirname(path))
    for path in later:
        if path.endswith("/"):
            files.remove_directory(path)


def index_write(segment: Segment) -> Write:
    """The index of a sealed segment, for the next start."""
    file = IndexFile(
        segment.base_offset,
        segment.next_offset,
        segment.size,
        segment.records,
        segment.max_timestamp,
        segment.index,
    )
    return Write(segment.path(INDEX_SUFFIX), 0, [encode(file)], False, False, last=True)
