"""A file system in memory that forgets, tears, fills up and fails: what storage must survive.

Fault model
- Contents. What a write put into a file is in memory only until it is synced. A crash decides for each
  piece of it, cut at page boundaries, whether it is kept, lost, or torn at any sector, whatever became of
  the pieces before it. A lost piece leaves what was there before, or zeros where nothing was. The size of
  a file may have grown further than anything that was kept: zeros at its end.
- A write with `sync` makes its own octets safe and no others. `sync` makes all of a file safe. A file
  that is synced is not there after a crash if its name is not.
- Names. Creating, renaming and removing are in memory only until the directory is synced. A crash keeps
  any of these steps and loses any others, or keeps the first so many of them, as file systems with a
  journal do. A rename happens whole or not at all. Making a directory is safe at once (`Files` says so).
- Open files. A name that is taken from a file is forgotten in all handles, so that no write goes to what has it no more.
- Room. With `room` octets taken, a write that needs more puts what fits into the file and raises DiskFull.
- Failure. `fail` decides for each step whether it raises. What a failed sync should have made safe is
  never made safe by a later one, as on Linux.
- Power. After `power_fails_after` steps the next one is begun and not finished, and it and everything
  behind it raises PowerFailed.
- A process that is killed (`kill`) loses nothing that it has written; a later crash may.

`crash(seed)` gives the file system as the next process finds it. The same seed gives the same one.
"""

from __future__ import annotations

import random
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Self
from weakref import WeakSet

from broker.node.definitions import Change
from broker.storage.errors import DataFolderInUse, DiskFull, StorageError, SyncFailed

PAGE = 64
SECTOR = 8


class PowerFailed(Exception):
    """There is no process any more that could go on."""


@dataclass(eq=False)
class _File:
    """A file whatever its name."""

    octets: bytearray = field(default_factory=bytearray)
    safe: bytearray = field(default_factory=bytearray)
    waiting: list[tuple[int, bytes]] = field(default_factory=list)
    """Writes that a sync will make safe."""
    given_up: list[tuple[int, bytes]] = field(default_factory=list)
    """Writes that a sync failed to make safe: no other one will."""

    def write(self, position: int, octets: bytes, *, safe: bool) -> None:
        _put(self.octets, position, octets)
        if not safe:
            self.waiting.append((position, octets))
            return
        _put(self.safe, position, octets)
        covered = range(position, position + len(octets))
        self.waiting = _outside(self.waiting, covered)
        self.given_up = _outside(self.given_up, covered)

    def sync(self) -> None:
        for position, octets in self.waiting:
            _put(self.safe, position, octets)
        if not self.given_up:
            self.safe[:] = self.octets
        self.waiting.clear()

    def truncate(self, size: int) -> None:
        del self.octets[size:]
        self.safe[:] = self.octets
        self.waiting.clear()
        self.given_up.clear()

    def survive(self, chance: random.Random) -> bytearray:
        """What a crash leaves of it."""
        found = bytearray(self.safe)
        unsafe = [piece for write in self.given_up + self.waiting for piece in _pieces(*write)]
        mood = chance.choice(("all", "none", "some", "some", "first"))
        lost_from = chance.randrange(len(unsafe) + 1) if mood == "first" else len(unsafe)
        for number, (position, octets) in enumerate(unsafe):
            fate = {"all": "kept", "none": "lost"}.get(mood) or chance.choice(("kept", "lost", "torn"))
            if mood == "first":
                fate = "kept" if number < lost_from else "lost"
            if fate == "torn":
                end = position + chance.randrange(len(octets) + 1)
                octets = octets[: max(0, end - end % SECTOR - position)]
            if fate != "lost":
                _put(found, position, octets)
        if len(found) < len(self.octets) and chance.random() < 0.3:
            found.extend(bytes(chance.randint(0, len(self.octets) - len(found))))
        return found


def _put(target: bytearray, position: int, octets: bytes) -> None:
    if len(target) < position:
        target.extend(bytes(position - len(target)))
    target[position : position + len(octets)] = octets


def _pieces(position: int, octets: bytes) -> list[tuple[int, bytes]]:
    """Cut at page boundaries."""
    found = []
    at = 0
    while at < len(octets):
        end = min(len(octets), at + PAGE - (position + at) % PAGE)
        found.append((position + at, octets[at:end]))
        at = end
    return found


def _outside(writes: list[tuple[int, bytes]], covered: range) -> list[tuple[int, bytes]]:
    """What of the writes was not written over."""
    found = []
    for position, octets in writes:
        before = octets[: max(0, covered.start - position)]
        behind = octets[max(0, covered.stop - position) :]
        if before:
            found.append((position, before))
        if behind and position + len(octets) > covered.stop:
            found.append((max(position, covered.stop), behind))
    return found


@dataclass(frozen=True)
class _Step:
    """A change of names: `name` has this file now, or none; `old` has none any more.

    With a slash at its end, `name` is a directory that is gone with everything in it.
    """

    name: str
    file: _File | None
    old: str = ""

    @property
    def directory(self) -> str:
        return _directory(self.name.rstrip("/"))

    def apply(self, names: dict[str, _File]) -> None:
        if self.old:
            names.pop(self.old, None)
        if self.name.endswith("/"):
            for below in [found for found in names if found.startswith(self.name)]:
                del names[below]
        elif self.file is None:
            names.pop(self.name, None)
        else:
            names[self.name] = self.file


def _directory(path: str) -> str:
    return path.rpartition("/")[0]


class FakeFiles:
    """`Files` in memory."""

    sector_size = SECTOR

    def __init__(self, room: int | None = None) -> None:
        self.room = room
        self.steps = 0
        """What was done so far that changes something, or makes it safe."""
        self.power_fails_after: int | None = None
        self.fail: Callable[[str, str], StorageError | None] = lambda step, path: None
        """Asked before each step, with its name (that of the method) and the path, what to raise."""
        self.log: list[tuple[str, str]] = []
        """The steps that were done."""
        self._files: dict[str, _File] = {}
        self._safe_names: dict[str, _File] = {}
        self._name_steps: list[_Step] = []
        self._directories: set[str] = set()
        self._locked: set[str] = set()
        self._handles: WeakSet[FakeHandles] = WeakSet()
        # Threads write at the same time.
        self._lock = threading.RLock()

    # ---- for tests ----

    def crash(self, seed: int) -> FakeFiles:
        """The power fails now: the file system that the next process finds."""
        with self._lock:
            self.power_fails_after = self.steps
            chance = random.Random(seed)
            names = dict(self._safe_names)
            kept = self._name_steps
            if chance.random() < 0.5:
                kept = kept[: chance.randrange(len(kept) + 1)]
            else:
                kept = [step for step in kept if chance.random() < 0.5]
            for step in kept:
                step.apply(names)
            found = FakeFiles(self.room)
            survived: dict[int, _File] = {}
            for path, file in sorted(names.items()):
                if id(file) not in survived:
                    octets = file.survive(chance)
                    survived[id(file)] = _File(octets, bytearray(octets))
                found._files[path] = found._safe_names[path] = survived[id(file)]
            found._directories = set(self._directories)
            return found

    def kill(self) -> FakeFiles:
        """The process dies and the machine goes on: what the next process finds."""
        with self._lock:
            found = FakeFiles(self.room)
            found._files, found._safe_names = dict(self._files), dict(self._safe_names)
            found._name_steps = list(self._name_steps)
            found._directories = set(self._directories)
            self.power_fails_after = self.steps
            return found

    def copy(self) -> FakeFiles:
        """Another one with the same files, all of them safe."""
        with self._lock:
            found = FakeFiles(self.room)
            for path, file in self._files.items():
                found._files[path] = found._safe_names[path] = _File(
                    bytearray(file.octets), bytearray(file.octets)
                )
            found._directories = set(self._directories)
            return found

    def octets(self, path: str) -> bytes:
        return bytes(self._files[path].octets)

    def put(self, path: str, octets: bytes) -> None:
        """Have a file with this in it, all of it safe."""
        self._files[path] = self._safe_names[path] = _File(bytearray(octets), bytearray(octets))

    def paths(self) -> list[str]:
        return sorted(self._files)

    @property
    def taken(self) -> int:
        return sum(len(file.octets) for file in self._files.values())

    # ---- Files ----

    def handles(self, limit: int) -> FakeHandles:
        with self._lock:
            made = FakeHandles(self, limit)
            self._handles.add(made)
            return made

    def names(self, directory: str) -> list[str]:
        with self._lock:
            below = f"{directory}/"
            found = {
                path.removeprefix(below).partition("/")[0]
                for path in (*self._files, *self._directories)
                if path.startswith(below)
            }
            return sorted(found)

    def make_directory(self, path: str, *, sync: bool = True) -> None:
        with self._lock:
            if path in self._directories or not path:
                return
            self._step("make_directory", path)
            self.make_directory(_directory(path))
            self._directories.add(path)
            if sync:
                self._make_safe(_directory(path))

    def size(self, path: str) -> int:
        with self._lock:
            file = self._files.get(path)
            return len(file.octets) if file is not None else 0 if path in self._directories else -1

    def truncate(self, path: str, size: int) -> None:
        with self._lock:
            self._step("truncate", path)
            self._find(path).truncate(size)

    def rename(self, old: str, new: str) -> None:
        with self._lock:
            file = self._find(old)
            with _Finishing(self, "rename", new):
                self._change_names(_Step(new, file, old))

    def remove(self, path: str) -> None:
        with self._lock:
            if path in self._files:
                with _Finishing(self, "remove", path):
                    self._change_names(_Step(path, None))

    def remove_directory(self, path: str) -> None:
        path = path.rstrip("/")
        with self._lock:
            below = [found for found in self._files if found.startswith(f"{path}/")]
            with _Finishing(self, "remove_directory", path):
                for found in below:
                    self._change_names(_Step(found, None))
                self._change_names(_Step(f"{path}/", None))
            self._directories = {
                found for found in self._directories if found != path and not found.startswith(f"{path}/")
            }

    def sync_directory(self, path: str) -> None:
        with self._lock:
            self._step("sync_directory", path)
            if path not in self._directories:
                raise SyncFailed(f"{path}: No such file or directory")
            self._make_safe(path)

    def sync_all(self, paths: Collection[str], directories: Collection[str]) -> None:
        handles = self.handles(1)
        for path in paths:
            handles.sync(path)
        for path in directories:
            self.sync_directory(path)

    def reserve(self, path: str, size: int) -> None:
        with self._lock:
            self._step("reserve", path)
            self._create(path).write(0, self._fitting(path, size, bytes(size)), safe=False)
            if len(self._files[path].octets) < size:
                raise DiskFull(f"{path}: No space left on device")

    def free_bytes(self, path: str) -> int:
        return 1 << 40 if self.room is None else max(0, self.room - self.taken)

    def lock(self, path: str) -> Callable[[], None]:
        with self._lock:
            if path in self._locked:
                raise DataFolderInUse(f"the data folder {_directory(path)} is in use")
            self._locked.add(path)
            return lambda: self._locked.discard(path)

    # ---- inside ----

    def _step(self, name: str, path: str) -> None:
        """Count a step, or do not let it happen."""
        if self.power_fails_after is not None and self.steps >= self.power_fails_after:
            self.steps += 1
            raise PowerFailed(f"{name} {path}")
        if (failure := self.fail(name, path)) is not None:
            raise failure
        self.steps += 1
        self.log.append((name, path))

    def _find(self, path: str) -> _File:
        if path not in self._files:
            raise FileNotFoundError(2, "No such file or directory", path)
        return self._files[path]

    def _create(self, path: str) -> _File:
        if path not in self._files:
            if _directory(path) not in self._directories:
                raise SyncFailed(f"{path}: No such file or directory")
            self._change_names(_Step(path, _File()))
        return self._files[path]

    def _make_safe(self, directory: str) -> None:
        for step in self._name_steps:
            if step.directory == directory:
                step.apply(self._safe_names)
        self._name_steps = [step for step in self._name_steps if step.directory != directory]

    def _change_names(self, step: _Step) -> None:
        step.apply(self._files)
        for handles in self._handles:
            handles.forget(step.name)
            handles.forget(step.old)
        self._name_steps.append(step)

    def _fitting(self, path: str, end: int, octets: bytes) -> bytes:
        """As much of what is to end at `end` as there is room for."""
        if self.room is None:
            return octets
        grows = max(0, end - len(self._files[path].octets)) if path in self._files else end
        short = max(0, self.taken + grows - self.room)
        return octets[: max(0, len(octets) - short)]


class _Finishing:
    """A step that may have happened when the power fails in it."""

    def __init__(self, files: FakeFiles, name: str, path: str) -> None:
        self._files, self._name, self._path = files, name, path
        self._failure: PowerFailed | None = None

    def __enter__(self) -> Self:
        begun = self._files.steps == self._files.power_fails_after
        try:
            self._files._step(self._name, self._path)
        except PowerFailed as failure:
            if not begun:
                raise
            self._failure = failure
        return self

    def __exit__(self, *_: object) -> None:
        if self._failure is not None:
            raise self._failure


class FakeHandles:
    """`Handles` on them."""

    def __init__(self, files: FakeFiles, limit: int) -> None:
        self._on = files
        self._limit = limit
        self.open: OrderedDict[str, _File] = OrderedDict()

    def _file(self, path: str, *, create: bool = False) -> _File:
        if path in self.open:
            self.open.move_to_end(path)
            return self.open[path]
        while len(self.open) >= self._limit:
            self.open.popitem(last=False)
        file = self.open[path] = self._on._create(path) if create else self._on._find(path)
        return file

    def write(self, path: str, position: int, buffers: Sequence[bytes], *, sync: bool = False) -> None:
        on = self._on
        octets = b"".join(buffers)
        with on._lock, _Finishing(on, "write", path) as finishing:
            file = self._file(path, create=True)
            fitting = on._fitting(path, position + len(octets), octets)
            full = len(fitting) < len(octets)
            file.write(position, fitting, safe=sync and not full and finishing._failure is None)
            if full and finishing._failure is None:
                raise DiskFull(f"{path}: No space left on device")

    def sync(self, path: str) -> None:
        with self._on._lock:
            file = self._file(path)
            try:
                self._on._step("sync", path)
            except StorageError:
                file.given_up += file.waiting
                file.waiting.clear()
                raise
            file.sync()

    def read(self, path: str, position: int, size: int) -> bytes:
        with self._on._lock:
            return bytes(self._file(path).octets[position : position + size])

    def share(self, path: str, position: int, size: int) -> None:
        """There is no descriptor."""

    def forget(self, path: str) -> None:
        for known in list(self.open):
            if known == path or (path.endswith("/") and known.startswith(path)):
                del self.open[known]

    def close(self) -> None:
        self.open.clear()


class FakeDefinitions:
    """A `DefinitionStore` in memory, in which every transaction is safe at once."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, object]] = {}
        self.revision = 0
        self.fail: Callable[[], StorageError | None] = lambda: None
        """Asked before each transaction what to raise."""

    def read_all(self) -> dict[str, dict[str, object]]:
        return dict(self.values)

    def apply(self, changes: Sequence[Change]) -> int:
        if (failure := self.fail()) is not None:
            raise failure
        for change in changes:
            if change.value is None:
                self.values.pop(change.key, None)
            else:
                self.values[change.key] = change.value
        self.revision += 1
        return self.revision

    def close(self) -> None:
        return


class FakeClock:
    """A `Clock` that a test sets."""

    def __init__(self, now: int) -> None:
        self.now = now

    def now_ms(self) -> int:
        return self.now

    def seconds_until(self, moment_ms: int) -> float:
        return (moment_ms - self.now) / 1000
