"""What can go wrong with a disk, and whether one can go on."""


class StorageError(Exception):
    """Base of everything that storage raises on purpose."""


class DiskFull(StorageError):
    """There was no room. Nothing of what was asked counts as written; ask again when there is."""


class SyncFailed(StorageError):
    """The disk did not take what it was given. What it holds now is unknown: the process must stop."""


class CorruptLog(StorageError):
    """Octets on disk are not what was written.

    `path` and `position` say where; `reason` what was wrong there.
    """

    def __init__(self, path: str, position: int, reason: str) -> None:
        super().__init__(f"{path} at octet {position}: {reason}")
        self.path = path
        self.position = position
        self.reason = reason


class DataFolderInUse(StorageError):
    """Another process holds the lock of the data folder."""
