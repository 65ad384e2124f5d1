"""Topics that are produced to, cut, deleted and made again, beside queues and a group, killed and crashed at any step.

Of what was acknowledged each process must find all, at the same offsets; see `topic_twin.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from broker.model.committed import CommittedOffset
from broker.model.errors import AlreadyExists
from broker.node.flusher import Commit
from broker.node.partition import Partition
from fakes import FakeFiles, PowerFailed
from stepped_node import SteppedNode
from topic_twin import Producer, TopicTwin, contents, numbers

NAMES = ("t0", "t1", "t2", "os")
QUEUES = ("q0", "q1")
GROUP = "g"
RETENTION_MS = 60_000
SEGMENT_SIZE = 500
AGAIN = st.one_of(st.none(), st.none(), st.tuples(st.integers(0, 15), st.integers(0, 2**32)))
STEPS = st.integers(0, 20)


@dataclass(eq=False)
class Together:
    """Something to a queue and something to a topic that nobody may see the one of without the other."""

    number: int
    twin: TopicTwin
    offset: int
    value: bytes


class TopicMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.under = SteppedNode(segment_size_max=SEGMENT_SIZE)
        self.numbers = numbers()
        self.twins: dict[str, list[TopicTwin]] = {name: [] for name in NAMES}
        """The last one is there, unless it is deleted."""
        self.published: dict[str, dict[int, bool | None]] = {name: {} for name in QUEUES}
        """Of the messages of each queue, whether they are confirmed; None if nobody can say whether they are there."""
        self.together: list[Together] = []
        for name in NAMES:
            self._create(name)
        for name in QUEUES:
            self.under.declare(name)
        self.under.finish()

    # ---- helpers ----

    @property
    def open(self) -> Commit:
        return self.under.node.flusher.open

    def _create(self, name: str) -> None:
        configs = {"flush": "os"} if name == "os" else {}
        made = self.under.create(name, retention_ms=str(RETENTION_MS), **configs)
        self.twins[name].append(TopicTwin(name, made.id, name != "os", self.open))

    def _there(self, name: str) -> tuple[TopicTwin, Partition] | None:
        found = self.under.node.topics.find("/", name)
        if found is None:
            return None
        twin = self.twins[name][-1]
        assert twin.id == found.id
        return twin, found.partition(0)

    def _values(self, count: int) -> list[bytes]:
        return [b"%d" % next(self.numbers) for _ in range(count)]

    # ---- clients ----

    @rule(name=st.sampled_from(NAMES), count=st.integers(1, 4))
    def append(self, name, count):
        if there := self._there(name):
            twin, partition = there
            twin.append(partition, self._values(count), self.under.clock.now)

    @rule(count=st.integers(1, 2))
    def append_to_all(self, count):
        """Which goes through the journal."""
        for name in NAMES:
            self.append(name, count)
        self.under.end_pass()

    @rule(name=st.sampled_from(NAMES), which=st.integers(0, 1), count=st.integers(1, 3))
    def send(self, name, which, count):
        if not (there := self._there(name)):
            return
        twin, partition = there
        while len(twin.producers) < 2:
            id, commit = self.under.node.producer_ids.take()
            taken = [one.id for twins in self.twins.values() for each in twins for one in each.producers]
            assert id not in taken or commit is not None
            twin.producers.append(Producer(id))
        producer = twin.producers[which]
        if len(producer.inflight) < 5:
            twin.send(partition, producer, self._values(count), self.under.clock.now)

    @rule(name=st.sampled_from(NAMES), which=st.integers(0, 1), at=st.integers(0, 9))
    def send_again(self, name, which, at):
        there = self._there(name)
        if not there or not there[0].producers:
            return
        twin, partition = there
        producer = twin.producers[which]
        known = [*producer.acked, *producer.inflight][-5:]
        known = [sent for sent in known if sent.offset >= twin.starts[-1] and twin.is_there(sent)]
        if known:
            twin.send_again(partition, producer, known[at % len(known)], self.under.clock.now)

    @rule(name=st.sampled_from(NAMES), part=st.floats(0, 1))
    def delete_records(self, name, part):
        if there := self._there(name):
            twin, partition = there
            twin.move_start(partition, int(part * partition.high_watermark))

    @rule(name=st.sampled_from(NAMES), offset=st.integers(0, 100))
    def commit_an_offset(self, name, offset):
        if not (there := self._there(name)):
            return
        twin, _ = there
        groups = self.under.node.groups
        committed = CommittedOffset(offset, 0, "", self.under.clock.now)
        groups.hosted(GROUP).committed.commit(name, 0, committed)
        commit = groups.committed(GROUP, {(name, 0): committed})
        twin.committed.append(offset)
        commit.waiters.append(partial(twin.offset_is_safe, len(twin.committed) - 1))

    @rule(name=st.sampled_from(NAMES))
    def delete_or_create(self, name):
        there = self._there(name)
        if there is not None:
            there[0].deleted = self.open
            self.under.node.topics.delete(self.under.node.topics.topic("/", name))
        elif self.twins[name] and not self.twins[name][-1].gone:
            with pytest.raises(AlreadyExists):
                self._create(name)
        else:
            self._create(name)

    @rule(name=st.sampled_from(QUEUES), count=st.integers(1, 3))
    def publish(self, name, count):
        made = [next(self.numbers) for _ in range(count)]
        result = self.under.publish(name, *[b"%d" % number for number in made])
        self.published[name].update(dict.fromkeys(made, False))
        assert result.commit is not None
        result.commit.waiters.append(lambda: self._confirm(name, made))

    def _confirm(self, name: str, made: list[int]) -> None:
        for number in made:
            if self.published[name].get(number) is False:
                self.published[name][number] = True

    @rule(name=st.sampled_from(QUEUES))
    def purge(self, name):
        self.under.vhost.queues[name].purge()
        self.published[name] = dict.fromkeys(self.published[name])
        self.together.clear()

    @rule(name=st.sampled_from(NAMES))
    def publish_a_transaction(self, name):
        if not (there := self._there(name)):
            return
        twin, partition = there
        self.open.atomic_messages = True
        self.publish("q0", 1)
        (value,) = self._values(1)
        offset = twin.append(partition, [value], self.under.clock.now)
        self.together.append(Together(max(self.published["q0"]), twin, offset, value))

    # ---- time ----

    @rule(lives=st.sampled_from((0, 0.4, 1.1)))
    def tidy(self, lives):
        self.under.clock.now += int(lives * RETENTION_MS)
        flusher = self.under.node.flusher
        flusher.checkpoint_soon()
        flusher.tidy()
        self.under.node.topics.tidy(self.under.clock.now)
        self.under.node.groups.tidy(self.under.clock.now)
        for name in NAMES:
            if there := self._there(name):
                there[0].start_has_moved(there[1])
        self.under.end_pass()

    # ---- the loop and the threads ----

    @rule()
    def end_pass(self):
        self.under.end_pass()

    @rule()
    def writer_works(self):
        self.under.writer.step()
        self.under.node.flusher.collect()

    @rule()
    def mover_works(self):
        self.under.mover.step()
        self.under.node.flusher.collect()

    @rule()
    def a_checkpoint_is_due(self):
        self.under.node.flusher.checkpoint_soon()
        self.under.end_pass()

    @rule()
    def commit(self):
        self.under.commit()

    @rule()
    def finish(self):
        self.under.finish()
        assert not [path for path in self.under.files.paths() if path.endswith(".journal")]
        topics = self.under.node.topics.topics()
        logs = {str(one.log.id) for topic in topics for one in topic.partitions}
        assert set(self.under.files.names("/data/partitions")) <= logs

    @rule(room=st.integers(0, 400))
    def the_disk_is_full(self, room):
        self.under.files.room = self.under.files.taken + room
        self.under.end_pass()
        for _ in range(2):
            self.under.work()
        self.under.files.room = None

    # ---- the end ----

    @rule(writer=STEPS, mover=STEPS, seed=st.integers(0, 2**32), mover_first=st.booleans(), again=AGAIN)
    def crash(self, writer, mover, seed, mover_first, again):
        self._lose_power(writer, mover, mover_first)
        self.under.abandon()
        self._begin(self._crashed_again(self.under.files.crash(seed), again), killed=False)

    @rule(writer=STEPS, mover=STEPS, mover_first=st.booleans(), again=AGAIN)
    def kill(self, writer, mover, mover_first, again):
        self._lose_power(writer, mover, mover_first)
        self.under.abandon()
        files = self.under.files.kill()
        if again is None:
            self._begin(files, killed=True)
        else:
            self._begin(self._crashed_again(files, again), killed=False)

    def _lose_power(self, writer: int, mover: int, mover_first: bool) -> None:
        steps = [(self.under.writer, writer), (self.under.mover, mover)]
        for worker, after in reversed(steps) if mover_first else steps:
            self.under.fail_power(worker, after)

    def _crashed_again(self, files: FakeFiles, again: tuple[int, int] | None) -> FakeFiles:
        """The power may fail once more, in recovery."""
        if again is None:
            return files
        steps, seed = again
        files.power_fails_after = files.steps + steps
        try:
            self._started(files).abandon()
        except PowerFailed:
            pass
        return files.crash(seed)

    def _started(self, files: FakeFiles) -> SteppedNode:
        return SteppedNode(
            files, self.under.definitions, now_ms=self.under.clock.now, segment_size_max=SEGMENT_SIZE
        )

    @rule()
    def stop(self):
        self.under.finish()
        self.under.stop()
        self._begin(self.under.files, killed=True)

    def _begin(self, files: FakeFiles, *, killed: bool) -> None:
        self.under = self._started(files)
        for name in NAMES:
            self._find_again(name, killed)
        self._check_queues(killed)
        for one in self.together:
            self._check_together(one, killed)
        self.together.clear()
        self._check_offsets()
        now_ms = self.under.clock.now
        for name in NAMES:
            if there := self._there(name):
                twin, partition = there
                for producer in twin.producers:
                    twin.go_on(partition, producer, now_ms)
        self.under.commit()

    def _find_again(self, name: str, killed: bool) -> None:
        """What there was, and nothing of it if it was deleted."""
        found = self.under.node.topics.find("/", name)
        twin = self.twins[name][-1] if self.twins[name] else None
        if found is None:
            assert twin is None or twin.deleted or not twin.created.done, f"{name} is lost"
            self.twins[name] = []
            return
        assert twin is not None
        assert not twin.gone
        twin.recovered(found, killed=killed)
        self.twins[name] = [twin]

    def _check_queues(self, killed: bool) -> None:
        for name, known in self.published.items():
            found = [int(body) for body in self.under.stored(name)]
            assert found == sorted(found)
            assert set(found) <= known.keys()
            assert not [number for number, safe in known.items() if safe and number not in found]
            # What was not confirmed may be in files that are not synced.
            self.published[name] = {number: not killed or known[number] or None for number in found}

    def _check_together(self, one: Together, killed: bool) -> None:
        there = self._there(one.twin.name)
        if there is None or there[0] is not one.twin or one.offset < there[0].starts[-1]:
            return
        in_queue = one.number in self.published["q0"]
        in_topic = one.twin.records.get(one.offset) == one.value
        assert in_queue == in_topic or not (one.twin.syncs or killed), f"half of {one}"

    def _check_offsets(self) -> None:
        hosted = self.under.node.groups.find(GROUP)
        found = {} if hosted is None else {topic: one.offset for topic, _, one in hosted.committed}
        for name in NAMES:
            there = self._there(name)
            offset = found.pop(name, -1)
            if there is None:
                assert offset == -1, f"{name} is gone, and its offset is not"
            else:
                assert offset in there[0].committed
                there[0].committed = [offset]
        assert not found

    # ---- at any time ----

    @invariant()
    def the_partitions_have_what_is_safe(self):
        for name in NAMES:
            if there := self._there(name):
                there[0].check(there[1])

    @rule(name=st.sampled_from(NAMES), part=st.floats(0, 1), size=st.integers(0, 500))
    def read(self, name, part, size):
        """As octets and as batches, from anywhere."""
        if there := self._there(name):
            _, partition = there
            start, end = partition.start_offset, partition.high_watermark
            offset = start + int(part * (end - start))
            octets = partition.read(offset, size)
            whole = partition.batches(offset, size)
            assert octets.startswith(b"".join(whole[:1]))
            assert bool(octets) == bool(whole) == any(at >= offset for at in contents(partition))

    def teardown(self):
        self.under.abandon()


TestTopicMachine = TopicMachine.TestCase
TestTopicMachine.settings = settings(deadline=None)
