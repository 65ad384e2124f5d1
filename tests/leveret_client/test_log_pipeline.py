"""A partition's batches against a broker that loses answers, refuses and postpones: nothing twice, all in order.

The broker's side of sequence numbers is the broker's own.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.kafka.records import Record
from broker.model.producer import OutOfOrderSequence, Producers
from leveret.log.batch import Identity, Losses
from leveret.log.errors import SendFailed
from leveret.log.pipeline import Pipeline
from leveret.log.record import TopicPartition

PLACE = TopicPartition("t", 0)
OUT_MAX = 5

GOOD, LOST_BEFORE, LOST_AFTER, NOT_NOW, NEVER = "good", "lost before", "lost after", "not now", "never"


class Broker:
    """Appends what `Producers` lets through, in the order in which it comes."""

    def __init__(self):
        self.producers = Producers()
        self.log = []
        self.acknowledged = []
        self.refused = set()
        self.next_id = 1

    def identity(self):
        self.next_id += 1
        return Identity(self.next_id, 0)

    def produce(self, batch, fate):
        """What the answer says; None is no answer."""
        if fate == LOST_BEFORE:
            return None
        if fate in (NOT_NOW, NEVER):
            return fate
        id, count = batch.identity.producer_id, len(batch.records)
        try:
            known = self.producers.check(id, 0, batch.sequence, count)
        except OutOfOrderSequence:
            return "out of order" if fate == GOOD else None
        if known is None:
            self.producers.appended(id, 0, batch.sequence, count, len(self.log), 0, 0)
            self.log += [record.value for record in batch.records]
        return GOOD if fate == GOOD else None


class World:
    """Five may be out; the connection answers in order, and when it is lost, all that is out is."""

    def __init__(self, fates):
        self.broker = Broker()
        self.pipeline = Pipeline(PLACE)
        self.identity = self.broker.identity()
        self.losses = Losses()
        self.fates = fates
        self.out = []
        self.now = 0.0
        self.count = 0
        self.given_up = []
        self.late = []

    def add(self, size, timeout=1000.0):
        batch = self.pipeline.begin(self.now, self.now + timeout)
        for _ in range(size):
            batch.add(Record(0, 0, None, self.count), 1)
            self.count += 1
        self.pipeline.close()

    def send(self):
        """One batch, if one may go."""
        due = self.pipeline.due(self.now, 0.0, 1)
        if len(self.out) >= OUT_MAX or due is None:
            return False
        self.now = max(self.now, due)
        if not self.pipeline.can_use(self.identity):
            self.identity = self.broker.identity()
        batch = self.pipeline.take(self.identity)
        self.out.append((batch, self.broker.produce(batch, next(self.fates))))
        return True

    def answer(self):
        """The oldest that is out; if there is no answer, the connection is lost and so are the others."""
        batch, said = self.out.pop(0)
        if said is None:
            self.pipeline.lost(batch, self.now)
            while self.out:
                self.pipeline.lost(self.out.pop(0)[0], self.now)
        elif said == GOOD:
            self.pipeline.acknowledged(batch)
            batch.acknowledge(0, -1)
            self.broker.acknowledged += [record.value for record in batch.records]
        elif said == NOT_NOW:
            self.pipeline.postponed(batch, self.now)
        elif said == NEVER:
            self.pipeline.refused(batch)
            self.give_up(batch)
        else:
            assert self.pipeline.out_of_order(batch, self.now), "the producer would have failed"

    def expire(self):
        for batch in self.pipeline.expire(self.now):
            self.give_up(batch)

    def give_up(self, batch):
        batch.fail(lambda: SendFailed("given up"), self.losses)
        self.given_up.append(batch)

    def check(self):
        """Every record once; those that were acknowledged are there, and in their order."""
        log, acknowledged = self.broker.log, set(self.broker.acknowledged)
        assert len(log) == len(set(log))
        assert acknowledged <= set(log)
        assert [value for value in log if value in acknowledged] == sorted(acknowledged)
        certain = {
            record.value for batch in self.given_up if not batch.maybe_sent for record in batch.records
        }
        assert not certain & set(log)


FATES = st.lists(st.sampled_from([GOOD, GOOD, GOOD, LOST_BEFORE, LOST_AFTER, NOT_NOW, NEVER]), max_size=60)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 3), st.sampled_from([2.0, 1000.0])),
        st.just(("send",)),
        st.just(("answer",)),
        st.just(("wait",)),
    ),
    max_size=80,
)


@given(fates=FATES, steps=STEPS)
def test_nothing_is_there_twice_and_what_is_acknowledged_is_there_in_order(fates, steps):
    world = World(endless(fates))
    for kind, *arguments in steps:
        if kind == "add":
            world.add(*arguments)
        elif kind == "send":
            world.send()
        elif kind == "answer" and world.out:
            world.answer()
        elif kind == "wait":
            world.now += 1.0
            world.expire()
    for _ in range(1000):
        while world.send():
            pass
        if not world.out:
            break
        world.answer()
    world.check()
    assert not world.pipeline
    acknowledged = len(world.broker.acknowledged)
    assert acknowledged + sum(len(batch.records) for batch in world.given_up) == world.count


def endless(fates):
    """In the end all is well."""
    yield from fates
    while True:
        yield GOOD


def test_a_gap_is_closed_with_new_numbers():
    world = World(iter([GOOD, NEVER, GOOD, GOOD, GOOD, GOOD]))
    for _ in range(4):
        world.add(2)
    assert world.send()
    assert not world.send()  # until the broker knows us, one is out
    world.answer()
    while world.send():
        pass
    assert [said for _, said in world.out] == [NEVER, "out of order", "out of order"]
    while world.out:
        world.answer()
    while world.send():
        pass
    assert [(batch.sequence, said) for batch, said in world.out] == [(2, GOOD), (4, GOOD)]
    while world.out:
        world.answer()
    assert world.broker.log == [0, 1, 4, 5, 6, 7]
    assert not world.pipeline


def test_what_is_given_up_without_knowing_takes_the_identity_along():
    world = World(iter([GOOD, LOST_AFTER, GOOD]))
    world.add(1)
    world.send()
    world.answer()
    first = world.identity
    world.add(1, timeout=5.0)
    world.send()
    world.answer()
    world.now = 6.0
    world.expire()
    assert world.given_up[0].maybe_sent
    world.add(1)
    world.send()
    assert world.identity is not first
    assert world.out[0][0].sequence == 0
    world.answer()
    assert world.broker.log == [0, 1, 2]


def test_nothing_goes_while_a_batch_came_back_and_others_are_out():
    """Which may be at two brokers, when the partition has moved: order is only made by waiting."""
    world = World(iter([GOOD, NOT_NOW, LOST_AFTER, GOOD, GOOD, GOOD]))
    world.add(1)
    world.send()
    world.answer()
    for _ in range(3):
        world.add(1)
    assert world.send()
    assert world.send()
    world.answer()
    world.now += 10.0
    assert not world.send()
    world.answer()
    while world.send():
        pass
    assert [batch.sequence for batch, _ in world.out] == [1, 2, 3]


def test_two_are_given_up_and_of_the_first_it_is_not_known():
    world = World(iter([GOOD, NOT_NOW, GOOD, LOST_AFTER, NEVER, GOOD]))
    world.add(1)
    world.send()
    world.answer()
    world.add(1, timeout=5.0)
    world.add(1)
    world.add(1)
    world.send()
    world.send()
    world.answer()
    world.answer()
    world.send()
    world.answer()
    world.now = 6.0
    world.expire()
    spent = world.identity
    world.send()
    assert world.out[0][0].sequence == 2
    world.answer()
    world.send()
    assert world.identity is not spent
    world.answer()
    assert world.broker.log == [0, 1, 3]


def test_a_batch_that_is_acknowledged_after_those_behind_it():
    """The next number is behind the newest, not behind that one."""
    world = World(iter([GOOD, LOST_AFTER, GOOD, NOT_NOW, GOOD, GOOD, NEVER, GOOD]))
    world.add(1)
    world.send()
    world.answer()
    world.add(1)
    world.add(1)
    while world.send():
        pass
    world.answer()  # both are lost
    while world.send():
        pass
    world.answer()  # the first is postponed
    world.answer()  # the second was there
    world.send()
    world.answer()
    assert world.broker.log == [0, 1, 2]
    assert world.broker.acknowledged == [0, 2, 1]
    world.add(1)
    world.add(1)
    world.send()
    world.answer()
    world.send()
    assert [batch.sequence for batch, _ in world.out] == [3]
    world.answer()
    assert world.broker.log == [0, 1, 2, 4]


def test_a_broker_that_has_lost_what_it_acknowledged():
    """Nothing is missing before this batch that we could send."""
    pipeline = Pipeline(PLACE)
    for number in range(2):
        pipeline.begin(0.0, 1000.0).add(Record(0, 0, None, number), 1)
        pipeline.close()
        assert pipeline.due(0.0, 0.0, 1) is not None
        batch = pipeline.take(Identity(1, 0))
        if number == 0:
            pipeline.acknowledged(batch)
    assert batch.sequence == 1
    assert not pipeline.out_of_order(batch, 0.0)


def test_what_waits_in_a_pipeline_is_bounded_by_its_time():
    world = World(endless([LOST_BEFORE] * 3))
    world.add(1, timeout=10.0)
    world.send()
    assert world.pipeline.deadline is None  # the answer may be its own
    world.answer()
    assert world.pipeline.deadline == 10.0
    world.now = 10.0
    world.expire()
    assert not world.pipeline
    assert world.pipeline.deadline is None
