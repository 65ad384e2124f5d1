"""What a connection is about to send, in order.

Flow:   channels put frames and acknowledgements in; the writer takes all that is there, and says when the
        socket has it.
Limits: over `FULL` octets publishers wait; everything else is bounded by what was asked or delivered.
Why:    A consumer that acknowledges one message after the other would send a frame for each. As long as
        nothing else is put in, consecutive tags are only counted; they go out as one basic.ack with
        `multiple` if nothing before them is unsettled, which then says the same, or else one by one.
"""

from __future__ import annotations

import struct
from typing import Final

from broker.amqp import methods

FULL: Final = 1024 * 1024
# Pieces from this size on are not joined with others.
_LARGE: Final = 64 * 1024

_ACK = struct.Struct(">BHIHHQBB")
_ACK_SIZE: Final = 13


def _ack_frame(channel: int, tag: int, multiple: bool) -> bytes:
    return _ACK.pack(1, channel, _ACK_SIZE, *methods.BasicAck.id, tag, multiple, 0xCE)


class Outbox:
    """Frames, and the acknowledgements that will become frames."""

    __slots__ = ("_ack_channel", "_first", "_last", "_pieces", "_size", "_taken", "_unsettled")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._taken = 0
        self._ack_channel = 0  # which is none that could acknowledge
        self._first = self._last = 0
        self._unsettled: dict[int, None] = {}

    def put(self, octets: bytes) -> None:
        if self._ack_channel:
            self._end_acks()
        self._pieces.append(octets)
        self._size += len(octets)

    def acknowledge(self, channel: int, tag: int, unsettled: dict[int, None]) -> None:
        """`unsettled` are the channel's tags, ascending; this one is taken out, at the right moment."""
        if channel == self._ack_channel and tag == self._last + 1:
            del unsettled[tag]
            self._last = tag
            return
        if self._ack_channel:
            self._end_acks()  # for which this tag is not settled yet
        del unsettled[tag]
        self._ack_channel = channel
        self._first = self._last = tag
        self._unsettled = unsettled

    def _end_acks(self) -> None:
        channel, first, last = self._ack_channel, self._first, self._last
        self._ack_channel = 0
        if first == last or next(iter(self._unsettled), last + 1) > last:
            octets = _ack_frame(channel, last, first != last)
        else:
            octets = b"".join([_ack_frame(channel, tag, False) for tag in range(first, last + 1)])
        self._pieces.append(octets)
        self._size += len(octets)

    def __bool__(self) -> bool:
        return bool(self._pieces or self._ack_channel)

    @property
    def full(self) -> bool:
        return self._size + self._taken > FULL

    def take(self) -> list[bytes]:
        """All that is to be sent, in pieces for one call each; they count until `sent`."""
        if self._ack_channel:
            self._end_acks()
        pieces, self._pieces = self._pieces, []
        self._taken, self._size = self._size, 0
        if self._taken <= FULL:
            return [b"".join(pieces)] if len(pieces) > 1 else pieces
        return _joined(pieces)

    def sent(self) -> None:
        """What was taken is with the kernel."""
        self._taken = 0


def _joined(pieces: list[bytes]) -> list[bytes]:
    """The same octets: small pieces joined, large ones not copied."""
    joined: list[bytes] = []
    small: list[bytes] = []
    for piece in pieces:
        if len(piece) < _LARGE:
            small.append(piece)
            continue
        if small:
            joined.append(b"".join(small))
            small = []
        joined.append(piece)
    if small:
        joined.append(b"".join(small))
    return joined
