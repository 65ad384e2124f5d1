"""The frames of messages that are published to one address with the same properties.

Shape:  basic.publish, the content header, the body's frames
Why:    Of messages whose bodies are equally long only the octets of the body differ.
"""

from __future__ import annotations

import struct
from typing import Final

from broker.amqp import content, methods
from broker.amqp.errors import ProtocolError
from broker.amqp.spec import FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_OVERHEAD
from leveret.errors import InvalidValue

_FRAME_START = struct.Struct(">BHI")
_END: Final = bytes((FRAME_END,))


class Publishing:
    """Makes the frames of a message out of its body."""

    __slots__ = ("_before", "_channel", "_frame_max", "_method", "_properties", "_size")

    def __init__(
        self,
        channel: int,
        frame_max: int,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        properties: bytes,
    ) -> None:
        """Raises InvalidValue for names and properties that do not fit."""
        method = methods.BasicPublish(exchange=exchange, routing_key=routing_key, mandatory=mandatory)
        try:
            self._method = methods.encode(channel, method)
        except ProtocolError as error:
            raise InvalidValue(error.text) from None
        if len(content.header_payload(properties, 0)) + FRAME_OVERHEAD > frame_max:
            raise InvalidValue(
                f"properties of {len(properties)} octets do not fit into a frame of {frame_max} octets"
            )
        self._channel = channel
        self._frame_max = frame_max
        self._properties = properties
        # All up to the body, of bodies of the size that came last.
        self._size = -1
        self._before = b""

    def frames(self, body: bytes) -> bytes:
        size = len(body)
        if size != self._size:
            if not 0 < size <= self._frame_max - FRAME_OVERHEAD:
                closed = content.build(self._channel, self._properties, body, self._frame_max)
                return self._method + closed
            self._before = self._up_to_body(size)
            self._size = size
        return b"%b%b\xce" % (self._before, body)

    def _up_to_body(self, size: int) -> bytes:
        header = content.header_payload(self._properties, size)
        return b"".join(
            (
                self._method,
                _FRAME_START.pack(FRAME_HEADER, self._channel, len(header)),
                header,
                _END,
                _FRAME_START.pack(FRAME_BODY, self._channel, size),
            )
        )
