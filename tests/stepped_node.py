"""A node on a file system in memory, whose threads do nothing until the test lets them.

Flow:   `SteppedNode()` opens one; `finish` lets everything become safe; `crash` and `kill` end the process
        wherever its two workers are, and give the next one on the same data.
Shape:  two workers, "leveret-commit" and "leveret-checkpoint", each with the jobs that wait for it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Self

from broker.amqp import content
from broker.amqp.envelope import PublishRun, envelope_of
from broker.amqp.properties import Properties, encode, facts_of
from broker.model.queue import Queue
from broker.node.definitions import DefinitionStore
from broker.node.groups import GroupOptions
from broker.node.node import Node, NodeOptions
from broker.node.partition import Partition
from broker.node.published import Published
from broker.node.topics import Topic
from broker.node.worker import Job, Worker
from broker.storage.file import Files
from fakes import FakeClock, FakeDefinitions, FakeFiles

DATA = "/data"
FRAME_MAX = 131_072


class SteppedWorker(Worker):
    """Does one job when it is told to."""

    def __init__(
        self, name: str, files: Files, definitions: DefinitionStore, finished: Callable[[Job], None]
    ) -> None:
        super().__init__(name, files, definitions, finished)
        self.name = name
        self.jobs: deque[Job] = deque()

    def do(self, job: Job) -> None:
        self.jobs.append(job)
        if self._impatient.is_set():
            self._do_all()

    def hurry(self) -> None:
        """Whoever stops waits for the jobs: they are done at once from now on."""
        super().hurry()
        self._do_all()

    def _do_all(self) -> None:
        while self.step():
            pass

    def step(self) -> bool:
        """Try the oldest job; False if there is none, or no room for it."""
        if not self.jobs or not self.attempt(self.jobs[0]):
            return False
        self.jobs.popleft()
        return True


class SteppedNode:
    """A node, its workers, and what they run on."""

    def __init__(
        self,
        files: FakeFiles | None = None,
        definitions: FakeDefinitions | None = None,
        *,
        now_ms: int = 1_700_000_000_000,
        segment_size_max: int = 2000,
        queue_memory_max: int = 1 << 20,
        groups: GroupOptions | None = None,
    ) -> None:
        self.files = files or FakeFiles()
        self.definitions = definitions or FakeDefinitions()
        self.clock = FakeClock(now_ms)
        self.workers: list[SteppedWorker] = []
        self._ended = False
        self._following: Self | None = None
        self._options = NodeOptions(
            data=DATA,
            segment_size_max=segment_size_max,
            queue_memory_max=queue_memory_max,
            groups=groups or GroupOptions(),
            reserve_size=0,
        )
        self.files.make_directory(DATA)
        unlock = self.files.lock(f"{DATA}/lock")
        self.node = Node(self._options, self.files, self.definitions, self.clock, unlock, self._worker)
        self.node.topics.segment_size_max = segment_size_max
        try:
            self.node.load()
        except BaseException:
            self.abandon()
            raise
        self.node.topology.put_vhost("/")
        self.vhost = self.node.topology.vhost("/")

    def _worker(
        self, name: str, files: Files, definitions: DefinitionStore, finished: Callable[[Job], None]
    ) -> SteppedWorker:
        self.workers.append(SteppedWorker(name, files, definitions, finished))
        return self.workers[-1]

    @property
    def writer(self) -> SteppedWorker:
        return self.workers[0]

    @property
    def mover(self) -> SteppedWorker:
        return self.workers[1]

    # ---- what clients do ----

    def declare(self, name: str, **arguments: object) -> Queue:
        return self.node.topology.declare_queue(self.vhost, name, arguments=arguments)[0]

    def publish(
        self,
        routing_key: str,
        *bodies: bytes,
        exchange: str = "",
        persistent: bool = True,
        expiration: str | None = None,
    ) -> Published:
        """As one run that the queues have at once; `commit` of the result says when it may be confirmed."""
        properties = encode(Properties(delivery_mode=2 if persistent else 1, expiration=expiration))
        envelope = envelope_of(1, FRAME_MAX, exchange, routing_key, facts_of(properties))
        contents = [content.build(1, properties, body, FRAME_MAX) for body in bodies]
        published = self.node.publish(self.vhost, [PublishRun(envelope, contents, None)])
        self.node.take_in()
        return published

    def create(self, name: str, partitions: int = 1, **configs: str) -> Topic:
        """In the names of configurations underscores stand for dots."""
        given = {config.replace("_", "."): value for config, value in configs.items()}
        return self.node.topics.create("/", name, partitions, configs=given)

    def partition(self, topic: str, number: int = 0) -> Partition:
        return self.node.topics.topic("/", topic).partition(number)

    # ---- what threads do ----

    def end_pass(self) -> None:
        self.node.end_pass()

    def work(self) -> bool:
        """Let each worker do one job, and the loop hear of it; whether anything was done."""
        done = [worker.step() for worker in self.workers]
        self.node.flusher.collect()
        self.node.end_pass()
        return any(done)

    def commit(self) -> None:
        """End the pass and let what it began become safe; settlements may still wait."""
        self.end_pass()
        while self.work():
            pass

    def finish(self) -> None:
        """Let everything become safe, and the journal be empty."""
        flusher = self.node.flusher
        for _ in range(3):  # what settles may bury, and what is buried settles
            flusher.settle_soon()
            flusher.checkpoint_soon()
            self.commit()

    # ---- the end ----

    def close(self) -> Self:
        """Stop, and start again."""
        self.stop()
        return self._next(self.files)

    def stop(self) -> None:
        self.node.close()
        self._ended = True

    def crash(self, seed: int) -> Self:
        """The power fails now."""
        self.abandon()
        return self._next(self.files.crash(seed))

    def kill(self) -> Self:
        """The process dies now."""
        self.abandon()
        return self._next(self.files.kill())

    def fail_power(self, worker: SteppedWorker, after: int) -> None:
        """Let a worker do so many steps of its job, and lose power in the next one."""
        self.files.power_fails_after = self.files.steps + after
        worker.step()

    def abandon(self) -> None:
        """It, and whatever process came behind it, will never be closed."""
        if not self._ended:
            os.close(self.node.flusher.fileno())
        self._ended = True
        if self._following is not None:
            self._following.abandon()

    def _next(self, files: FakeFiles) -> Self:
        self._ended = True
        self._following = type(self)(
            files,
            self.definitions,
            now_ms=self.clock.now,
            segment_size_max=self._options.segment_size_max,
            queue_memory_max=self._options.queue_memory_max,
        )
        return self._following

    # ---- what is there ----

    def stored(self, name: str) -> list[bytes]:
        """The bodies of all messages that a queue's store has and that are not settled, in order."""
        store = self.node.topology.store_of(self.vhost.queues[name])
        found: list[bytes] = []
        at = 0
        while pieces := store.read(at, 4096):
            for piece in pieces:
                found += bodies_of(piece.contents)
            at = pieces[-1].offsets[-1] + 1
        return found


def bodies_of(contents: Sequence[bytes]) -> list[bytes]:
    return [content.body_of(closed) for closed in contents]
