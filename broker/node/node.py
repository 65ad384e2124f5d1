"""One broker process, without those who speak to it.

Flow:   servers and management call `publish` and the topology; `end_pass` ends each of their turns:
        queues hand out, dead letters are published, a commit starts.
Shape:  data folder: `lock`, `definitions.sqlite`, `journal/`, `queues/<id>/`, `partitions/<id>/`, `reserve`
Why:    Messages do not wait for the disk before they are delivered, only before they are confirmed.

Boot: lock the folder, read the definitions, open each queue's log with the journal laid over it, write
what the journal held to the files, start the flusher. Stop is the same list backwards.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial

import trio

from broker.amqp.envelope import PublishRun
from broker.model.consumers import Source
from broker.model.message import Sink, Slice
from broker.model.queue import Memory, Queue
from broker.model.vhost import Vhost
from broker.node.accounts import Accounts
from broker.node.alarms import Alarms
from broker.node.clock import Clock
from broker.node.cluster import Cluster
from broker.node.dead_letters import letters_of
from broker.node.definitions import DefinitionStore, SqliteDefinitions
from broker.node.flusher import SETTLE_MS, Commit, Flusher
from broker.node.groups import GroupOptions, Groups
from broker.node.large_records import LargeRecords
from broker.node.metrics import Metrics
from broker.node.peers import Listener, Peer
from broker.node.pieces import Pieces
from broker.node.producer_ids import ProducerIds
from broker.node.published import Published
from broker.node.recovered_logs import RecoveredLogs
from broker.node.reserve import Reserve
from broker.node.routing import copies, headers_decide, headers_of, queues_of, routes_of_dead, without_bcc
from broker.node.scheduler import Scheduler, Timer
from broker.node.topics import PARTITIONS_MAX, Topics
from broker.node.topology import Topology
from broker.node.worker import MakeWorker, Worker
from broker.storage import journal
from broker.storage.errors import StorageError, SyncFailed
from broker.storage.file import Disk, Files
from broker.storage.log import Log
from broker.storage.segment import SEGMENT_SIZE_MAX

logger = logging.getLogger("broker.node")

_READ_HANDLES = 128
_ALARM_MS = 1000
_TIDY_MS = 5000


@dataclass(slots=True, frozen=True)
class NodeOptions:
    """What a node must be told."""

    data: str
    name: str = "leveret@localhost"
    arguments_size_max: int = 131_072
    queue_memory_max: int = 32 * 1024 * 1024
    queues_memory_max: int = 256 * 1024 * 1024
    segment_size_max: int = SEGMENT_SIZE_MAX
    partitions_max: int = PARTITIONS_MAX
    groups: GroupOptions = field(default_factory=GroupOptions)
    memory_limit: int = 1 << 62
    disk_free_limit: int = 0
    reserve_size: int = 64 * 1024 * 1024
    """Room on the disk for acknowledgements and for what the journal holds, which the files must get as well."""


class Node:
    """Everything that a broker owns apart from its connections."""

    def __init__(
        self,
        options: NodeOptions,
        files: Files,
        definitions: DefinitionStore,
        clock: Clock,
        unlock: Callable[[], None],
        make_worker: MakeWorker = Worker,
    ) -> None:
        """Use `open_node`."""
        self._unlock = unlock
        self.options = options
        self.clock = clock
        self.metrics = Metrics()
        self.scheduler = Scheduler(clock)
        self.pass_ends: list[Callable[[], None]] = []
        """Called at the end of each pass, when everything is decided: servers send then."""
        self.peers: dict[Peer, None] = {}
        """The clients that are connected."""
        self.listeners: list[Listener] = []
        self._files = files
        self._definitions = definitions
        self._reader = files.handles(_READ_HANDLES)
        # What was published in this pass to queues that refuse nothing: runs with the same facts.
        self._pending: dict[Sink, list[PublishRun]] = {}
        self._marked: dict[Source, None] = {}
        self._graves: list[tuple[Queue, str, Slice]] = []
        self._timed: dict[Queue, None] = {}
        self._timers: dict[Queue, Timer] = {}
        self._journal_directory = os.path.join(options.data, "journal")
        self._reserve = Reserve(files, options.data, options.reserve_size, options.disk_free_limit)
        self._reserved = True
        files.make_directory(self._journal_directory)
        self._journal = journal.recover(files, self._journal_directory)
        self.flusher = Flusher(
            files,
            self._journal_directory,
            definitions,
            clock.now_ms,
            journal_number=self._journal.next_number,
            make_worker=make_worker,
        )
        self.flusher.when_settled = lambda: self.scheduler.after(SETTLE_MS, self.flusher.settle_soon)
        self.accounts = Accounts(self.flusher)
        self.cluster = Cluster(options.name, self.flusher)
        self.topology = Topology(
            self.flusher,
            self.accounts,
            self.metrics,
            clock,
            files,
            self._reader,
            os.path.join(options.data, "queues"),
            self._bury,
            arguments_size_max=options.arguments_size_max,
            queue_memory_max=options.queue_memory_max,
            # Messages go to the disk long before publishers have to wait for memory.
            memory=Memory(min(options.queues_memory_max, options.memory_limit // 3)),
            segment_size_max=options.segment_size_max,
        )
        self.topology.on_timed(self._note_timed)
        self.topics = Topics(
            self.flusher,
            clock,
            files,
            self._reader,
            os.path.join(options.data, "partitions"),
            self.topology,
            partitions_max=options.partitions_max,
        )
        self.pieces = Pieces()
        self.large_records = LargeRecords(self.scheduler, clock)
        self.producer_ids = ProducerIds(self.flusher)
        self.groups = Groups(self.flusher, self.topics, clock, self.scheduler, options.groups)
        self.topology.vhost_deleted.append(lambda vhost: self.topics.forget_vhost(vhost.name))
        self.alarms = Alarms(
            options.memory_limit,
            options.disk_free_limit,
            lambda: files.free_bytes(options.data),
        )

    # ---- publishing ----

    def publish(self, vhost: Vhost, runs: Sequence[PublishRun]) -> Published:
        """Route the messages of runs; the queues get them at the end of the pass, or before in `take_in`.

        Raises NotFound for no such exchange; the runs before that one are published.
        """
        result = Published()
        known_route = vhost.known_route
        pending = self._pending
        lasting = False
        index = 0
        for run in runs:
            envelope = run.envelope
            facts = envelope.facts
            count = len(run.contents)
            route = known_route(envelope.exchange, envelope.routing_key)
            if route is None or facts.has_copies:
                if headers_decide(vhost, envelope.exchange, envelope):
                    self.take_in()
                    pending = self._pending
                    self._publish_by_headers(vhost, run, index, result)
                    index += count
                    continue
                route = vhost.route(envelope.exchange, envelope.routing_key)
            exchange = route.exchange
            exchange.messages_in += count
            queues = route.queues
            if not queues:
                result.unroutable = (*result.unroutable, *range(index, index + count))
            exchange.messages_out += count * len(queues)
            for queue in queues:
                if queue.limited:
                    self._push(queue, run, index, result)
                elif (waiting := pending.get(queue)) is None:
                    pending[queue] = [run]
                elif waiting[-1].envelope.facts is facts:
                    waiting.append(run)
                else:
                    self._push_together(queue, waiting, self.clock.now_ms())
                    pending[queue] = [run]
            if route.keeps_transient or (route.lasting and facts.persistent):
                lasting = True
            index += count
        if lasting:
            result.commit = self.flusher.open
        return result

    def take_in(self) -> None:
        """Push what was published in this pass.

        Call it before anything is done with queues but publishing, acknowledging and handing out.
        """
        if self._pending:
            pending, self._pending = self._pending, {}
            now_ms = self.clock.now_ms()
            for queue, runs in pending.items():
                self._push_together(queue, runs, now_ms)

    def _push_together(self, queue: Sink, runs: list[PublishRun], now_ms: int) -> None:
        """Push runs with the same facts, from whatever publishers, as one."""
        queue.push(runs[0] if len(runs) == 1 else PublishRun.of(runs), now_ms)
        if queue.eager:
            assert isinstance(queue, Queue)
            self._marked[queue] = None

    def _push(self, queue: Sink, run: PublishRun, index: int, result: Published) -> None:
        """Push at once what a queue may refuse."""
        refused = queue.push(run, self.clock.now_ms())
        if refused:
            result.refused = sorted({*result.refused, *[index + number for number in refused]})
        if queue.eager:
            assert isinstance(queue, Queue)
            self._marked[queue] = None

    def _push_all(self, queues: Sequence[Sink], run: PublishRun, index: int, result: Published) -> None:
        for queue in queues:
            self._push(queue, run, index, result)
            if queue.keeps_transient or (queue.lasting and run.envelope.facts.persistent):
                result.commit = self.flusher.open

    def check(self, vhost: Vhost, runs: Sequence[PublishRun]) -> None:
        """Raises what `publish` would raise, before anything is published."""
        for run in runs:
            exchange = vhost.exchange(run.envelope.exchange).name
            if headers_decide(vhost, exchange, run.envelope):
                for closed in run.contents:
                    copies(headers_of(closed))

    def _publish_by_headers(self, vhost: Vhost, run: PublishRun, index: int, result: Published) -> None:
        """Push each message where its headers lead it."""
        envelope = run.envelope
        exchange = vhost.exchange(envelope.exchange)
        exchange.messages_in += len(run.contents)
        unroutable = []
        for closed in run.contents:
            headers = headers_of(closed)
            queues = queues_of(vhost, envelope, headers)
            if queues:
                if "BCC" in headers:
                    closed = without_bcc(closed, envelope)
                exchange.messages_out += len(queues)
                self._push_all(queues, PublishRun(envelope, [closed], None), index, result)
            else:
                unroutable.append(index)
            index += 1
        result.unroutable = (*result.unroutable, *unroutable)

    # ---- passes ----

    def mark(self, queue: Source) -> None:
        """Something changed in a queue: at the end of the pass it hands out and looks at the clock."""
        self._marked[queue] = None

    def mark_later(self, source: Source) -> None:
        """The same in a turn of its own, for whoever has had enough of this one."""
        self.scheduler.after(1, partial(self.mark, source))

    def _note_timed(self, queue: Queue) -> None:
        self._timed[queue] = None

    def end_pass(self, *, commit: bool = True) -> None:
        """Carry through what was begun: call it after anything that may have changed a queue.

        Whoever has more to come may leave the start of a commit to a later call of `flusher.flush`.
        """
        while True:
            self.take_in()
            while self._marked or self._timed or self._graves:
                self._carry_through()
            if commit:
                self.flusher.flush()
            for call in self.pass_ends:
                call()
            if not self._marked:  # otherwise somebody was lost in sending, and what it had goes to others
                return

    def _carry_through(self) -> None:
        marked, self._marked = self._marked, {}
        for queue in marked:
            try:
                if queue.ready_count:
                    queue.dispatch()
            except Exception as error:
                _contain(queue, error)
            if isinstance(queue, Queue) and queue.timed:
                self._timed[queue] = None
        if self._timed:
            self._watch_time()
        graves, self._graves = self._graves, []
        for queue, reason, piece in graves:
            try:
                self._publish_dead(queue, reason, piece)
            except Exception as error:
                _contain(queue, error)

    def _watch_time(self) -> None:
        """Bury what has expired, and have a timer ready for what will."""
        timed, self._timed = self._timed, {}
        now_ms = self.clock.now_ms()
        for queue in timed:
            if queue.deleted:
                self._cancel_timer(queue)
                continue
            try:
                queue.expire(now_ms)
            except Exception as error:
                _contain(queue, error)
                continue
            moment = queue.next_moment()
            timer = self._timers.get(queue)
            if timer is not None and timer.moment_ms != moment:
                self._cancel_timer(queue)
                timer = None
            if moment and timer is None:
                self._timers[queue] = self.scheduler.at(
                    max(moment, now_ms + 1),
                    lambda queue=queue: self._time_has_come(queue),  # type: ignore[misc]
                )

    def _cancel_timer(self, queue: Queue) -> None:
        timer = self._timers.pop(queue, None)
        if timer is not None:
            timer.cancel()

    def _time_has_come(self, queue: Queue) -> None:
        self._timers.pop(queue, None)
        if queue.deleted:
            return
        if queue.is_unused(self.clock.now_ms()):
            logger.info("queue '%s'/%s: unused for too long, deleted", queue.vhost, queue.name)
            self.topology.delete_queue(self.topology.vhost(queue.vhost), queue)
            return
        self._timed[queue] = None
        self.mark(queue)

    # ---- dead letters ----

    def _bury(self, queue: Queue, reason: str, piece: Slice) -> None:
        """What a queue gives up is a dead letter if it has an exchange for them, and gone if not."""
        if queue.settings.dead_letter_exchange is None:
            self.metrics.discarded[reason] += len(piece)
            queue.forget(piece)
        else:
            self.metrics.dead_lettered[reason] += len(piece)
            self._graves.append((queue, reason, piece))

    def _publish_dead(self, queue: Queue, reason: str, piece: Slice) -> None:
        """Replace messages by their dead letters: after a crash there are the ones or the others."""
        lasts = queue.lasting and not queue.deleted
        with self.flusher.together(self.topology.store_of(queue)) if lasts else nullcontext():
            vhost = self.topology.vhosts.get(queue.vhost)
            if vhost is not None:
                for letters in letters_of(queue, reason, piece, self.clock.now_ms()):
                    self._push_all(routes_of_dead(vhost, letters), letters.run, 0, Published())
            queue.forget(piece)

    # ---- waiting ----

    async def settled(self, commit: Commit | None = None) -> None:
        """End the pass and wait until what was done so far, or the given commit, is safe."""
        commit = commit or self.flusher.open
        self.end_pass()
        await self.flusher.durable(commit)

    async def run(self) -> None:
        """Timers, alarms and tidying, forever."""
        async with trio.open_nursery() as nursery:
            self.scheduler.after(0, self._check_alarms)
            self.scheduler.after(_TIDY_MS, self._tidy)
            nursery.start_soon(self.scheduler.run, self.end_pass)
            nursery.start_soon(self._watch_restored)

    def _check_alarms(self) -> None:
        reserved = self._reserve.keep(disk_full=self.flusher.disk_full)
        if reserved < self._reserved and not self.flusher.disk_full:
            logger.error("disk: less room than is kept in reserve, %d octets", self.options.reserve_size)
        self._reserved = reserved
        self.alarms.check(disk_full=self.flusher.disk_full or not reserved)
        self.scheduler.after(_ALARM_MS, self._check_alarms)

    def _tidy(self) -> None:
        """What the journal holds goes to the files; logs in which little lives shrink, or go altogether."""
        self.scheduler.after(_TIDY_MS, self._tidy)
        self.flusher.checkpoint_soon()
        self.flusher.tidy()
        self._tidy_topics()
        self.groups.tidy(self.clock.now_ms())

    def _tidy_topics(self) -> None:
        if self.topics.tidy(self.clock.now_ms()):
            self.scheduler.after(1, self._tidy_topics)

    async def _watch_restored(self) -> None:
        """Messages that the last process left behind and that have a time of their own to expire."""
        for queue in self.topology.queues():
            if queue.deleted:
                continue
            for expires_at, offsets in self.topology.store_of(queue).expiries():
                queue.watch_stored(expires_at, offsets)
                await trio.lowlevel.checkpoint()
            self._timed[queue] = None
            await trio.lowlevel.checkpoint()
        self.end_pass()

    # ---- opening and closing ----

    def load(self) -> None:
        """Bring definitions and messages back."""
        self._reserve.make_room()
        logs = RecoveredLogs(self._files, self._reader, self._journal, self.topology.known_id)

        def open_queue_log(id: int, name: str) -> Log:
            directory = self.topology.queue_directory(id)
            size = self.options.segment_size_max
            return logs.open(id, directory, f"queue {name}", size, True, settles=True)

        found = self._definitions.read_all()
        self.topology.load(found, open_queue_log)
        self.topics.load_all(found, logs.open, logs.unsynced)
        self.topology.load_bindings(found)
        self.accounts.load(found)
        self.cluster.load(found)
        self.producer_ids.load(found)
        self.groups.load()
        logs.all_are_open(self._journal_directory)
        self.topics.note_safe()
        logs.remove_strangers(
            self.topology.queue_directory(0),
            {str(store.log.id) for store in map(self.topology.store_of, self.topology.queues())},
        )
        logs.remove_strangers(
            self.topics.directory(0),
            {str(partition.log.id) for topic in self.topics.topics() for partition in topic.partitions},
        )

    def close(self) -> None:
        """Make everything durable, and let go. Raises a failure of the disk."""
        try:
            self.flusher.stop()
            self.topics.note_safe()
            self._reserve.remove()  # nothing is left that could need it
        finally:
            self._reader.close()
            self._definitions.close()
            self._unlock()


def open_node(
    options: NodeOptions, files: Files | None = None, definitions: DefinitionStore | None = None
) -> Node:
    """Lock the data folder and open a node on it; inside `trio.run`.

    Raises DataFolderInUse, or CorruptLog, SyncFailed and DiskFull for what the disk does, or OSError if there cannot
    be such a folder.
    """
    files = files or Disk()
    try:
        files.make_directory(options.data)
    except SyncFailed as failure:  # no disk that failed: a folder that cannot be there
        raise failure.__cause__ or failure from None
    with ExitStack() as undo:
        unlock = files.lock(os.path.join(options.data, "lock"))
        undo.callback(unlock)
        definitions = definitions or SqliteDefinitions(os.path.join(options.data, "definitions.sqlite"))
        node = Node(options, files, definitions, Clock(), unlock)
        undo.pop_all()
        undo.callback(node.close)
        node.load()
        undo.pop_all()
    return node


def _contain(queue: Source, error: Exception) -> None:
    """A bug in one queue is not the others'. A failure of the disk is raised again."""
    if isinstance(error, StorageError):
        raise error
    logger.error("queue '%s'/%s: an error of ours", queue.vhost, queue.name, exc_info=error)
