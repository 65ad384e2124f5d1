"""Consumers that share topics as members of a group, at a real broker."""

from __future__ import annotations

import anyio
import pytest

import leveret.log
from backends import on_both_backends
from broker.kafka import api
from leveret.log import BrokerError, CommitFailed
from leveret.log.coordinator import Coordinator

QUICK = {"heartbeat_interval": 0.05, "offset": "earliest", "max_wait": 0.05}


def member(log, topic, **options):
    return log.consumer(topic, **{"group": topic, **QUICK, **options})


async def fill(log, topic, count, *, first=0, partitions=1):
    async with log.producer() as producer:
        for number in range(first, first + count):
            await producer.send_soon(topic, b"%d" % number, partition=number % partitions)


async def take(consumer, count):
    """So many records, of which the last one stays in hand."""
    return [int((await anext(consumer)).value) for _ in range(count)]


class Reader:
    """A member that reads until it is told to stop."""

    def __init__(self, log, topic, **options):
        self.found = []
        self.consumer = member(log, topic, **options)
        self.scope = anyio.CancelScope()
        self._news = anyio.Event()

    async def __call__(self, *, task_status=anyio.TASK_STATUS_IGNORED):
        with self.scope:
            async with self.consumer:
                task_status.started()
                async for record in self.consumer:
                    self.found.append(record)
                    self._news.set()

    async def has(self, numbers):
        """It has read these, whatever else."""
        while not set(numbers) <= {int(record.value) for record in self.found}:
            self._news = anyio.Event()
            await self._news.wait()

    async def owns(self, count):
        """It has so many partitions."""
        while len(self.consumer.assignment) != count:  # noqa: ASYNC110 - nobody tells of that
            await anyio.sleep(0.01)


# ---- sharing ----


@on_both_backends
async def test_two_share_the_partitions_and_one_leaves(log_url, topic):
    async with leveret.log.connect(log_url) as log, anyio.create_task_group() as tasks:
        await log.create_topic(topic, partitions=4)
        first, second = Reader(log, topic), Reader(log, topic)
        await tasks.start(first)
        assert len(first.consumer.assignment) == 4
        await fill(log, topic, 8, partitions=4)
        await first.has(range(8))

        await tasks.start(second)
        await first.owns(2)
        await second.owns(2)
        assert not first.consumer.assignment & second.consumer.assignment
        await fill(log, topic, 8, first=8, partitions=4)
        theirs = [number for number in range(8, 16) if (topic, number % 4) in second.consumer.assignment]
        await first.has(set(range(8, 16)) - set(theirs))
        await second.has(theirs)

        first.scope.cancel()
        await second.owns(4)
        await fill(log, topic, 8, first=16, partitions=4)
        await second.has(range(16, 24))
        tasks.cancel_scope.cancel()
    # The second began where the first had committed, also of what the first had read before.
    both = [int(record.value) for reader in (first, second) for record in reader.found]
    assert sorted(set(both)) == list(range(24))


@on_both_backends
async def test_a_member_that_leaves_by_an_error_gives_its_partitions_away_at_once(log_url, topic):
    async with leveret.log.connect(log_url) as log, anyio.create_task_group() as tasks:
        await log.create_topic(topic, partitions=2)
        await fill(log, topic, 4, partitions=2)

        async def fail():
            async with member(log, topic) as consumer:
                await take(consumer, 1)
                raise KeyError

        with pytest.raises(KeyError):
            await fail()
        reader = Reader(log, topic)
        await tasks.start(reader)
        assert len(reader.consumer.assignment) == 2
        # The record in hand was not read: it comes again.
        await reader.has(range(4))
        tasks.cancel_scope.cancel()


@on_both_backends
async def test_a_member_that_vanishes_is_missed_after_its_session(log_url, topic, is_gone):
    """Its connections are lost, and nobody says goodbye."""
    async with leveret.log.connect(log_url) as log, anyio.create_task_group() as tasks:
        await log.create_topic(topic, partitions=2)
        async with leveret.log.connect(log_url) as other:
            lost = member(other, topic, session_timeout=0.5)
            await lost.__aenter__()
            lost._membership.member = lost._membership.member._replace(id="")  # it does not leave
            await lost.__aexit__(None, None, None)
        reader = Reader(log, topic)
        await tasks.start(reader)
        assert is_gone(topic, "its session timed out")
        assert len(reader.consumer.assignment) == 2
        tasks.cancel_scope.cancel()


@on_both_backends
async def test_more_members_than_partitions(log_url, topic):
    async with leveret.log.connect(log_url) as log, anyio.create_task_group() as tasks:
        readers = [Reader(log, topic) for _ in range(3)]
        for reader in readers:
            await tasks.start(reader)
        await fill(log, topic, 1)
        while True:
            owners = [reader for reader in readers if reader.consumer.assignment]
            if len(owners) == 1 and owners[0].found:
                break
            await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()


@on_both_backends
async def test_members_with_different_topics(log_url, topic):
    other = f"{topic}.other"
    async with leveret.log.connect(log_url) as log:
        await log.create_topic(topic, partitions=2)
        await log.create_topic(other, partitions=2)
        async with log.consumer(topic, other, group=topic, **QUICK) as both:
            assert len(both.assignment) == 4
            async with log.consumer(other, group=topic, **QUICK) as one:
                while len(both.assignment) != 3:  # noqa: ASYNC110 - nobody tells of that
                    await anyio.sleep(0.01)
                assert {place.topic for place in one.assignment} == {other}
                assert {place.topic for place in both.assignment} == {topic, other}


# ---- committing ----


@on_both_backends
async def test_a_group_goes_on_where_it_has_committed(log_url, topic):
    async with leveret.log.connect(log_url) as log:
        await fill(log, topic, 10)
        async with member(log, topic, auto_commit=False) as consumer:
            assert await consumer.committed(topic, 0) is None
            assert await take(consumer, 3) == [0, 1, 2]
            await consumer.commit()
            assert await consumer.committed(topic, 0) == 3
            assert await take(consumer, 3) == [3, 4, 5]
        async with member(log, topic, auto_commit=False) as consumer:
            assert consumer.position(topic, 0) == 3
            assert await take(consumer, 1) == [3]
        async with log.consumer(topic, group=f"{topic}.other", offset="latest") as consumer:
            assert consumer.position(topic, 0) == 10


@on_both_backends
async def test_what_was_read_is_committed_at_the_end(log_url, topic):
    async with leveret.log.connect(log_url) as log:
        await fill(log, topic, 10)
        async with member(log, topic) as consumer:
            async for record in consumer:
                if record.value == b"2":
                    break
        async with member(log, topic) as consumer:
            assert await take(consumer, 1) == [3]


@on_both_backends
async def test_a_record_in_hand_when_the_block_raises_is_read_again(log_url, topic):
    async with leveret.log.connect(log_url) as log:
        await fill(log, topic, 10)

        async def fail():
            async with member(log, topic) as consumer:
                await take(consumer, 3)
                raise KeyError

        with pytest.raises(KeyError):
            await fail()
        with anyio.CancelScope() as scope:
            async with member(log, topic) as consumer:
                assert await take(consumer, 3) == [2, 3, 4]
                scope.cancel()
                await anyio.sleep_forever()
        async with member(log, topic) as consumer:
            assert await take(consumer, 1) == [4]


@on_both_backends
async def test_what_was_read_is_committed_in_between(log_url, topic):
    async with leveret.log.connect(log_url) as log:
        await fill(log, topic, 10)
        async with member(log, topic, commit_interval=0.01) as consumer:
            await take(consumer, 5)
            while await consumer.committed(topic, 0) != 4:  # noqa: ASYNC110 - the fifth is in hand
                await anyio.sleep(0.01)


@on_both_backends
async def test_only_what_has_changed_is_committed(log_url, topic):
    async with leveret.log.connect(log_url) as log:
        await fill(log, topic, 10)
        async with member(log, topic, auto_commit=False) as consumer:
            await take(consumer, 2)
            await consumer.commit()
            asked = []
            ask = consumer._coordinator.ask
            consumer._coordinator.ask = lambda *arguments: asked.append(arguments) or ask(*arguments)
            await consumer.commit()
            assert not asked
            await take(consumer, 1)
            await consumer.commit()
            assert len(asked) == 1


@on_both_backends
async def test_a_commit_of_a_member_that_was_taken_for_dead(log_url, topic):
    """It has heartbeats so seldom that it does not hear of the other one."""
    async with leveret.log.connect(log_url) as log:
        await fill(log, topic, 10)
        sleepy = {"heartbeat_interval": 3600, "rebalance_timeout": 0.5, "auto_commit": False}
        async with member(log, topic, **sleepy) as consumer:
            await take(consumer, 3)
            async with member(log, topic, rebalance_timeout=0.5) as other:
                assert await take(other, 1) == [0]
                with pytest.raises(CommitFailed, match=f"group '{topic}' has been shared out anew"):
                    await consumer.commit()


# ---- rebalancing ----


@on_both_backends
async def test_a_record_in_hand_is_waited_for(log_url, topic):
    """The partition moves when the next record is asked for, and nothing is read twice."""
    async with leveret.log.connect(log_url) as log, anyio.create_task_group() as tasks:
        await log.create_topic(topic, partitions=2)
        await fill(log, topic, 20, partitions=2)
        async with member(log, topic) as consumer:
            mine = await take(consumer, 5)
            other = Reader(log, topic)
            tasks.start_soon(other)
            await anyio.sleep(0.3)  # some heartbeats, each of which says: join again
            assert not other.found
            assert len(consumer.assignment) == 2
            async with anyio.create_task_group() as both:

                async def read_on():
                    async for record in consumer:
                        mine.append(int(record.value))

                both.start_soon(read_on)
                await other.owns(1)
                while len(mine) + len(other.found) < 20:  # noqa: ASYNC110 - of two
                    await anyio.sleep(0.01)
                both.cancel_scope.cancel()
        tasks.cancel_scope.cancel()
    assert sorted(mine + [int(record.value) for record in other.found]) == list(range(20))


@on_both_backends
async def test_a_record_in_hand_is_not_waited_for_for_ever(log_url, topic):
    async with leveret.log.connect(log_url) as log:
        await log.create_topic(topic, partitions=2)
        await fill(log, topic, 20, partitions=2)
        async with member(log, topic, rebalance_timeout=1.0) as slow:
            first = await anext(slow)
            async with member(log, topic, rebalance_timeout=1.0) as other:
                assert len(other.assignment) == 1
                await take(other, 10)
            # What it had in hand was not committed, and comes again to whoever has that partition now.
            found = [first, *[await anext(slow) for _ in range(10)]]
            assert len({(record.partition, record.offset) for record in found}) >= 10


@on_both_backends
async def test_a_commit_counts_the_record_in_hand_as_read(log_url, topic):
    """So that nobody waits for it any more."""
    async with leveret.log.connect(log_url) as log:
        await log.create_topic(topic, partitions=2)
        await fill(log, topic, 4, partitions=2)
        async with member(log, topic, auto_commit=False) as consumer:
            await take(consumer, 4)
            await consumer.commit()
            async with member(log, topic) as other:
                assert len(other.assignment) == 1
                (place,) = other.assignment
                assert other.position(*place) == 2


@on_both_backends
async def test_members_come_and_go_and_every_record_is_read(log_url, topic):
    count = 400
    async with leveret.log.connect(log_url) as log, anyio.create_task_group() as tasks:
        await log.create_topic(topic, partitions=6)
        readers = [Reader(log, topic) for _ in range(5)]

        async def send():
            async with log.producer() as producer:
                for number in range(count):
                    await producer.send(topic, b"%d" % number, partition=number % 6)

        tasks.start_soon(send)
        for reader in readers:
            await tasks.start(reader)
            await anyio.sleep(0.1)
        for reader in readers[:3]:
            reader.scope.cancel()
            await anyio.sleep(0.1)
        found = set()
        while len(found) < count:
            await anyio.sleep(0.05)
            found = {int(record.value) for reader in readers for record in reader.found}
        tasks.cancel_scope.cancel()
    assert found == set(range(count))


# ---- what is refused ----


@on_both_backends
async def test_what_no_member_can_be(log_url, topic):
    async with leveret.log.connect(log_url) as log:
        for options, text in [
            ({"session_timeout": 0.05}, "INVALID_SESSION_TIMEOUT"),
            ({"group": ""}, "INVALID_GROUP_ID"),
        ]:
            with pytest.raises(BrokerError, match=text):
                await member(log, topic, **options).__aenter__()


@on_both_backends
async def test_a_group_that_shares_in_another_way(log_url, topic):
    """A member of another client is in it, which does not know our assignor."""
    join = {
        "session_timeout_ms": 10_000,
        "rebalance_timeout_ms": 10_000,
        "protocol_type": "consumer",
        "protocols": [{"name": "theirs", "metadata": b""}],
    }
    async with leveret.log.connect(log_url) as log:
        coordinator = Coordinator(log._cluster, topic)
        known = await coordinator.ask(api.JOIN_GROUP, join)
        joined = await coordinator.ask(api.JOIN_GROUP, {**join, "member_id": known["member_id"]})
        assert joined["protocol_name"] == "theirs"
        with pytest.raises(BrokerError, match=f"group '{topic}': joining: INCONSISTENT_GROUP_PROTOCOL"):
            await member(log, topic).__aenter__()
