"""Group commit: the one wait for durability.

Flow:   queues' stores say `appended` and `settled`, definitions come as changes, and whoever must not
        answer before all that is safe puts a call into the open commit's `waiters`. `flush`, at the end
        of each pass, starts a commit unless one runs; what comes in meanwhile is the next one's, so that
        batching needs no timer. The thread writes and syncs and rings `fileno`; then `collect` calls
        the waiters and starts the next commit.
Shape:  a commit to few logs writes and syncs their files; one to many goes into the journal with one
        sync, and a second thread moves it to the files later: the checkpoint. In each, settlements are
        written after everything else is synced: a dead letter's copy is safe before its original goes.
Limits: `journal_size_max` octets of journal, which are in memory too; then a checkpoint begins.
        Settlements wait at most `settle_ms`; a process that is killed hands out those again.
Why:    See `storage/journal.py` for what syncs cost. A failed sync is never tried again, as the disk may
        say yes the second time and have forgotten: the process stops. A full disk is waited for.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from broker.node.definitions import Change, DefinitionStore
from broker.storage import journal
from broker.storage.errors import CorruptLog, DiskFull, StorageError
from broker.storage.file import Files, Handles
from broker.storage.log import Write
from broker.storage.rewrite import Rewritten, rewrite
from broker.storage.segment import Segment

if TYPE_CHECKING:
    from broker.node.queue_store import QueueStore

logger = logging.getLogger("broker.node")

# More logs than this in one commit go through the journal.
DIRECT_LOGS_MAX: Final = 2
JOURNAL_SIZE_MAX: Final = 16 * 1024 * 1024
SETTLE_MS: Final = 100
_HANDLES: Final = 256
_FULL_RETRY_S: Final = 0.5


@dataclass(slots=True, eq=False)
class Commit:
    """What becomes safe together."""

    waiters: list[Callable[[], None]] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    removals: list[str] = field(default_factory=list)
    """Files and, with a slash at the end, directories that go when all else is safe."""
    atomic: bool = False
    """All or nothing, whatever happens: it goes into one record of the journal."""
    done: bool = False


@dataclass(slots=True, eq=False)
class Rewrite:
    """A segment to be written anew."""

    store: QueueStore
    segment: Segment
    live: list[range]
    result: Rewritten | None = None


@dataclass(slots=True, eq=False)
class _Job:
    """What a thread is to do for a commit or a checkpoint, in this order."""

    changes: list[Change] = field(default_factory=list)
    record: Write | None = None
    batches: list[Write] = field(default_factory=list)
    settlements: list[Write] = field(default_factory=list)
    removals: list[str] = field(default_factory=list)
    stores: list[QueueStore] = field(default_factory=list)
    """Whose files are written; they hear of it in `collect`."""
    commit: Commit | None = None
    rewrite: Rewrite | None = None
    failure: BaseException | None = None


class _Worker:
    """A thread that carries out jobs one after another."""

    def __init__(
        self,
        name: str,
        files: Files,
        definitions: DefinitionStore,
        finished: Callable[[_Job], None],
    ) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._files = files
        self._handles = files.handles(_HANDLES)
        self._definitions = definitions
        self._finished = finished
        self.disk_full = False
        self.patient = True
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def do(self, job: _Job) -> None:
        self._jobs.put(job)

    def stop(self) -> None:
        self._jobs.put(None)
        self._thread.join()
        self._handles.close()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                self._insist(job)
            except BaseException as failure:
                job.failure = failure
            if job.commit is None:
                self._handles.close()  # a removed segment that is held open keeps its room
            self._finished(job)

    def _insist(self, job: _Job) -> None:
        """Every step may be done twice, so that a full disk only means to wait."""
        while True:
            try:
                self._carry_out(job)
            except DiskFull as error:
                if not self.patient:
                    raise
                if not self.disk_full:
                    logger.error("disk: %s; publishers wait until there is room", error)
                self.disk_full = True
                time.sleep(_FULL_RETRY_S)
            else:
                self.disk_full = False
                return

    def _carry_out(self, job: _Job) -> None:
        if job.changes:
            self._definitions.apply(job.changes)
        if job.record is not None:
            self._write(job.record)
        for write in job.batches:
            self._write(write)
        for write in job.settlements:
            self._write(write)
        if job.rewrite is not None:
            self._rewrite(job.rewrite)
        for path in job.removals:
            self._handles.forget(path)
            if path.endswith("/"):
                self._files.remove_directory(path)
            else:
                self._files.remove(path)

    def _rewrite(self, asked: Rewrite) -> None:
        try:
            asked.result = rewrite(self._handles, asked.segment, asked.live, asked.store.keep)
        except CorruptLog as error:
            logger.error("queue %s: not written anew: %s", asked.store.name, error)
        except FileNotFoundError:
            return  # its queue was deleted

    def _write(self, write: Write) -> None:
        directory = os.path.dirname(write.path)
        if write.created:
            self._files.make_directory(directory)
        self._handles.write(write.path, write.position, write.buffers, sync=write.sync)
        if write.created:
            self._files.sync_directory(directory)


class Flusher:
    """Makes what a node did durable, in groups."""

    def __init__(
        self,
        files: Files,
        reader: Handles,
        journal_directory: str,
        definitions: DefinitionStore,
        now_ms: Callable[[], int],
        *,
        journal_number: int = 1,
        journal_size_max: int = JOURNAL_SIZE_MAX,
    ) -> None:
        self.open = Commit()
        self.when_settled: Callable[[], object] = lambda: None
        """Called when settlements begin to wait: somebody calls `settle_soon` `SETTLE_MS` later."""
        self.commits = 0
        self.journaled_commits = 0
        self._files = files
        self._now_ms = now_ms
        self._journal_directory = journal_directory
        self._journal_size_max = journal_size_max
        self._journal_number = journal_number
        self._journal_size = 0
        self._oldest_journal = journal_number
        self._journaled: dict[QueueStore, None] = {}
        self._appended: dict[QueueStore, None] = {}
        self._settled: dict[QueueStore, None] = {}
        self.settled_lately: dict[QueueStore, None] = {}
        """Stores in which segments may have become sparse or empty; whoever tidies takes them out."""
        self._settle_now = False
        self._running: Commit | None = None
        self._checkpointing = False
        self._checkpoint_due = False
        self._rewriting: Rewrite | None = None
        self._doomed: set[QueueStore] = set()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._finished: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._writer = _Worker("leveret-commit", files, definitions, self._ring)
        self._mover = _Worker("leveret-checkpoint", files, definitions, self._ring)

    # ---- what a commit holds ----

    def appended(self, store: QueueStore) -> None:
        self._appended[store] = None

    def settled(self, store: QueueStore) -> None:
        if not self._settled:
            self.when_settled()
        self._settled[store] = None

    def change(self, changes: list[Change]) -> None:
        self.open.changes += changes

    def remove(self, paths: list[str]) -> None:
        self.open.removals += paths

    @property
    def unsafe_definitions(self) -> Commit | None:
        """The commit that makes the newest change of a definition safe, if it is not yet."""
        if self.open.changes:
            return self.open
        running = self._running
        return running if running is not None and running.changes else None

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing runs."""
        busy = self._running is not None or self._checkpointing or self._rewriting is not None
        return not busy and not self._has_work()

    @property
    def disk_full(self) -> bool:
        return self._writer.disk_full or self._mover.disk_full

    def settle_soon(self) -> None:
        """The next commit writes settlements too."""
        self._settle_now = bool(self._settled)

    def checkpoint_soon(self) -> None:
        """Move what the journal holds to the files, even if it is little."""
        self._checkpoint_due = bool(self._journaled)

    def _has_work(self) -> bool:
        commit = self.open
        return bool(self._appended or commit.waiters or commit.changes or commit.removals or self._settle_now)

    # ---- running ----

    def flush(self) -> None:
        """Start a commit, unless one runs or there is nothing to do."""
        if self._running is not None:
            return
        if not self._checkpointing and self._checkpoint_wanted():
            self._checkpoint()
        if self._has_work():
            self._start()

    def _start(self) -> None:
        commit = self._running = self.open
        self.open = Commit()
        self.commits += 1
        stores, self._appended = self._appended, {}
        settles, self._settle_now = self._settle_now or commit.atomic, False
        if settles:
            stores.update(self._settled)
            self.settled_lately.update(self._settled)
            self._settled = {}
        job = _Job(changes=commit.changes, removals=commit.removals, commit=commit)
        if commit.atomic or len(stores) > DIRECT_LOGS_MAX or any(store.log.writing for store in stores):
            self._to_journal(job, stores)
        else:
            job.stores += stores
            for store in stores:
                writes, settlements = store.for_files(journaled_only=False, settlements=settles)
                job.batches += writes
                job.settlements += settlements
        self._writer.do(job)

    def _to_journal(self, job: _Job, stores: dict[QueueStore, None]) -> None:
        self.journaled_commits += 1
        number = self._journal_number
        parts: list[bytes] = []
        settlement_parts: list[bytes] = []
        now_ms = self._now_ms()
        for store in stores:
            store.to_journal(number, now_ms, parts, settlement_parts)
        octets = journal.encode_record(parts + settlement_parts)
        path = journal.path(self._journal_directory, number)
        job.record = Write(path, self._journal_size, [octets], True, self._journal_size == 0)
        self._journal_size += len(octets)
        self._journaled.update(stores)

    def _checkpoint_wanted(self) -> bool:
        return self._checkpoint_due or self._journal_size > self._journal_size_max

    def _checkpoint(self) -> None:
        """Between two commits: everything journaled is synced in the journal, and goes to the files.

        1. later commits go to a new journal       crash: both are laid over the logs
        2. the files get what the old ones hold     crash: the old ones are laid over again
        3. they are synced, and the old ones removed
        """
        self._checkpoint_due = False
        self._checkpointing = True
        job = _Job()
        for store in self._journaled:
            writes, settlements = store.for_files(journaled_only=True, settlements=True)
            job.batches += writes
            job.settlements += settlements
        job.stores += self._journaled
        self._journaled = {}
        for number in range(self._oldest_journal, self._journal_number + 1):
            job.removals.append(journal.path(self._journal_directory, number))
        if self._journal_size:
            self._journal_number += 1
            self._journal_size = 0
        self._mover.do(job)

    def _ring(self, job: _Job) -> None:
        """In a thread: tell the loop."""
        self._finished.put(job)
        os.eventfd_write(self._bell, 1)

    def fileno(self) -> int:
        """Readable when there is something to `collect`."""
        return self._bell

    def collect(self) -> None:
        """Answer for what the threads have finished; `flush` then goes on. Raises their failure."""
        try:
            os.eventfd_read(self._bell)
        except BlockingIOError:
            return
        while not self._finished.empty():
            self._finish(self._finished.get())

    def _finish(self, job: _Job) -> None:
        if job.failure is not None:
            raise job.failure
        for store in job.stores:
            store.log.written()
        if job.rewrite is not None:
            self._take_over(job.rewrite)
        elif job.commit is None:
            self._checkpointing = False
            self._oldest_journal = self._journal_number
        else:
            self._running = None
            job.commit.done = True
            for waiter in job.commit.waiters:
                waiter()
        for store in job.stores:
            if store in self._doomed:
                self._doomed.remove(store)
                self.remove([f"{store.log.directory}/"])
            else:
                self.remove(store.drop_settled(self._oldest_journal))

    def tidy(self) -> None:
        """Let empty logs go and sparse segments be written anew, one at a time; called now and then."""
        for store in list(self.settled_lately):
            log = store.log
            if store.journal_number >= self._oldest_journal or log.writing:
                continue  # what a journal holds could come back: later
            self.remove(store.drop_all())
            if not log.sparse():
                del self.settled_lately[store]
            elif self._rewriting is None:
                self._rewrite_sparse(store)

    def _rewrite_sparse(self, store: QueueStore) -> None:
        segment = store.log.sparse()
        assert segment is not None
        segment.rewriting = True
        live = segment.settled.unsettled(segment.base_offset, segment.next_offset)
        self._rewriting = Rewrite(store, segment, live)
        self._mover.do(_Job(rewrite=self._rewriting))

    def _take_over(self, done: Rewrite) -> None:
        self._rewriting = None
        if done.store in self._doomed:
            self._doomed.remove(done.store)
            self.remove([f"{done.store.log.directory}/"])
        elif done.result is not None:
            done.store.log.rewritten(self._files, done.segment, done.result)
        else:
            done.segment.rewriting = False

    def forget(self, store: QueueStore) -> None:
        """Its queue is deleted: nothing of it is written any more, and its directory goes."""
        store.closed = True
        log = store.log
        log.close()
        self._appended.pop(store, None)
        self._settled.pop(store, None)
        self.settled_lately.pop(store, None)
        self._journaled.pop(store, None)
        if log.writing or (self._rewriting is not None and self._rewriting.store is store):
            self._doomed.add(store)
        elif log.segments:
            self.remove([f"{log.directory}/"])

    # ---- waiting ----

    async def run(self) -> None:
        """Collect forever, for a node whose server has no pump to do it."""
        while True:
            await trio.lowlevel.wait_readable(self._bell)
            self.collect()
            self.flush()

    async def durable(self, commit: Commit) -> None:
        """Wait until this commit, which is open or runs, is safe."""
        if commit.done:
            return
        event = trio.Event()
        commit.waiters.append(event.set)
        self.flush()
        await event.wait()

    def stop(self) -> None:
        """Write what is left and end the threads. Raises their failure, a full disk among them."""
        self._writer.patient = self._mover.patient = False
        try:
            while not self.idle or self._settled or self._journaled:
                self.settle_soon()
                self.checkpoint_soon()
                self.flush()
                if self._running is None and not self._checkpointing and self._rewriting is None:
                    break
                self._finish(self._finished.get())
        finally:
            self._writer.stop()
            self._mover.stop()
            os.close(self._bell)


def refuse_storage_error(error: BaseException) -> str:
    """The last line of a process whose disk failed it."""
    kind = "the disk failed" if isinstance(error, StorageError) else "storage failed"
    return f"{kind}: {error}; nothing unsynced was confirmed; the broker stops"
