"""The real file system. (Storage on one that tears and forgets: everywhere else here.)"""

from __future__ import annotations

import errno
import itertools
import os
import threading
from pathlib import Path

import pytest

from broker.storage.errors import DataFolderInUse, DiskFull, SyncFailed
from broker.storage.file import Disk, OpenFiles


@pytest.fixture
def disk() -> Disk:
    return Disk()


def open_descriptors(folder: Path) -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:  # that of the listing itself
            continue
    return sorted(os.path.basename(path) for path in found if path.startswith(f"{folder}/"))


@pytest.mark.parametrize("sync", [False, True])
def test_buffers_are_written_one_after_another(tmp_path, sync):
    handles = OpenFiles(4)
    path = str(tmp_path / "x")
    handles.write(path, 0, [b"abc", b"", b"def"], sync=sync)
    handles.write(path, 3, [b"DEF", b"ghi"], sync=sync)
    assert handles.read(path, 0, 100) == b"abcDEFghi"
    assert handles.read(path, 7, 1) == b"h"
    assert handles.read(path, 100, 1) == b""
    handles.close()


@pytest.mark.parametrize("sync", [False, True])
def test_more_buffers_than_a_call_takes(tmp_path, sync):
    handles = OpenFiles(1)
    buffers = [b"%d," % number for number in range(3000)]
    handles.write(str(tmp_path / "x"), 5, buffers, sync=sync)
    assert (tmp_path / "x").read_bytes() == bytes(5) + b"".join(buffers)
    handles.close()


def test_the_file_that_was_used_longest_ago_is_closed_first(tmp_path):
    handles = OpenFiles(2)
    for name in ("a", "b", "a", "c"):
        handles.write(str(tmp_path / name), 0, [name.encode()])
    assert open_descriptors(tmp_path) == ["a", "c"]
    assert handles.read(str(tmp_path / "b"), 0, 1) == b"b"
    handles.close()
    assert open_descriptors(tmp_path) == []


def test_forgetting_closes_a_file_or_all_below_a_folder(tmp_path):
    handles = OpenFiles(9)
    (tmp_path / "f").mkdir()
    for name in ("a", "b", "f/c", "f/d"):
        handles.write(str(tmp_path / name), 0, [b"x"])
    handles.forget(str(tmp_path / "a"))
    handles.forget(f"{tmp_path / 'f'}/")
    handles.forget(str(tmp_path / "never opened"))
    assert open_descriptors(tmp_path) == ["b"]
    handles.close()


TAKEN = {
    "removed": lambda disk, path: disk.remove(path),
    "renamed": lambda disk, path: disk.rename(path, f"{path}.new"),
    "replaced": lambda disk, path: [Path(f"{path}.new").touch(), disk.rename(f"{path}.new", path)],
    "removed with its folder": lambda disk, path: disk.remove_directory(os.path.dirname(path)),
}


@pytest.mark.parametrize("how", TAKEN)
def test_file_that_loses_its_name_is_closed_in_all_handles(disk, tmp_path, how):
    (tmp_path / "f").mkdir()
    path = str(tmp_path / "f" / "x")
    everywhere = [disk.handles(2) for _ in range(3)]
    for handles in everywhere:
        handles.write(path, 0, [b"x"])
    TAKEN[how](disk, path)
    assert open_descriptors(tmp_path) == []


def test_removed_file_in_use_by_a_thread_is_closed_when_the_use_ends(disk, tmp_path, monkeypatch):
    path = str(tmp_path / "x")
    begun, goes_on = threading.Event(), threading.Event()
    real = os.fdatasync

    def slow(descriptor):
        begun.set()
        assert goes_on.wait(10)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", slow)
    handles = disk.handles(2)
    handles.write(path, 0, [b"x"])
    thread = threading.Thread(target=handles.sync, args=(path,))
    thread.start()
    assert begun.wait(10)
    disk.remove(path)  # which does not wait for the sync
    assert open_descriptors(tmp_path) == ["x (deleted)"]
    goes_on.set()
    thread.join(10)
    assert open_descriptors(tmp_path) == []


def test_write_goes_to_the_file_that_has_the_name_now(disk, tmp_path):
    path = str(tmp_path / "x")
    first, second = disk.handles(2), disk.handles(2)
    first.write(path, 0, [b"abc"])
    disk.remove(path)
    second.write(path, 0, [b"def"])
    first.write(path, 3, [b"ghi"])
    assert (tmp_path / "x").read_bytes() == b"defghi"
    for handles in (first, second):
        handles.close()


def test_it_makes_do_with_fewer_files_when_there_are_no_descriptors(tmp_path, monkeypatch):
    handles = OpenFiles(9)
    handles.write(str(tmp_path / "a"), 0, [b"x"])
    real = os.open
    refusals = [errno.EMFILE]

    def scarce(*given):
        if refusals:
            raise OSError(refusals.pop(), "Too many open files")
        return real(*given)

    monkeypatch.setattr(os, "open", scarce)
    handles.write(str(tmp_path / "b"), 0, [b"x"])
    assert open_descriptors(tmp_path) == ["b"]
    handles.close()


@pytest.mark.parametrize(
    ("number", "raised"),
    [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EIO, SyncFailed), (errno.EROFS, SyncFailed)],
)
@pytest.mark.parametrize("sync", [False, True])
def test_a_refusal_is_a_full_disk_or_the_end(tmp_path, monkeypatch, number, raised, sync):
    def refuse(*given):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwritev", refuse)
    handles = OpenFiles(1)
    with pytest.raises(raised, match=f"x: {os.strerror(number)}"):
        handles.write(str(tmp_path / "x"), 0, [b"x"], sync=sync)
    handles.close()


def test_a_disk_that_cannot_sync_in_one_call_does_it_in_two(tmp_path, monkeypatch):
    real = os.pwritev
    synced = []

    def unsupported(descriptor, buffers, position, flags=0):
        if flags:
            raise OSError(errno.EOPNOTSUPP, "not supported")
        return real(descriptor, buffers, position)

    monkeypatch.setattr(os, "pwritev", unsupported)
    monkeypatch.setattr(os, "fdatasync", synced.append)
    handles = OpenFiles(1)
    handles.write(str(tmp_path / "x"), 0, [b"abc"], sync=True)
    assert len(synced) == 1
    assert (tmp_path / "x").read_bytes() == b"abc"
    handles.close()


def test_a_failed_sync_is_said(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", refuse)
    handles = OpenFiles(1)
    handles.write(str(tmp_path / "x"), 0, [b"x"])
    with pytest.raises(SyncFailed, match="x: Input/output error"):
        handles.sync(str(tmp_path / "x"))
    handles.close()


def test_names_come_and_go(disk, tmp_path):
    folder = str(tmp_path / "a" / "b")
    assert disk.names(folder) == []
    disk.make_directory(folder)
    disk.make_directory(folder)
    for name in ("y", "x"):
        (tmp_path / "a" / "b" / name).write_bytes(b"12345")
    assert disk.names(folder) == ["x", "y"]
    assert disk.size(f"{folder}/x") == 5
    disk.truncate(f"{folder}/x", 2)
    assert disk.size(f"{folder}/x") == 2
    disk.rename(f"{folder}/x", f"{folder}/y")
    disk.sync_directory(folder)
    assert (disk.size(f"{folder}/x"), disk.size(f"{folder}/y")) == (-1, 2)
    for _ in range(2):
        disk.remove(f"{folder}/y")
        disk.remove_directory(str(tmp_path / "a"))
    assert disk.names(str(tmp_path)) == []


def test_a_folder_that_is_gone_cannot_be_synced(disk, tmp_path):
    with pytest.raises(SyncFailed, match="No such file or directory"):
        disk.sync_directory(str(tmp_path / "gone"))


def test_a_reserve_takes_its_room(disk, tmp_path):
    disk.reserve(str(tmp_path / "reserve"), 100_000)
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= 100_000
    assert disk.free_bytes(str(tmp_path)) > 0


def test_a_lock_is_held_until_it_is_let_go(disk, tmp_path):
    path = str(tmp_path / "lock")
    unlock = disk.lock(path)
    with pytest.raises(
        DataFolderInUse, match=rf"{tmp_path} is in use by another broker \(process {os.getpid()}\)"
    ):
        disk.lock(path)
    unlock()
    disk.lock(path)()


CHANGES = {
    "mkdir": lambda disk, path: disk.make_directory(path),
    "open": lambda disk, path: disk.reserve(path, 10),
    "posix_fallocate": lambda disk, path: disk.reserve(path, 10),
    "rename": lambda disk, path: disk.rename(path, path),
    "unlink": lambda disk, path: disk.remove(path),
    "ftruncate": lambda disk, path: [Path(path).touch(), disk.truncate(path, 0)],
}


@pytest.mark.parametrize("call", CHANGES)
@pytest.mark.parametrize(
    ("number", "raised"), [(errno.ENOSPC, DiskFull), (errno.EIO, SyncFailed), (errno.EACCES, SyncFailed)]
)
def test_whatever_is_changed_a_refusal_is_a_full_disk_or_the_end(
    disk, tmp_path, monkeypatch, call, number, raised
):
    def refuse(*given, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(raised, match=f"x: {os.strerror(number)}"):
        CHANGES[call](disk, str(tmp_path / "x"))


def test_a_lock_needs_no_room(disk, tmp_path, monkeypatch):
    def refuse(*given):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", refuse)
    unlock = disk.lock(str(tmp_path / "lock"))
    with pytest.raises(DataFolderInUse, match="process unknown"):
        disk.lock(str(tmp_path / "lock"))
    unlock()


def test_what_cannot_be_read_is_said_with_its_name(disk, tmp_path, monkeypatch):
    def refuse(*given):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = tmp_path / "x"
    path.write_bytes(b"abc")
    monkeypatch.setattr(os, "pread", refuse)
    handles = disk.handles(1)
    with pytest.raises(OSError, match="error") as caught:
        handles.read(str(path), 0, 3)
    assert caught.value.filename == str(path)
    handles.close()


@pytest.mark.parametrize(("number", "raised"), [(errno.EIO, SyncFailed), (errno.EPIPE, BrokenPipeError)])
def test_a_file_that_cannot_be_read_is_no_peer_that_is_gone(disk, tmp_path, monkeypatch, number, raised):
    def refuse(*given):
        raise OSError(number, os.strerror(number))

    path = tmp_path / "x"
    path.write_bytes(b"abc")
    handles = disk.handles(1)
    part = handles.share(str(path), 0, 3)
    monkeypatch.setattr(os, "sendfile", refuse)
    with pytest.raises(raised):
        part.send(1)
    handles.close()


# ---- many at the same time ----


def test_all_files_are_synced_and_then_all_directories(disk, tmp_path, monkeypatch):
    paths = [str(tmp_path / f"{number}") for number in range(100)]
    for path in paths:
        Path(path).write_bytes(b"x")
    calls: list[str] = []
    threads: set[int] = set()
    together, begun = threading.Barrier(4, timeout=10), itertools.count()

    def noted(name: str, descriptor: int) -> None:
        if next(begun) < 4:
            together.wait()
        threads.add(threading.get_ident())
        calls.append(f"{name} {os.readlink(f'/proc/self/fd/{descriptor}')}")

    monkeypatch.setattr(os, "fdatasync", lambda descriptor: noted("file", descriptor))
    monkeypatch.setattr(os, "fsync", lambda descriptor: noted("directory", descriptor))
    disk.sync_all(paths, [str(tmp_path)])
    assert sorted(calls[:-1]) == sorted(f"file {path}" for path in paths)
    assert calls[-1] == f"directory {tmp_path}"
    assert 4 <= len(threads) <= 16
    assert open_descriptors(tmp_path) == []


def test_one_that_cannot_be_synced_is_told(disk, tmp_path):
    paths = [str(tmp_path / f"{number}") for number in range(50)]
    for path in paths[1:]:
        Path(path).write_bytes(b"x")
    with pytest.raises(SyncFailed, match="/0: No such file"):
        disk.sync_all(paths, [])
    disk.sync_all([], [])
