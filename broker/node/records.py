"""A queue's messages as the payload of a batch, and back.

Flow:   a queue's store encodes what was pushed and decodes what it reads; `storage` never looks inside.
Shape:  big endian; what a run has in common, once, then its contents as they came
        version u8 = 1 | channel u16 | frame max u32 | body size u32, all ones if they differ
        | exchange shortstr | routing key shortstr | (size u32)* | (content)*
        The batch header holds the offsets, the number of contents, and as max timestamp when they expire.
Limits: none here; a run comes from one read of a connection, or is one large message.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from broker.amqp import content, wire
from broker.amqp.frames import PublishRun
from broker.amqp.properties import facts_of
from broker.model.message import Run
from broker.storage.errors import CorruptLog

_VERSION = 1
_START = struct.Struct(">BHII")
_DIFFER = 0xFFFF_FFFF


def encode(run: Run, contents: Sequence[bytes]) -> list[bytes]:
    """The payload, in pieces; the contents are not copied."""
    assert isinstance(run, PublishRun)
    body_size = _DIFFER if run.body_size is None else run.body_size
    exchange, routing_key = run.exchange.encode(), run.routing_key.encode()
    start = b"%b%c%b%c%b" % (
        _START.pack(_VERSION, run.channel, run.frame_max, body_size),
        len(exchange),
        exchange,
        len(routing_key),
        routing_key,
    )
    count = len(contents)
    if count == 1:
        return [start + len(contents[0]).to_bytes(4), contents[0]]
    return [start + struct.pack(f">{count}I", *map(len, contents)), b"".join(contents)]


def decode(payload: bytes, count: int) -> PublishRun:
    """The run that the payload was made of.

    Raises CorruptLog, without a place, for a payload of another version; its octets are sound, as their
    crc was checked.
    """
    version, channel, frame_max, body_size = _START.unpack_from(payload)
    if version != _VERSION:
        raise CorruptLog("", 0, f"a record of version {version}, this broker writes {_VERSION}")
    exchange, at = wire.read_shortstr(payload, _START.size)
    routing_key, at = wire.read_shortstr(payload, at)
    sizes = struct.unpack_from(f">{count}I", payload, at)
    at += 4 * count
    contents = []
    for size in sizes:
        contents.append(payload[at : at + size])
        at += size
    return PublishRun(
        channel,
        frame_max,
        exchange,
        routing_key,
        False,
        False,
        facts_of(content.properties_of(contents[0])),
        contents,
        None if body_size == _DIFFER else body_size,
    )
