"""Many partitions, made in portions: what happens to the topic, and to others, in the turns between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import trio

from broker.model.errors import AlreadyExists, InvalidPartitions, NotFound, UnknownTopic
from broker.node.portions import Portions
from broker.node.topics import Topic, Topics
from stepped_node import SteppedNode

PORTION = 10


class Turns(Portions):
    """Between two portions something happens that the test says."""

    def __init__(self, between: Callable[[], object] = lambda: None, *, only: int = 0) -> None:
        """In each turn, or only in this one."""
        super().__init__(PORTION)
        self.turns = 0
        self._units = 0
        self._between = between
        self._only = only

    async def take(self, units: int) -> None:
        await super().take(units)
        self._units += units
        if self._units >= PORTION:
            self._units = 0
            self.turns += 1
            if self._only in (0, self.turns):
                self._between()


@pytest.fixture
def under() -> Iterator[SteppedNode]:
    node = SteppedNode()
    node.commit()
    yield node
    node.abandon()


@pytest.fixture
def topics(under: SteppedNode) -> Topics:
    return under.node.topics


async def create(topics: Topics, portions: Portions, count: int = 35) -> Topic:
    return await topics.create_in_portions(portions, "/", "orders", count)


@pytest.mark.parametrize(("units", "at_once"), [(1, 10), (5, 2), (10, 1), (25, 1)])
async def test_a_portion_is_so_many_units(units, at_once):
    """Or more, if a unit of work cannot be divided."""
    done = 0
    seen = [0]
    over = False

    async def work():
        nonlocal done, over
        portions = Portions(10)
        for _ in range(100):
            done += 1
            await portions.take(units)
        over = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        while not over:
            await trio.lowlevel.checkpoint()
            seen.append(done)
    steps = {second - first for first, second in pairwise(seen)}
    # trio runs tasks in any order: one may have had its second turn when the other has its first.
    assert steps - {0} <= {at_once, 2 * at_once}


async def test_others_have_their_turn_and_there_is_no_topic_before_it_is_whole(under, topics):
    taken = [under.node.topology.take_id()]

    def look():
        taken.append(under.node.topology.take_id())
        assert topics.find("/", "orders") is None
        assert topics.is_coming("/", "orders")
        assert topics.partition_count == 35
        assert under.node.flusher.open.changes == []

    portions = Turns(look)
    found = await create(topics, portions)
    assert portions.turns == 3
    assert [second - first - 1 for first, second in pairwise(taken)] == [PORTION] * 3
    assert topics.topic("/", "orders") is found
    assert [one.number for one in found.partitions] == list(range(35))
    assert not topics.is_coming("/", "orders")
    assert topics.partition_count == 35
    under.commit()
    again = under.kill()
    assert len(again.node.topics.topic("/", "orders").partitions) == 35


async def test_of_two_of_the_same_name_the_second_hears_of_the_first_when_that_is_there(under, topics):
    heard = []

    async def second():
        with pytest.raises(AlreadyExists, match="exists already"):
            await create(topics, Turns(), 3)
        heard.append((len(topics.topic("/", "orders").partitions), under.node.flusher.open.changes != []))

    async with trio.open_nursery() as nursery:
        await create(topics, Turns(lambda: nursery.start_soon(second), only=1))
        assert heard == []
    assert heard == [(35, True)]
    assert topics.partition_count == 35


async def test_whoever_does_not_wait_is_told_that_it_is_being_made(topics):
    def look():
        with pytest.raises(AlreadyExists, match="is being made"):
            topics.create("/", "orders", 1)

    await create(topics, Turns(look))


async def test_a_queue_that_gets_the_name_meanwhile_has_it(under, topics):
    with pytest.raises(AlreadyExists, match="there is a queue"):
        await create(topics, Turns(lambda: under.declare("orders"), only=2))
    assert topics.find("/", "orders") is None
    assert topics.partition_count == 0


async def test_a_virtual_host_that_goes_meanwhile_takes_the_topic_with_it(under, topics):
    with pytest.raises(NotFound):
        await create(topics, Turns(lambda: under.node.topology.delete_vhost("/"), only=2))
    assert topics.topics() == []
    assert topics.partition_count == 0


async def test_the_room_is_taken_at_once(topics):
    topics._partitions_max = 40

    def look():
        with pytest.raises(InvalidPartitions):
            topics.create("/", "others", 6)
        topics.create("/", "others", 5)

    await create(topics, Turns(look, only=1))
    assert topics.partition_count == 40


async def test_what_is_cancelled_leaves_nothing_and_the_name_is_free(topics):
    with trio.CancelScope() as scope:
        await create(topics, Turns(scope.cancel, only=2))
    assert scope.cancelled_caught
    assert topics.find("/", "orders") is None
    assert (topics.partition_count, topics.is_coming("/", "orders")) == (0, False)
    assert len((await create(topics, Turns(), 12)).partitions) == 12


async def test_a_process_that_is_killed_meanwhile_has_not_made_it(under, topics):
    found = []

    def kill():
        under.end_pass()
        again = SteppedNode(under.files.copy().kill(), under.definitions)
        found.append(again.node.topics.topics())
        again.abandon()

    await create(topics, Turns(kill))
    assert found == [[]] * 3


# ---- more partitions ----


async def test_more_partitions_are_there_when_all_of_them_are(under, topics):
    made = under.create("orders", 2)
    counts = []
    await topics.add_partitions(Turns(lambda: counts.append(len(made.partitions))), made, 40)
    assert counts == [2] * 3
    assert [one.number for one in made.partitions] == list(range(40))
    assert topics.partition_count == 40


async def test_a_topic_that_is_deleted_meanwhile_gets_no_more(under, topics):
    made = under.create("orders", 2)
    with pytest.raises(UnknownTopic):
        await topics.add_partitions(Turns(lambda: topics.delete(made), only=2), made, 40)
    assert topics.partition_count == 0
    under.commit()
    assert under.kill().node.topics.topics() == []


async def test_a_topic_that_is_deleted_while_somebody_else_adds_partitions_gets_no_more(under, topics):
    made = under.create("orders", 2)

    async def second():
        with pytest.raises(UnknownTopic):
            await topics.add_partitions(Turns(), made, 50)

    async with trio.open_nursery() as nursery:
        await topics.add_partitions(Turns(lambda: nursery.start_soon(second), only=1), made, 40)
        topics.delete(made)
    assert topics.partition_count == 0


async def test_what_is_configured_meanwhile_holds_for_the_new_ones(under, topics):
    made = under.create("orders", 2)
    configs = {"flush": "os", "segment.bytes": "1048576"}
    await topics.add_partitions(Turns(lambda: topics.configure(made, configs), only=2), made, 40)
    assert all(one.settings is made.settings for one in made.partitions)
    assert {one.log.syncs for one in made.partitions} == {False}


async def test_of_two_that_add_partitions_the_second_is_judged_after_the_first(under, topics):
    made = under.create("orders", 2)

    async def second():
        with pytest.raises(InvalidPartitions):
            await topics.add_partitions(Turns(), made, 30)

    async with trio.open_nursery() as nursery:
        await topics.add_partitions(Turns(lambda: nursery.start_soon(second), only=1), made, 40)
    assert (len(made.partitions), topics.partition_count) == (40, 40)
