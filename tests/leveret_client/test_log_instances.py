"""Members of a group that are instances with ids of their own, at a real broker: they come back, and nothing moves."""

from __future__ import annotations

import anyio
import pytest

import leveret.log
from backends import on_both_backends
from leveret.log import InstanceFenced

QUICK = {"heartbeat_interval": 0.05, "offset": "earliest", "max_wait": 0.05}


def instance(log, topic, name, **options):
    return log.consumer(topic, **{"group": topic, "group_instance_id": name, **QUICK, **options})


def generation(consumer):
    """How often the group has been shared out, as this member knows."""
    return consumer._membership.member.generation


async def shares(consumer, count):
    while len(consumer.assignment) != count:  # noqa: ASYNC110 - nobody tells of that
        await anyio.sleep(0.01)


async def fill(log, topic, numbers, partitions):
    async with log.producer() as producer:
        for number in numbers:
            await producer.send_soon(topic, b"%d" % number, partition=number % partitions)


class Process:
    """An instance with connections of its own, which reads until it is stopped."""

    def __init__(self, log_url, topic, name, **options):
        self.found = []
        self.consumer = None
        self.stopped = anyio.Event()
        self._url = log_url
        self._arguments = topic, name, options
        self._scope = anyio.CancelScope()

    async def __call__(self, *, task_status=anyio.TASK_STATUS_IGNORED):
        topic, name, options = self._arguments
        with self._scope:
            async with (
                leveret.log.connect(self._url) as log,
                instance(log, topic, name, **options) as self.consumer,
            ):
                task_status.started()
                async for record in self.consumer:
                    self.found.append(int(record.value))
        self.stopped.set()

    async def stop(self):
        self._scope.cancel()
        await self.stopped.wait()

    async def has(self, numbers):
        """It has read these, once each, and nothing else."""
        while len(self.found) < len(numbers):  # noqa: ASYNC110 - a list tells nobody
            await anyio.sleep(0.01)
        assert sorted(self.found) == sorted(numbers)


@pytest.mark.parametrize("who", ["the leader", "another"])
@on_both_backends
async def test_a_restart_takes_over_the_same_partitions_and_moves_no_others(log_url, topic, who):
    async with leveret.log.connect(log_url) as log, anyio.create_task_group() as tasks:
        await log.create_topic(topic, partitions=4)
        old, other = Process(log_url, topic, "one"), Process(log_url, topic, "two")
        # Whoever comes first leads.
        for process in (old, other) if who == "the leader" else (other, old):
            await tasks.start(process)
        await shares(old.consumer, 2)
        await shares(other.consumer, 2)
        owned, shared_out = old.consumer.assignment, generation(other.consumer)
        assigned = [*other.consumer._fetcher.assigned.values()]
        await old.stop()

        new = Process(log_url, topic, "one")
        await tasks.start(new)
        assert new.consumer.assignment == owned
        await fill(log, topic, range(40), 4)
        mine = [number for number in range(40) if (topic, number % 4) in owned]
        await new.has(mine)
        await other.has(set(range(40)) - set(mine))
        await anyio.sleep(0.2)  # heartbeats, each of which would say: join again
        assert new.consumer.assignment == owned
        assert generation(new.consumer) == generation(other.consumer) == shared_out
        # They are compared by identity: it was not told anew what it has.
        assert all(one in assigned for one in other.consumer._fetcher.assigned.values())
        tasks.cancel_scope.cancel()


@on_both_backends
async def test_a_restart_goes_on_where_it_was(log_url, topic):
    async with leveret.log.connect(log_url) as log:
        await fill(log, topic, range(10), 1)
        for expected in (range(0, 4), range(4, 10)):
            async with instance(log, topic, "one") as consumer:
                assert [int((await anext(consumer)).value) for _ in expected] == list(expected)


@on_both_backends
async def test_who_is_still_there_when_another_comes_in_its_place_is_fenced(log_url, topic):
    async with leveret.log.connect(log_url) as log, leveret.log.connect(log_url) as other:
        await fill(log, topic, range(10), 1)
        async with instance(log, topic, "one") as old:
            assert int((await anext(old)).value) == 0
            async with instance(other, topic, "one") as new:
                with pytest.raises(InstanceFenced, match=r"as its instance 'one': FENCED_INSTANCE_ID"):
                    async for _ in old:
                        pass
                with pytest.raises(InstanceFenced, match=r"as its instance 'one': FENCED_INSTANCE_ID"):
                    await old.commit()
                # Nothing of the old one was committed.
                assert int((await anext(new)).value) == 0
                await new.commit()
                assert await new.committed(topic, 0) == 1


@on_both_backends
async def test_an_instance_that_does_not_come_back_is_missed_after_its_session(log_url, topic, is_gone):
    async with leveret.log.connect(log_url) as log:
        await log.create_topic(topic, partitions=2)
        async with instance(log, topic, "one", session_timeout=0.5):
            pass
        async with instance(log, topic, "two") as other:
            await shares(other, 2)
            assert is_gone(topic, "its session timed out")
