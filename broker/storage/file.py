"""The only module that touches the file system.

Flow:   logs, journal and recovery name files by path; a `Handles` keeps some of them open for one thread.
Limits: a Handles holds at most `limit` open files and closes the one that was used longest ago; it does
        with fewer when the process has no descriptor left, as connections need them too. A file that is removed
        or replaced is closed in every Handles, as one that is held open keeps its room on the disk.
Why:    Two protocols and not calls of `os`, so that tests can put a file system in their place that
        forgets what was not synced, tears, fills up and fails (`tests/fakes.py`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Protocol
from weakref import WeakSet

from broker.storage.errors import DataFolderInUse, DiskFull, SyncFailed

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
# Linux takes at most 1,024 buffers a call.
_BUFFERS_MAX = 1024
# That wait for the disk at the same time.
_SYNC_THREADS = 16


class FileRange:
    """Octets of a file, to be sent without being read; they can be, whatever becomes of the file's name.

    It holds a descriptor as long as somebody holds it.
    """

    __slots__ = ("_descriptor", "_position", "_size")

    def __init__(self, descriptor: int, position: int, size: int) -> None:
        """The descriptor is its own."""
        self._descriptor = descriptor
        self._position = position
        self._size = size

    def __len__(self) -> int:
        return self._size

    def send(self, socket: int) -> int:
        """Give the socket as much as it takes, and keep the rest; returns how much that was.

        Raises BlockingIOError if that is nothing, OSError if the peer is gone, SyncFailed if the file has lost them or
        cannot be read.
        """
        try:
            sent = os.sendfile(socket, self._descriptor, self._position, self._size)
        except OSError as error:
            if error.errno == errno.EIO:  # no socket says that
                raise SyncFailed(
                    f"a file cannot be read at octet {self._position}: {error.strerror}"
                ) from error
            raise
        if not sent:
            raise SyncFailed(f"a file ends at octet {self._position}, where {self._size} more were")
        self._position += sent
        self._size -= sent
        return sent

    def __del__(self) -> None:
        os.close(self._descriptor)


class Handles(Protocol):
    """Open files of one thread, by path."""

    def write(self, path: str, position: int, buffers: Sequence[bytes], *, sync: bool = False) -> None:
        """Put the buffers there one after another; the file is made if it is missing.

        With `sync` they are on the disk when this returns; what was written before without it may not be.
        Raises DiskFull, or SyncFailed for any other refusal of the disk.
        """

    def sync(self, path: str) -> None:
        """Wait until everything written to this file is on the disk. Raises SyncFailed."""

    def read(self, path: str, position: int, size: int) -> bytes:
        """Up to `size` octets; fewer at the end of the file. Raises OSError, with the path in it."""

    def share(self, path: str, position: int, size: int) -> FileRange | None:
        """A part of a file that is there; None if the process has no descriptor left for it."""

    def forget(self, path: str) -> None:
        """Close this file, or with a slash at the end every file below this directory, if it is open here.

        Any thread may ask for it: what is in use is closed when that use ends.
        """

    def close(self) -> None:
        """Close all of them."""


class Files(Protocol):
    """A file system.

    What changes something raises DiskFull, or SyncFailed for any other refusal; what looks for something OSError.
    A name that `rename`, `remove` or `remove_directory` takes from a file is forgotten in all `handles`.
    """

    @property
    def sector_size(self) -> int:
        """So many octets at a place that is a multiple of it are written whole or not at all."""

    def handles(self, limit: int) -> Handles: ...

    def names(self, directory: str) -> list[str]:
        """What is in a directory, sorted; nothing if it is missing."""

    def make_directory(self, path: str, *, sync: bool = True) -> None:
        """With its parents; each new name is synced into the directory above it, its own only with `sync`."""

    def size(self, path: str) -> int:
        """Octets; -1 if there is no such file."""

    def truncate(self, path: str, size: int) -> None:
        """Cut a file to `size` octets and sync it."""

    def rename(self, old: str, new: str) -> None: ...

    def remove(self, path: str) -> None:
        """Remove a file; nothing happens if it is missing."""

    def remove_directory(self, path: str) -> None:
        """Remove a directory with everything in it."""

    def sync_directory(self, path: str) -> None:
        """Make the names in a directory safe."""

    def sync_all(self, paths: Collection[str], directories: Collection[str]) -> None:
        """Sync files, and then the names in directories, many at the same time."""

    def reserve(self, path: str, size: int) -> None:
        """Make a file that occupies `size` octets. Raises DiskFull."""

    def free_bytes(self, path: str) -> int: ...

    def lock(self, path: str) -> Callable[[], None]:
        """Hold the file `path`, until what this returns is called or the process ends. Raises DataFolderInUse."""


class OpenFiles:
    """`Handles` over real files.

    Its thread holds `_lock` while it uses a descriptor, which may be as long as a sync takes. Another thread that has
    removed a file leaves the name in `_gone`, and closes the file itself if the lock is free: nothing waits.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: OrderedDict[str, int] = OrderedDict()
        self._gone: deque[str] = deque()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        """Use descriptors, in the thread whose files these are."""
        self._lock.acquire()
        self._close_gone()  # another file may have the name by now

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        self._let_go()

    def _let_go(self) -> None:
        while self._gone and self._lock.acquire(blocking=False):
            try:
                self._close_gone()
            finally:
                self._lock.release()

    def _close_gone(self) -> None:
        while self._gone:
            path = self._gone.popleft()
            inside = [known for known in self._open if known.startswith(path)] if path.endswith("/") else []
            for known in inside or [path]:
                descriptor = self._open.pop(known, None)
                if descriptor is not None:
                    os.close(descriptor)

    def _descriptor(self, path: str, flags: int = os.O_RDWR) -> int:
        descriptor = self._open.get(path)
        if descriptor is not None:
            self._open.move_to_end(path)
            return descriptor
        while len(self._open) >= self._limit:
            self._close_oldest()
        while True:
            try:
                descriptor = os.open(path, flags | os.O_CLOEXEC, 0o640)
            except OSError as error:
                if error.errno not in _NO_DESCRIPTOR or not self._open:
                    raise
                self._close_oldest()
            else:
                self._open[path] = descriptor
                return descriptor

    def _close_oldest(self) -> None:
        os.close(self._open.popitem(last=False)[1])

    def write(self, path: str, position: int, buffers: Sequence[bytes], *, sync: bool = False) -> None:
        try:
            with self:
                descriptor = self._descriptor(path, os.O_RDWR | os.O_CREAT)
                if sync and _write_synced(descriptor, position, buffers):
                    return
                _write_all(descriptor, position, buffers)
        except OSError as error:
            raise _refusal(error, path) from error
        if sync:
            self.sync(path)

    def sync(self, path: str) -> None:
        try:
            with self:
                os.fdatasync(self._descriptor(path))
        except OSError as error:
            raise SyncFailed(f"{path}: {error.strerror}") from error

    def read(self, path: str, position: int, size: int) -> bytes:
        try:
            with self:
                return os.pread(self._descriptor(path), size, position)
        except OSError as error:
            error.filename = path
            raise

    def share(self, path: str, position: int, size: int) -> FileRange | None:
        try:
            with self:
                return FileRange(os.dup(self._descriptor(path)), position, size)
        except OSError as error:
            if error.errno in _NO_DESCRIPTOR:
                return None
            raise

    def forget(self, path: str) -> None:
        self._gone.append(path)
        self._let_go()

    def close(self) -> None:
        with self:
            while self._open:
                os.close(self._open.popitem()[1])


def _refusal(error: OSError, path: str) -> DiskFull | SyncFailed:
    if error.errno in _FULL:
        return DiskFull(f"{path}: {error.strerror}")
    return SyncFailed(f"{path}: {error.strerror}")


@contextmanager
def _refusals(path: str) -> Iterator[None]:
    """What the system says to a change."""
    try:
        yield
    except OSError as error:
        raise _refusal(error, path) from error


def _write_synced(descriptor: int, position: int, buffers: Sequence[bytes]) -> bool:
    """Write and sync in one system call, and so with one wait for the interpreter's lock; whether that worked.

    A thread that asks for the lock twice in each commit costs a busy loop a tenth of its speed.
    """
    if len(buffers) > _BUFFERS_MAX:
        return False
    try:
        return os.pwritev(descriptor, buffers, position, os.RWF_DSYNC) == sum(map(len, buffers))
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return False
        raise


def _sync_file(path: str) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise SyncFailed(f"{path}: {error.strerror}") from error


def _for_each(call: Callable[[str], None], paths: Collection[str]) -> None:
    """In threads, which wait together. Raises what the first failing call raises, when the others are done."""
    left = deque(paths)
    errors: list[Exception] = []

    def work() -> None:
        while not errors:
            try:
                call(left.popleft())
            except IndexError:
                return
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(min(_SYNC_THREADS, len(left)) - 1)]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _write_all(descriptor: int, position: int, buffers: Sequence[bytes]) -> None:
    for start in range(0, len(buffers), _BUFFERS_MAX):
        some = buffers[start : start + _BUFFERS_MAX]
        size = sum(map(len, some))
        written = os.pwritev(descriptor, some, position)
        position += written
        if written < size:  # a full disk, or more than 2 GiB at once
            rest = memoryview(b"".join(some))[written:]
            while rest:
                written = os.pwrite(descriptor, rest, position)
                position += written
                rest = rest[written:]


class Disk:
    """`Files` over the real file system."""

    sector_size = 512

    def __init__(self) -> None:
        self._handles: WeakSet[OpenFiles] = WeakSet()
        self._handles_lock = threading.Lock()

    def handles(self, limit: int) -> OpenFiles:
        made = OpenFiles(limit)
        with self._handles_lock:
            self._handles.add(made)
        return made

    def _forget(self, path: str) -> None:
        """The name is no longer that of the file that it was."""
        with self._handles_lock:
            everywhere = list(self._handles)
        for handles in everywhere:
            handles.forget(path)

    def names(self, directory: str) -> list[str]:
        try:
            return sorted(os.listdir(directory))
        except FileNotFoundError:
            return []

    def make_directory(self, path: str, *, sync: bool = True) -> None:
        if os.path.isdir(path):
            return
        parent = os.path.dirname(path) or "."
        self.make_directory(parent)
        with _refusals(path):
            os.mkdir(path, 0o750)
        if sync:
            self.sync_directory(parent)

    def size(self, path: str) -> int:
        try:
            return os.stat(path).st_size
        except FileNotFoundError:
            return -1

    def truncate(self, path: str, size: int) -> None:
        with _refusals(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.ftruncate(descriptor, size)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def rename(self, old: str, new: str) -> None:
        with _refusals(new):
            os.rename(old, new)
        self._forget(old)
        self._forget(new)

    def remove(self, path: str) -> None:
        with _refusals(path), suppress(FileNotFoundError):
            os.unlink(path)
        self._forget(path)

    def remove_directory(self, path: str) -> None:
        shutil.rmtree(path, ignore_errors=True)
        self._forget(f"{path.rstrip('/')}/")

    def sync_directory(self, path: str) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise SyncFailed(f"{path}: {error.strerror}") from error

    def sync_all(self, paths: Collection[str], directories: Collection[str]) -> None:
        _for_each(_sync_file, paths)
        _for_each(self.sync_directory, directories)

    def reserve(self, path: str, size: int) -> None:
        with _refusals(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                os.posix_fallocate(descriptor, 0, size)
            finally:
                os.close(descriptor)

    def free_bytes(self, path: str) -> int:
        figures = os.statvfs(path)
        return figures.f_bavail * figures.f_frsize

    def lock(self, path: str) -> Callable[[], None]:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise DataFolderInUse(
                f"the data folder {os.path.dirname(path)} is in use by another broker (process {owner or 'unknown'})"
            ) from None
        with suppress(OSError):  # there may be no room for the number, and nothing hangs on it
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return partial(os.close, descriptor)
