"""Acknowledgements in the outbox: as few frames as say the same."""

from hypothesis import given
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
        del unsettled[tag]
        outbox.acknowledge(1, tag, unsettled)

    (event,) = events_of(outbox.take())

    assert (event.channel, event.first, event.last, event.multiple) == (1, 7, 7, True)


def test_over_an_unsettled_message_they_go_one_by_one():
    unsettled = dict.fromkeys(range(1, 11))
    outbox = Outbox()
    for tag in range(2, 8):
        del unsettled[tag]
        outbox.acknowledge(1, tag, unsettled)

    events = events_of(outbox.take())

    assert [tag for event in events for tag in range(event.first, event.last + 1)] == [2, 3, 4, 5, 6, 7]
    assert not any(event.multiple for event in events)


def test_a_single_acknowledgement_is_never_multiple():
    outbox = Outbox()
    outbox.acknowledge(3, 5, {})

    (event,) = events_of(outbox.take())

    assert (event.channel, event.first, event.last, event.multiple) == (3, 5, 5, False)


def test_order_is_kept_between_acknowledgements_and_the_rest():
    outbox = Outbox()
    outbox.acknowledge(1, 1, {})
    outbox.acknowledge(1, 2, {})
    outbox.put(FLOW)
    outbox.acknowledge(1, 3, {})
    outbox.acknowledge(2, 4, {})

    first, flow, second, third = events_of(outbox.take())

    assert (first.last, first.multiple) == (2, True)
    assert isinstance(flow, MethodReceived)
    assert (second.channel, second.last) == (1, 3)
    assert (third.channel, third.last) == (2, 4)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("deliver"), st.integers(1, 5)),
        st.tuples(st.just("ack"), st.integers(0, 6)),
        st.tuples(st.just("oldest"), st.integers(1, 4)),
        st.just(("other", 0)),
        st.just(("take", 0)),
    ),
    max_size=40,
)


@given(steps)
def test_what_goes_out_settles_exactly_what_was_acknowledged(steps):
    """Held against a broker that knows `multiple`, and two channels at once."""
    outbox = Outbox()
    unsettled = {1: {}, 2: {}}
    at_broker = {1: set(), 2: set()}
    next_tag = {1: 1, 2: 1}

    def ack(channel, tag):
        del unsettled[channel][tag]
        outbox.acknowledge(channel, tag, unsettled[channel])

    def settle():
        for event in events_of(outbox.take()):
            if not isinstance(event, AckRun):
                continue
            tags = at_broker[event.channel]
            if event.multiple:
                assert event.last in tags
                tags -= {tag for tag in tags if tag <= event.last}
            else:
                assert set(range(event.first, event.last + 1)) <= tags
                tags -= set(range(event.first, event.last + 1))
        assert at_broker == {channel: set(tags) for channel, tags in unsettled.items()}

    for channel, (step, number) in enumerate(steps):
        channel = channel % 7 % 2 + 1
        held = list(unsettled[channel])
        if step == "deliver":
            tags = range(next_tag[channel], next_tag[channel] + number)
            unsettled[channel].update(dict.fromkeys(tags))
            at_broker[channel].update(tags)
            next_tag[channel] += number
        elif step == "ack" and number < len(held):
            ack(channel, held[number])
        elif step == "oldest":
            for tag in held[:number]:
                ack(channel, tag)
        elif step == "other":
            outbox.put(FLOW)
        elif step == "take":
            settle()
    settle()
    assert not outbox


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
