"""A queue's messages as the payload of a batch, and back.

Flow:   a queue's store encodes what was pushed and decodes what it reads; `storage` never looks inside.
Shape:  big endian; what a run has in common, once, then its contents as they came
        version u8 = 1 | channel u16 | frame max u32 | exchange shortstr | routing key shortstr
        | body size u32, all ones if they differ | (size u32)* | (content)*
        The batch header holds the offsets, the number of contents, and as max timestamp when they expire.
Limits: none here; a run comes from one read of a connection, or is one large message. The beginnings of
        4,096 envelopes are remembered.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from broker.amqp import content, wire
from broker.amqp.frames import Envelope, PublishRun, envelope_of
from broker.amqp.properties import facts_of
from broker.storage.errors import CorruptLog

_VERSION: Final = 1
_START = struct.Struct(">BHI")
_U32 = struct.Struct(">I")
_SIZES_OF_ONE = struct.Struct(">II")
_DIFFER: Final = 0xFFFF_FFFF
_BEGINNINGS_MAX: Final = 4096
_beginnings: dict[Envelope, bytes] = {}


def encode(envelope: Envelope, contents: Sequence[bytes], body_size: int | None) -> list[bytes]:
    """The payload, in pieces; a single content is not copied."""
    beginning = _beginnings.get(envelope)
    if beginning is None:
        beginning = _begin(envelope)
    size = _DIFFER if body_size is None else body_size
    if len(contents) == 1:
        return [beginning + _SIZES_OF_ONE.pack(size, len(contents[0])), contents[0]]
    sizes = struct.pack(f">I{len(contents)}I", size, *map(len, contents))
    return [beginning + sizes, b"".join(contents)]


def _begin(envelope: Envelope) -> bytes:
    start = _START.pack(_VERSION, envelope.channel, envelope.frame_max)
    beginning = start + wire.shortstr(envelope.exchange) + wire.shortstr(envelope.routing_key)
    if len(_beginnings) >= _BEGINNINGS_MAX:
        _beginnings.clear()
    _beginnings[envelope] = beginning
    return beginning


def decode(payload: bytes, count: int) -> PublishRun:
    """The run that the payload was made of.

    Raises CorruptLog, without a place, for a payload of another version; its octets are sound, as their
    crc was checked.
    """
    version, channel, frame_max = _START.unpack_from(payload)
    if version != _VERSION:
        raise CorruptLog("", 0, f"a record of version {version}, this broker writes {_VERSION}")
    exchange, at = wire.read_shortstr(payload, _START.size)
    routing_key, at = wire.read_shortstr(payload, at)
    (body_size,) = _U32.unpack_from(payload, at)
    sizes = struct.unpack_from(f">{count}I", payload, at + 4)
    at += 4 + 4 * count
    contents = []
    for size in sizes:
        contents.append(payload[at : at + size])
        at += size
    facts = facts_of(content.properties_of(contents[0]))
    envelope = envelope_of(channel, frame_max, exchange, routing_key, facts)
    return PublishRun(envelope, contents, None if body_size == _DIFFER else body_size)
