"""Frames: see below."""

from broker.amqp import content, methods
from broker.amqp.frames import FrameReader, ProtocolFailed


def publish(channel, key):
    return methods.encode(channel, methods.BasicPublish(routing_key=key))


PROPS = b"\0\0"


def test_tail_of_another_channel():
    r = FrameReader(1000)
    c = content.build(1, PROPS, b"abc", 4096)
    r.read(publish(1, "a") + c)
    events = r.read(publish(1, "a") + publish(2, "b") + c)
    print(events)
    assert [e.channel for e in events] == [1]
    assert events[0].runs[0].envelope.routing_key == "a"


def test_alike_then_broken():
    r = FrameReader(1000)
    c = content.build(1, PROPS, b"abc", 4096)
    r.read(publish(1, "a") + c)
    events = r.read((publish(1, "a") + c) * 2 + publish(1, "a") + c[:-1] + b"x")
    assert len(events) == 2


def test_ack_amid_message():
    r = FrameReader(1000)
    ack = methods.encode(1, methods.BasicAck(1))
    r.read(ack)
    events = r.read(publish(1, "a") + ack)
    assert isinstance(events[-1], ProtocolFailed)
