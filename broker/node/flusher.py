"""Group commit: the one wait for durability.

Flow:   stores, of queues and of partitions, say `appended` and `settled`, definitions come as changes, and whoever must not
        answer before all that is safe puts a call into the open commit's `waiters`. `flush`, at the end
        of each pass, starts a commit unless one runs; what comes in meanwhile is the next one's, so that
        batching needs no timer. The thread writes and syncs and rings `fileno`; then `collect` calls
        the waiters and starts the next commit.
Shape:  a commit to few logs writes and syncs their files; one to many goes into the journal with one
        sync, and a second thread moves it to the files later: the checkpoint. What must happen together, as
        a dead letter and the end of its original, is always in one record of the journal. In the files,
        settlements are written after everything else is synced.
        Files are removed last; a segment's settlements after the removal of its messages is safe.
Limits: `journal_size_max` octets of journal, which are in memory too; then a checkpoint begins.
        Settlements wait at most `settle_ms`; a process that is killed hands out those again.
Why:    See `storage/journal.py` for what syncs cost. A failed sync is never tried again, as the disk may
        say yes the second time and have forgotten: the process stops. A full disk is waited for.
"""

from __future__ import annotations

import logging
import os
import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from broker.node.definitions import Change, DefinitionStore
from broker.node.worker import Job, MakeWorker, Rewrite, Step, Worker
from broker.storage import journal
from broker.storage.errors import DiskFull
from broker.storage.file import Files
from broker.storage.segment import REWRITE_SUFFIX, Segment
from broker.storage.write import Write

if TYPE_CHECKING:
    from broker.node.store import Store

logger = logging.getLogger("broker.node")

# More logs than this in one commit go through the journal, unless there is so much for each that writing it
# twice would cost more than a few syncs.
DIRECT_LOGS_MAX: Final = 2
DIRECT_SIZE_MIN: Final = 64 * 1024
JOURNAL_SIZE_MAX: Final = 16 * 1024 * 1024
SETTLE_MS: Final = 100
UNWRITTEN_MAX: Final = 16 * 1024 * 1024


@dataclass(slots=True, eq=False)
class Commit:
    """What becomes safe together."""

    waiters: list[Callable[[], None]] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    removals: list[str] = field(default_factory=list)
    """Files and, with a slash at the end, directories that go when all else is safe."""
    atomic: bool = False
    """All or nothing, whatever happens: it goes into one record of the journal."""
    atomic_messages: bool = False
    """The same without settlements, which may wait."""
    together: dict[Store, None] = field(default_factory=dict)
    """What these have goes into one record of the journal."""
    forgets: bool = False
    """A queue is gone of which the journal holds something: that stays there until this is done."""
    size: int = 0
    """About how many octets of messages it has to write."""
    done: bool = False


class Flusher:
    """Makes what a node did durable, in groups."""

    def __init__(
        self,
        files: Files,
        journal_directory: str,
        definitions: DefinitionStore,
        now_ms: Callable[[], int],
        *,
        journal_number: int = 1,
        journal_size_max: int = JOURNAL_SIZE_MAX,
        make_worker: MakeWorker = Worker,
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
        self._spare_journal = ""
        self._begin_journal(journal_number)
        self._oldest_journal = journal_number
        self._journaled: dict[Store, None] = {}
        self._appended: dict[Store, None] = {}
        # In `together`: the stores that something is appended to.
        self._joining: dict[Store, None] | None = None
        self._settled: dict[Store, None] = {}
        self.settled_lately: dict[Store, None] = {}
        """Stores in which segments may have become sparse or empty; whoever tidies takes them out."""
        self._settle_now = False
        self._running: Commit | None = None
        self._checkpointing = False
        self._checkpoint_due = False
        self._rewriting: Rewrite | None = None
        self._step: Step | None = None
        self._failed = False
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._finished: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._writer = make_worker("leveret-commit", files, definitions, self._ring)
        self._mover = make_worker("leveret-checkpoint", files, definitions, self._ring)
        self._compactor = make_worker("leveret-compact", files, definitions, self._ring)

    # ---- what a commit holds ----

    def appended(self, store: Store, size: int) -> None:
        """A queue has a message for its log, or some, of about so many octets."""
        if not store.closed:
            self._appended[store] = None
            self.open.size += size
            if self._joining is not None:
                self._joining[store] = None

    @property
    def crowded(self) -> bool:
        """More waits for the disk than should be in memory: whoever brings messages had better wait too."""
        running = self._running
        waiting = self.open.size + (running.size if running is not None else 0)
        return waiting > UNWRITTEN_MAX or self._journal_size > 2 * self._journal_size_max

    def settled(self, store: Store) -> None:
        if store.closed:
            return  # its queue was deleted while somebody had the message
        if not self._settled:
            self.when_settled()
        self._settled[store] = None

    @contextmanager
    def together(self, store: Store) -> Iterator[None]:
        """What is appended meanwhile is there after a crash exactly if what is settled in `store` is settled."""
        joining: dict[Store, None] = {}
        self._joining = joining
        try:
            yield
        finally:
            self._joining = None
            if joining and not store.closed:
                self.open.together.update({store: None, **joining})

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
        return not self._busy and not self._has_work()

    @property
    def _busy(self) -> bool:
        """A thread has something to do."""
        running = self._running is not None or self._checkpointing
        return running or self._rewriting is not None or self._step is not None

    @property
    def disk_full(self) -> bool:
        return self._writer.disk_full or self._mover.disk_full

    def settle_soon(self) -> None:
        """The next commit writes settlements too."""
        self._settle_now = bool(self._settled)

    def checkpoint_soon(self) -> None:
        """Move what the journal holds to the files, even if it is little."""
        self._checkpoint_due = self._journal_size > 0

    def _has_work(self) -> bool:
        commit = self.open
        return bool(self._appended or commit.waiters or commit.changes or commit.removals or self._settle_now)

    # ---- running ----

    @property
    def due(self) -> bool:
        """`flush` has something to do."""
        if self._running is not None or self._failed:
            return False
        return self._has_work() or self._checkpoint_wanted()

    def flush(self) -> None:
        """Start a commit, unless one runs or there is nothing to do."""
        if self._running is not None or self._failed:
            return
        if self._checkpoint_wanted() and not self._checkpointing and not self.open.forgets:
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
        for store in commit.together:
            if store in self._settled:
                del self._settled[store]
                self.settled_lately[store] = stores[store] = None
        job = Job(changes=commit.changes, removals=commit.removals, commit=commit)
        direct, journaled = self._ways(stores, commit)
        if journaled:
            self._to_journal(job, journaled)
        job.stores += direct
        for store in direct:
            writes, settlements = store.for_files(journaled_only=False, settlements=settles)
            job.batches += writes
            job.settlements += settlements
        self._writer.do(job)

    @staticmethod
    def _ways(stores: dict[Store, None], commit: Commit) -> tuple[list[Store], list[Store]]:
        """Whose files are written at once, and whose after the journal has it."""
        if commit.atomic or commit.atomic_messages:
            return [], list(stores)
        together = [store for store in stores if store in commit.together]
        others = [store for store in stores if store not in commit.together] if together else list(stores)
        syncing = [store for store in others if store.log.syncs]
        # A journal that is written anyway is synced anyway.
        many = bool(together) or len(syncing) > DIRECT_LOGS_MAX
        dear = many and commit.size < len(syncing) * DIRECT_SIZE_MIN
        if not dear and not any(store.log.writing for store in others):
            return others, together
        direct = [store for store in others if not (store.log.syncs or store.log.writing)]
        return direct, together + [store for store in others if store.log.syncs or store.log.writing]

    def _to_journal(self, job: Job, stores: list[Store]) -> None:
        parts: list[bytes] = []
        settlement_parts: list[bytes] = []
        now_ms = self._now_ms()
        for store in stores:
            before = len(parts) + len(settlement_parts)
            store.to_journal(now_ms, parts, settlement_parts)
            if len(parts) + len(settlement_parts) > before:
                store.journal_number = self._journal_number
                self._journaled[store] = None
        parts += settlement_parts
        if not parts:
            return  # the journal has it all
        self.journaled_commits += 1
        record = journal.encode_record(self._journal_salt, parts)
        job.record = Write(self._journal_path, self._journal_size, record, True, self._journal_size == 0)
        if not self._journal_size:
            job.record.reused, self._spare_journal = self._spare_journal, ""
        self._journal_size += sum(map(len, record))

    def _checkpoint_wanted(self) -> bool:
        return self._checkpoint_due or self._journal_size > self._journal_size_max

    def _checkpoint(self) -> None:
        """Between two commits: everything journaled is synced in the journal, and goes to the files.

        1. later commits go to a new journal       crash: both are laid over the logs
        2. the files get what the old one holds     crash: the old one is laid over again
        3. they are synced, and the old one renamed   crash: it may be back, and is laid over again
        4. its new name is synced                     only now may files go that it could bring back
        5. the journal behind the next gets the file  crash: its records have another salt than what is left there
        """
        self._checkpoint_due = False
        self._checkpointing = True
        job = Job()
        for store in self._journaled:
            writes, settlements = store.for_files(journaled_only=True, settlements=True)
            job.batches += writes
            job.settlements += settlements
        job.stores += self._journaled
        self._journaled = {}
        job.retired = self._journal_path
        self._begin_journal(self._journal_number + 1)
        self._mover.do(job)

    def _begin_journal(self, number: int) -> None:
        self._journal_number = number
        self._journal_salt = os.urandom(journal.SALT_SIZE)
        self._journal_path = journal.path(self._journal_directory, number, self._journal_salt)
        self._journal_size = 0

    def _ring(self, job: Job) -> None:
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

    def _finish(self, job: Job) -> None:
        if job.failure is not None:
            self._failed = True
            raise job.failure
        for store in job.stores:
            store.log.written()
        if job.rewrite is not None:
            self._take_over(job.rewrite)
        elif job.step is not None:
            self._step = None
            if job.step.store.closed:
                self._remove_directory(job.step.store)
            job.step.ended(job.problem)
        elif job.commit is None:
            self._checkpointing = False
            self._oldest_journal = self._journal_number
            self._keep_spare(journal.spare_path(job.retired))
        else:
            self._running = None
            job.commit.done = True
            for waiter in job.commit.waiters:
                waiter()
            # Who asks whether it is done may keep it long, and with it all who waited.
            job.commit.waiters.clear()
            job.commit.changes = []
        for store in job.stores:
            if store.closed:
                self._remove_directory(store)
            else:
                self.remove(store.drop_settled())

    def _keep_spare(self, path: str) -> None:
        """One is enough."""
        if self._spare_journal:
            self.remove([path])
        else:
            self._spare_journal = path

    def tidy(self) -> None:
        """Let empty logs go and sparse segments be written anew, one at a time; called now and then."""
        for store in list(self.settled_lately):
            log = store.log
            if log.writing:
                continue
            if self._rewriting is None and (segment := log.sparse()):
                self._rewrite(store, segment)
            if log.live:
                if not log.sparse():
                    del self.settled_lately[store]
                continue
            if store.journal_number < self._oldest_journal:  # otherwise it could come back
                self.remove(store.drop_all())
            if not log.size:
                del self.settled_lately[store]

    def _rewrite(self, store: Store, segment: Segment) -> None:
        segment.rewriting = True
        live = segment.settled.unsettled(segment.base_offset, segment.next_offset)
        self._rewriting = Rewrite(store, segment, live, self.open)
        self._mover.do(Job(rewrite=self._rewriting))

    def _take_over(self, done: Rewrite) -> None:
        if done.result is not None and not done.commit.done:
            done.commit.waiters.append(lambda: self._take_over(done))
            return
        self._rewriting = None
        done.segment.rewriting = False
        if done.store.closed:
            self._remove_directory(done.store)
        elif done.result is not None:
            try:
                done.store.log.rewritten(self._files, done.segment, done.result)
            except DiskFull:  # it can wait
                self.remove([done.segment.path(REWRITE_SUFFIX)])
        elif done.damage is not None:
            logger.error("log of %s: a segment is not written anew: %s", done.store.name, done.damage)
            done.store.mend(done.damage)

    def begin(self, step: Step) -> None:
        """Have a thread of its own take a step of a long work: one at a time."""
        assert self._step is None
        self._step = step
        self._compactor.do(Job(step=step))

    def forget(self, store: Store) -> None:
        """Its queue is deleted: nothing of it is written any more, and its directory goes."""
        store.closed = True
        self._appended.pop(store, None)
        self._settled.pop(store, None)
        self.open.together.pop(store, None)
        self.settled_lately.pop(store, None)
        if store in self._journaled:
            del self._journaled[store]
            self.open.forgets = True
        self._remove_directory(store)

    def _remove_directory(self, store: Store) -> None:
        """When no thread writes there any more, which calls this again."""
        rewritten = self._rewriting is not None and self._rewriting.store is store
        rewritten |= self._step is not None and self._step.store is store
        if store.log.begun and not store.log.writing and not rewritten:
            self.remove([f"{store.log.directory}/"])

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
        self._writer.hurry()
        self._mover.hurry()
        self._compactor.hurry()
        try:
            while not self._failed and (not self.idle or self._settled or self._journal_size):
                self.settle_soon()
                self.checkpoint_soon()
                self.flush()
                if not self._busy:
                    break
                self._finish(self._finished.get())
        finally:
            self._writer.stop()
            self._mover.stop()
            self._compactor.stop()
            os.close(self._bell)
        if self._spare_journal:
            self._files.remove(self._spare_journal)
