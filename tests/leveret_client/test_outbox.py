"""Acknowledgements in the outbox: as few frames as say the same."""

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.amqp import methods
from broker.amqp.frames import AckRun, FrameReader, MethodReceived
from leveret.outbox import FULL, Outbox

FLOW = methods.encode(1, methods.ChannelFlowOk())


def events_of(pieces):
    return FrameReader(1024).read(b"".join(pieces))


def test_consecutive_acknowledgements_are_one_frame():
    unsettled = dict.fromkeys(range(1, 11))
    outbox = Outbox()
    for tag in range(1, 8):
        outbox.acknowledge(1, tag, unsettled)

    (event,) = events_of(outbox.take())

    assert (event.channel, event.first, event.last, event.multiple) == (1, 7, 7, True)


def test_over_an_unsettled_message_they_go_one_by_one():
    unsettled = dict.fromkeys(range(1, 11))
    outbox = Outbox()
    for tag in range(2, 8):
        outbox.acknowledge(1, tag, unsettled)

    events = events_of(outbox.take())

    assert [tag for event in events for tag in range(event.first, event.last + 1)] == [2, 3, 4, 5, 6, 7]
    assert not any(event.multiple for event in events)


def test_the_unsettled_message_may_be_acknowledged_next():
    """It must not go out twice."""
    unsettled = dict.fromkeys(range(1, 4))
    outbox = Outbox()
    for tag in (2, 3, 1):
        outbox.acknowledge(1, tag, unsettled)

    events = events_of(outbox.take())

    tags = [tag for event in events for tag in range(event.first, event.last + 1)]
    assert tags == [2, 3, 1]
    assert not any(event.multiple for event in events)


def test_a_single_acknowledgement_is_never_multiple():
    outbox = Outbox()
    outbox.acknowledge(3, 5, {5: None})

    (event,) = events_of(outbox.take())

    assert (event.channel, event.first, event.last, event.multiple) == (3, 5, 5, False)


def test_order_is_kept_between_acknowledgements_and_the_rest():
    outbox = Outbox()
    one, two = dict.fromkeys((1, 2, 3)), {4: None}
    outbox.acknowledge(1, 1, one)
    outbox.acknowledge(1, 2, one)
    outbox.put(FLOW)
    outbox.acknowledge(1, 3, one)
    outbox.acknowledge(2, 4, two)

    first, flow, second, third = events_of(outbox.take())

    assert (first.last, first.multiple) == (2, True)
    assert isinstance(flow, MethodReceived)
    assert (second.channel, second.last) == (1, 3)
    assert (third.channel, third.last) == (2, 4)


steps = st.lists(
    st.tuples(
        st.integers(1, 2),
        st.one_of(
            st.tuples(st.just("deliver"), st.integers(1, 5)),
            st.tuples(st.just("ack"), st.integers(0, 2)),
            st.tuples(st.just("ack_three"), st.integers(0, 2)),
            st.tuples(st.just("refuse"), st.integers(0, 2)),
            st.just(("other", 0)),
            st.just(("take", 0)),
        ),
    ),
    max_size=60,
)


class Settled:
    """Two channels; what the outbox says is carried out at a broker that knows `multiple`."""

    def __init__(self):
        self.outbox = Outbox()
        self.unsettled = {1: {}, 2: {}}
        self.next_tag = {1: 1, 2: 1}
        self.expected = {1: {}, 2: {}}
        self.at_broker = {1: {}, 2: {}}

    def deliver(self, channel, count):
        tags = range(self.next_tag[channel], self.next_tag[channel] + count)
        self.next_tag[channel] += count
        for held in (self.unsettled, self.expected, self.at_broker):
            held[channel].update(dict.fromkeys(tags))

    def ack(self, channel, index):
        if index < len(self.unsettled[channel]):
            tag = list(self.unsettled[channel])[index]
            self.outbox.acknowledge(channel, tag, self.unsettled[channel])
            self.expected[channel][tag] = "acked"

    def ack_three(self, channel, index):
        for _ in range(3):
            self.ack(channel, index)

    def refuse(self, channel, index):
        if index < len(self.unsettled[channel]):
            tag = list(self.unsettled[channel])[index]
            self.outbox.put(methods.encode(channel, methods.BasicNack(tag, False, True)))
            del self.unsettled[channel][tag]
            self.expected[channel][tag] = "refused"

    def other(self, channel, _):
        self.outbox.put(FLOW)

    def take(self, *_):
        for event in events_of(self.outbox.take()):
            held = self.at_broker[event.channel]
            if isinstance(event, AckRun):
                tags = range(event.first, event.last + 1)
                if event.multiple:
                    tags = [tag for tag in held if tag < event.last and held[tag] is None] + [event.last]
                self.settle(held, tags, "acked")
            elif isinstance(event.method, methods.BasicNack):
                self.settle(held, [event.method.delivery_tag], "refused")
        assert self.at_broker == self.expected

    def settle(self, held, tags, outcome):
        for tag in tags:
            assert held[tag] is None, "it was settled before"
            held[tag] = outcome


@settings(max_examples=500)
@given(steps)
def test_what_goes_out_settles_exactly_what_was_settled(steps):
    both = Settled()

    for channel, (step, number) in steps:
        getattr(both, step)(channel, number)
    both.take()

    assert not both.outbox


def test_it_is_full_until_what_was_taken_is_sent():
    outbox = Outbox()
    outbox.put(b"x" * FULL)
    assert not outbox.full
    outbox.put(b"y")
    assert outbox.full

    taken = outbox.take()

    assert b"".join(taken) == b"x" * FULL + b"y"
    assert outbox.full
    outbox.sent()
    assert not outbox.full


def test_small_pieces_are_joined_and_large_ones_are_not_copied():
    large = b"l" * FULL
    outbox = Outbox()
    for piece in (b"a", b"b", large, b"c", b"d"):
        outbox.put(piece)

    taken = outbox.take()

    assert [len(piece) for piece in taken] == [2, FULL, 2]
    assert taken[1] is large
