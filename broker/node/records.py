"""A queue's messages as the payload of a batch, and back.

Flow:   a queue's store encodes what was pushed and decodes what it reads; `storage` never looks inside.
Shape:  big endian; what the messages have in common, once, then their contents as they came
        version u8 = 1 | channel u16 | frame max u32 | exchange shortstr | routing key shortstr
        | body size u32, all ones if they differ | (size u32)* | (content)*
        The batch header holds the offsets, the number of contents, and as max timestamp when they expire.
        version u8 = 2 | expire u8, 0 or 1 | number of envelopes u32
        | (channel u16 | frame max u32 | exchange shortstr | routing key shortstr)*
        | (number of the envelope u32)*, if there are several | (expiry in ms u64)*, if they expire
        | body size u32 | (size u32)* | (content)*
        for messages with different envelopes, or time limits of their own; 0 is never.
Limits: none here; messages come from one pass, or are one large message. The beginnings of 4,096
        envelopes are remembered.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from broker.amqp import content, wire
from broker.amqp.envelope import Envelope, PublishRun, envelope_of
from broker.amqp.properties import facts_of
from broker.storage.errors import CorruptLog

_ALIKE: Final = 1
_VARIOUS: Final = 2
_VARIOUS_START = struct.Struct(">BBI")
_ENVELOPE_START = struct.Struct(">HI")
_U32 = struct.Struct(">I")
_SIZES_OF_ONE = struct.Struct(">II")
_DIFFER: Final = 0xFFFF_FFFF
_BEGINNINGS_MAX: Final = 4096
_beginnings: dict[Envelope, bytes] = {}


def encode(
    envelope: Envelope,
    contents: Sequence[bytes],
    body_size: int | None,
    envelopes: Sequence[Envelope] | None = None,
    expiries: Sequence[int] | None = None,
) -> list[bytes]:
    """The payload, in pieces; a single content is not copied.

    `envelopes` and `expiries` have an entry for each content, where these differ or expire.
    """
    if envelopes is None and expiries is None:
        beginning = b"\x01" + _beginning_of(envelope)
    else:
        beginning = _various(envelopes or [envelope] * len(contents), expiries)
    size = _DIFFER if body_size is None else body_size
    if len(contents) == 1:
        return [beginning + _SIZES_OF_ONE.pack(size, len(contents[0])), contents[0]]
    sizes = struct.pack(f">I{len(contents)}I", size, *map(len, contents))
    return [beginning + sizes, b"".join(contents)]


def _beginning_of(envelope: Envelope) -> bytes:
    known = _beginnings.get(envelope)
    if known is not None:
        return known
    start = _ENVELOPE_START.pack(envelope.channel, envelope.frame_max)
    beginning = start + wire.shortstr(envelope.exchange) + wire.shortstr(envelope.routing_key)
    if len(_beginnings) >= _BEGINNINGS_MAX:
        _beginnings.clear()
    _beginnings[envelope] = beginning
    return beginning


def _various(envelopes: Sequence[Envelope], expiries: Sequence[int] | None) -> bytes:
    count = len(envelopes)
    numbers = {envelope: number for number, envelope in enumerate(dict.fromkeys(envelopes))}
    parts = [_VARIOUS_START.pack(_VARIOUS, expiries is not None, len(numbers))]
    parts += map(_beginning_of, numbers)
    if len(numbers) > 1:
        parts.append(struct.pack(f">{count}I", *map(numbers.__getitem__, envelopes)))
    if expiries is not None:
        parts.append(struct.pack(f">{count}Q", *expiries))
    return b"".join(parts)


class Decoded(NamedTuple):
    """What a payload holds."""

    run: PublishRun
    expiries: list[int] | None
    """When each message expires; None if the batch header says it of all."""


def decode(payload: bytes, count: int) -> Decoded:
    """The messages that the payload was made of.

    Raises CorruptLog, without a place, for a payload of another version; its bytes are sound, as their
    crc was checked.
    """
    version = payload[0]
    if version not in (_ALIKE, _VARIOUS):
        text = f"a record of version {version}, this broker knows {_ALIKE} and {_VARIOUS}"
        raise CorruptLog("", 0, text)
    number, expires, at = 1, 0, 1
    if version == _VARIOUS:
        _, expires, number = _VARIOUS_START.unpack_from(payload)
        at = _VARIOUS_START.size
    places: list[tuple[int, int, str, str]] = []
    for _ in range(number):
        place, at = _read_place(payload, at)
        places.append(place)
    which: Sequence[int] = ()
    if number > 1:
        which = struct.unpack_from(f">{count}I", payload, at)
        at += 4 * count
    expiries = None
    if expires:
        expiries = list(struct.unpack_from(f">{count}Q", payload, at))
        at += 8 * count
    (body_size,) = _U32.unpack_from(payload, at)
    sizes = struct.unpack_from(f">{count}I", payload, at + 4)
    at += 4 + 4 * count
    contents = []
    for size in sizes:
        contents.append(payload[at : at + size])
        at += size
    facts = facts_of(content.properties_of(contents[0]))
    envelopes = [envelope_of(*place, facts) for place in places]
    first = envelopes[which[0]] if which else envelopes[0]
    run = PublishRun(first, contents, None if body_size == _DIFFER else body_size)
    if which:
        run.envelopes = [envelopes[number] for number in which]
    return Decoded(run, expiries)


def _read_place(payload: bytes, at: int) -> tuple[tuple[int, int, str, str], int]:
    channel, frame_max = _ENVELOPE_START.unpack_from(payload, at)
    exchange, at = wire.read_shortstr(payload, at + _ENVELOPE_START.size)
    routing_key, at = wire.read_shortstr(payload, at)
    return (channel, frame_max, exchange, routing_key), at
