"""A content: the header frame and the body frames of one message, as one contiguous string of octets.

Flow:   frames cuts contents out of what a peer sent; queues keep them closed; delivery sends them on.
Shape:  02 | channel u16 | size u32 | class u16 | weight u16 | body size u64 | properties | CE
        (03 | channel u16 | size u32 | octets | CE)*
Why:    A content goes out again as it came when channel number and frame size allow. Rewriting it
        costs 0.4 us, taking it apart and building it anew 2 us.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import repeat
from operator import itemgetter

from broker.amqp.spec import (
    BASIC_CLASS,
    FRAME_BODY,
    FRAME_END,
    FRAME_HEADER,
    FRAME_OVERHEAD,
)

_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_FRAME_START = struct.Struct(">BHI")
_HEADER_START = struct.Struct(">HHQ")

# Of the content: where the header payload, the body size and the properties start.
HEADER_AT = 7
BODY_SIZE_AT = HEADER_AT + 4
PROPERTIES_AT = HEADER_AT + 12

_END = bytes([FRAME_END])
_FIRST = itemgetter(0)


def header_payload(properties: bytes, body_size: int) -> bytes:
    return _HEADER_START.pack(BASIC_CLASS, 0, body_size) + properties


def build(channel: int, properties: bytes, body: bytes, frame_max: int) -> bytes:
    """The content of a message; `frame_max` 0 is no limit."""
    header = header_payload(properties, len(body))
    parts = [_FRAME_START.pack(FRAME_HEADER, channel, len(header)), header, _END]
    piece_max = frame_max - FRAME_OVERHEAD if frame_max else len(body)
    for start in range(0, len(body), piece_max or 1):
        piece = body if piece_max >= len(body) else body[start : start + piece_max]
        parts += (_FRAME_START.pack(FRAME_BODY, channel, len(piece)), piece, _END)
    return b"".join(parts)


def body_size(content: bytes) -> int:
    size: int = _U64.unpack_from(content, BODY_SIZE_AT)[0]
    return size


def body_sizes(contents: Iterable[bytes]) -> int:
    """The bytes of the bodies of some contents together."""
    return sum(map(_FIRST, map(_U64.unpack_from, contents, repeat(BODY_SIZE_AT))))


def header_frame_size(content: bytes) -> int:
    """Bytes of the frame that has the properties, which cannot be divided."""
    size: int = _U32.unpack_from(content, 3)[0]
    return size + FRAME_OVERHEAD


def properties_of(content: bytes) -> bytes:
    """The properties as octets, flags first."""
    return content[PROPERTIES_AT : HEADER_AT + _U32.unpack_from(content, 3)[0]]


def body_of(content: bytes) -> bytes:
    start = _U32.unpack_from(content, 3)[0] + FRAME_OVERHEAD
    size = body_size(content)
    if start + size + FRAME_OVERHEAD == len(content):
        return content[start + 7 : -1]
    pieces = []
    while start < len(content):
        end = start + 7 + _U32.unpack_from(content, start + 3)[0]
        pieces.append(content[start + 7 : end])
        start = end + 1
    return b"".join(pieces)


def on_channel(contents: Iterable[bytes], channel: int) -> list[bytes]:
    """The same contents with another channel number in their frames."""
    number = channel.to_bytes(2)
    header_start, body_start = b"\x02" + number, b"\x03" + number
    moved = []
    for content in contents:
        header_end = _U32.unpack_from(content, 3)[0] + FRAME_OVERHEAD
        size = len(content)
        if header_end == size:
            moved.append(header_start + content[3:])
        elif header_end + FRAME_OVERHEAD + body_size(content) == size:
            moved.append(
                b"%b%b%b%b"
                % (
                    header_start,
                    content[3:header_end],
                    body_start,
                    content[header_end + 3 :],
                )
            )
        else:
            parts, at = [header_start, content[3:header_end]], header_end
            while at < size:
                end = at + FRAME_OVERHEAD + _U32.unpack_from(content, at + 3)[0]
                parts += (body_start, content[at + 3 : end])
                at = end
            moved.append(b"".join(parts))
    return moved


def fitted(contents: Iterable[bytes], channel: int, frame_max: int) -> list[bytes]:
    """The same contents for a channel whose frames may be smaller than those they came in."""
    fit = []
    for content in contents:
        if len(content) > frame_max:
            fit.append(build(channel, properties_of(content), body_of(content), frame_max))
        else:
            fit += on_channel((content,), channel)
    return fit
