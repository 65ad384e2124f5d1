"""A thread that writes, syncs and removes files, one job after another.

Flow:   the flusher makes jobs of what its commits and checkpoints need and gives each to one of its
        workers, which calls `finished` when it is done; the flusher hears of it in the loop.
Shape:  what a job has in it is done in this order: definitions, journal, messages, settlements, rewriting, a step of
        a long work, removals, a journal that is retired.
Limits: a worker holds at most 256 files open.
Why:    Every step may be done twice, so that a full disk only means to wait and begin again. Any other
        refusal of the disk ends the job, and with it the process.
"""

from __future__ import annotations

import itertools
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from broker.node.definitions import Change, DefinitionStore
from broker.storage import journal
from broker.storage.errors import CorruptLog, DiskFull
from broker.storage.file import Files, Handles
from broker.storage.rewrite import Rewritten, rewrite
from broker.storage.segment import REWRITE_SUFFIX, Segment
from broker.storage.write import Write, remove_files

if TYPE_CHECKING:
    from broker.node.flusher import Commit
    from broker.node.store import Store

MakeWorker: TypeAlias = "Callable[[str, Files, DefinitionStore, Callable[[Job], None]], Worker]"

logger = logging.getLogger("broker.node")

_HANDLES: Final = 256
_FULL_RETRY_S: Final = 0.5
# So long a step of a long work has the interpreter, and then leaves it to the others for so long.
_WORK_S: Final = 0.001
_REST_S: Final = 0.001


class Hurried(Exception):
    """There is no time for what can be done later."""


Problem: TypeAlias = CorruptLog | DiskFull | Hurried | OSError


class Step(Protocol):
    """A part of a long work, which a thread does while the loop goes on."""

    store: Store

    def carry_out(self, files: Files, handles: Handles, give_way: Callable[[], None]) -> None:
        """In the thread; it calls `give_way` about every millisecond, and raises what that raises.

        Raises CorruptLog, DiskFull and OSError as well, and then it was not carried out and nothing is lost; SyncFailed.
        """
        ...

    def ended(self, problem: Problem | None) -> None:
        """In the loop, when it has been carried out or could not be; the store may be closed by then."""
        ...


@dataclass(slots=True, eq=False)
class Rewrite:
    """A segment to be written anew."""

    store: Store
    segment: Segment
    live: list[range]
    commit: Commit
    """What is settled without being safe is so in this commit, or before."""
    result: Rewritten | None = None
    damage: CorruptLog | None = None


@dataclass(slots=True, eq=False)
class Job:
    """What a worker is to do for a commit or a checkpoint."""

    changes: list[Change] = field(default_factory=list)
    record: Write | None = None
    batches: list[Write] = field(default_factory=list)
    settlements: list[Write] = field(default_factory=list)
    rewrite: Rewrite | None = None
    step: Step | None = None
    problem: Problem | None = None
    """Why the step was not carried out."""
    removals: list[str] = field(default_factory=list)
    retired: str = ""
    """A journal of which everything is in the files: it becomes a spare, and that is safe when the job is done."""
    stores: list[Store] = field(default_factory=list)
    """Whose files are written; they hear of it when the job is done."""
    commit: Commit | None = None
    failure: BaseException | None = None


class Worker:
    """Carries out jobs, in a thread that begins with the first of them."""

    def __init__(
        self,
        name: str,
        files: Files,
        definitions: DefinitionStore,
        finished: Callable[[Job], None],
    ) -> None:
        self.disk_full = False
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._files = files
        self._handles = files.handles(_HANDLES)
        self._definitions = definitions
        self._finished = finished
        self._impatient = threading.Event()
        self._works_since = 0.0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def do(self, job: Job) -> None:
        if not self._thread.ident:
            self._thread.start()
        self._jobs.put(job)

    def hurry(self) -> None:
        """Do not wait for room any more: a job that finds none fails. What can be done later is not."""
        self._impatient.set()

    def stop(self) -> None:
        """Returns when everything that was asked for is done."""
        if self._thread.ident:
            self._jobs.put(None)
            self._thread.join()
        self._handles.close()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            while not self.attempt(job):
                self._impatient.wait(_FULL_RETRY_S)

    def attempt(self, job: Job) -> bool:
        """Carry a job out; False if there was no room, and it may be tried again."""
        try:
            self._do(job)
        except DiskFull as error:
            if not self._impatient.is_set():
                if not self.disk_full:
                    logger.error("disk: %s; publishers wait until there is room", error)
                self.disk_full = True
                return False
            job.failure = error
        except BaseException as failure:
            job.failure = failure
        else:
            self.disk_full = False
        if job.commit is None:
            self._handles.close()  # connections need descriptors, too
        self._finished(job)
        return True

    def _do(self, job: Job) -> None:
        if job.changes:
            self._definitions.apply(job.changes)
        if job.record is not None:
            job.record.carry_out(self._files, self._handles)
        for write in itertools.chain(job.batches, job.settlements):
            write.carry_out(self._files, self._handles)
        if job.rewrite is not None:
            self._rewrite(job.rewrite)
        if job.step is not None:
            self._take_step(job, job.step)
        if job.removals:
            remove_files(self._files, job.removals)
        if job.retired:
            self._retire(job.retired)

    def _retire(self, path: str) -> None:
        if self._files.size(path) >= 0:
            self._files.rename(path, journal.spare_path(path))
        self._files.sync_directory(os.path.dirname(path))

    def _rewrite(self, asked: Rewrite) -> None:
        try:
            asked.result = rewrite(self._handles, [asked.segment], asked.live, asked.store.keep)
        except CorruptLog as error:
            asked.damage = error
        except DiskFull:  # it can wait, and the room that it has taken helps others
            remove_files(self._files, [asked.segment.path(REWRITE_SUFFIX)])

    def _take_step(self, job: Job, step: Step) -> None:
        try:
            self._give_way()
            step.carry_out(self._files, self._handles, self._give_way)
        except (CorruptLog, DiskFull, Hurried, OSError) as problem:
            job.problem = problem

    def _give_way(self) -> None:
        """Rest, if it is time to. Raises Hurried.

        Whoever computes in a thread holds the interpreter for 5 ms whenever somebody else wants it, and the
        loop wants it again after each of its calls to the system.
        """
        if time.perf_counter() - self._works_since >= _WORK_S:
            if self._impatient.wait(_REST_S):
                raise Hurried
            self._works_since = time.perf_counter()
