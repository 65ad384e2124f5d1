"""The codec in both roles, talking to each other without I/O: what one sends, the other sees."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.amqp import content, methods
from broker.amqp.connection import Connection, HeaderReceived, Role, State
from broker.amqp.errors import LocalProtocolError
from broker.amqp.frames import AckRun, ContentReceived, Deliveries, MethodReceived, ProtocolFailed, Publishes
from broker.amqp.properties import Properties, encode
from broker.amqp.spec import PROTOCOL_HEADER, ReplyCode

FRAME_MAX = 4096


class Pair:
    """A client and a server; `chunk` octets at a time go from one to the other."""

    def __init__(self, chunk=1 << 20):
        self.client = Connection(Role.CLIENT, 1 << 20)
        self.server = Connection(Role.SERVER, 1 << 20)
        self.chunk = chunk

    def to_server(self, octets):
        return self._carry(self.server, octets)

    def to_client(self, octets):
        return self._carry(self.client, octets)

    def _carry(self, end, octets):
        return [
            event
            for at in range(0, len(octets), self.chunk)
            for event in end.receive(octets[at : at + self.chunk])
        ]

    def open(self):
        assert isinstance(self.to_server(PROTOCOL_HEADER)[0], HeaderReceived)
        self.say(self.server, self.to_client, methods.ConnectionStart())
        self.say(self.client, self.to_server, methods.ConnectionStartOk(response=b"\0guest\0guest"))
        self.say(self.server, self.to_client, methods.ConnectionTune(10, FRAME_MAX, 0))
        self.say(self.client, self.to_server, methods.ConnectionTuneOk(10, FRAME_MAX, 0))
        self.client.frame_max = self.server.frame_max = FRAME_MAX
        self.say(self.client, self.to_server, methods.ConnectionOpen("/"))
        self.say(self.server, self.to_client, methods.ConnectionOpenOk())
        assert self.client.state is self.server.state is State.RUNNING

    def say(self, end, carry, method):
        (event,) = carry(end.send(method))
        assert (event.channel, event.method) == (0, method)


def opened(chunk=1 << 20):
    pair = Pair(chunk)
    pair.open()
    return pair


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_the_handshake(chunk):
    opened(chunk)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_what_servers_say(chunk):
    pair = opened(chunk)
    raw = encode(Properties(delivery_mode=2))
    small, large = (content.build(1, raw, b"x" * size, FRAME_MAX) for size in (10, 10_000))

    events = pair.to_client(
        methods.encode(1, methods.QueueDeclareOk("q", 1, 2))
        + methods.encode(1, methods.BasicReturn(312, "NO_ROUTE", "", "q"))
        + small
        + methods.encode(1, methods.BasicGetOk(1, False, "", "q", 5))
        + large
        + methods.encode(1, methods.BasicAck(5, True))
        + methods.encode(1, methods.BasicNack(6, False, True))
        + methods.encode(1, methods.BasicCancel("c", True))
    )

    declared, back, got, confirmed, refused, cancelled = events
    assert declared.method == methods.QueueDeclareOk("q", 1, 2)
    assert (type(back), back.method.reply_code, back.content) == (ContentReceived, 312, small)
    assert (type(got), got.method.message_count, got.content) == (ContentReceived, 5, large)
    assert (type(confirmed), confirmed.last, confirmed.multiple) == (AckRun, 5, True)
    assert refused.method == methods.BasicNack(6, False, True)
    assert cancelled.method == methods.BasicCancel("c", True)


@given(st.lists(st.binary(max_size=6000), max_size=8), st.integers(1, 10_000))
def test_messages_there_and_back(bodies, chunk):
    """What the client publishes, and the server delivers as it came."""
    pair = opened(chunk)
    raw = encode(Properties(headers={"a": 1}))
    publish = methods.encode(1, methods.BasicPublish(exchange="x", routing_key="k"))

    published = pair.to_server(b"".join(publish + content.build(1, raw, body, FRAME_MAX) for body in bodies))

    contents = [
        closed
        for event in published
        if isinstance(event, Publishes)
        for run in event.runs
        for closed in run.contents
    ]
    assert [content.body_of(closed) for closed in contents] == bodies

    delivered = pair.to_client(
        b"".join(
            methods.encode(1, methods.BasicDeliver("c", tag, False, "x", "k")) + closed
            for tag, closed in enumerate(contents, 1)
        )
    )

    seen = []
    for event in delivered:
        if isinstance(event, Deliveries):
            seen += list(enumerate(event.contents, event.first))
        else:
            assert isinstance(event, ContentReceived)
            seen.append((event.method.delivery_tag, event.content))
    assert [(tag, content.body_of(closed)) for tag, closed in seen] == list(enumerate(bodies, 1))
    assert all(content.properties_of(closed) == raw for _, closed in seen)


@pytest.mark.parametrize("closer", ["client", "server"])
def test_closing(closer):
    pair = opened()
    one, two = (pair.client, pair.server) if closer == "client" else (pair.server, pair.client)

    (event,) = two.receive(one.send(methods.ConnectionClose(320, "bye", 0, 0)))
    assert event.method.reply_code == 320
    assert one.receive(methods.encode(1, methods.ChannelOpen())) == []  # nothing else counts any more
    (event,) = one.receive(two.send(methods.ConnectionCloseOk()))

    assert isinstance(event, MethodReceived)
    assert one.state is two.state is State.CLOSED


def test_both_close_at_once():
    pair = opened()
    there = pair.client.send(methods.ConnectionClose(200, "bye", 0, 0))
    here = pair.server.send(methods.ConnectionClose(320, "bye", 0, 0))

    (event,) = pair.client.receive(here)
    assert event.method.reply_code == 320
    (event,) = pair.server.receive(there)
    assert event.method.reply_code == 200
    pair.server.receive(pair.client.send(methods.ConnectionCloseOk()))

    assert pair.client.state is State.CLOSED


@pytest.mark.parametrize(
    ("role", "method"),
    [
        (Role.CLIENT, methods.ConnectionOpenOk()),
        (Role.CLIENT, methods.ConnectionStart()),
        (Role.CLIENT, methods.ConnectionTuneOk()),
        (Role.SERVER, methods.ConnectionOpen("/")),
        (Role.SERVER, methods.ConnectionBlocked("why")),
    ],
)
def test_what_is_out_of_order_is_refused(role, method):
    pair = opened()
    receiver = pair.client if role is Role.CLIENT else pair.server

    (event,) = receiver.receive(methods.encode(0, method))

    assert isinstance(event, ProtocolFailed)
    assert event.error.code is ReplyCode.CHANNEL_ERROR


def test_a_client_cannot_say_what_servers_say():
    with pytest.raises(LocalProtocolError, match=r"connection\.open-ok cannot be sent while running"):
        opened().client.send(methods.ConnectionOpenOk())
