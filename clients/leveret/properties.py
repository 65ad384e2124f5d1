"""The properties of messages that are published, by name, and their octets.

Shape:  what `Channel.publish` takes as keywords; the delivery mode is its `persistent`.
Why:    Most messages have no property but the delivery mode, and those octets are known beforehand.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, TypedDict

from broker.amqp import properties, wire
from broker.amqp.errors import ProtocolError
from broker.amqp.properties import PERSISTENT, Properties
from leveret.errors import InvalidValue


class PropertyFields(TypedDict, total=False):
    """Keywords of `publish` and `publish_many`."""

    content_type: str
    content_encoding: str
    headers: Mapping[str, Any]
    """Values are None, bool, int, float, Decimal, str, bytes, datetime, and lists and dicts of these."""
    priority: int
    correlation_id: str
    reply_to: str
    expiration: int | str
    """Milliseconds that the message may wait in a queue."""
    message_id: str
    timestamp: datetime | int
    type: str
    user_id: str
    app_id: str


def _octet(value: int) -> bytes:
    return bytes((value,))


def _expiration(value: int | str) -> bytes:
    return wire.shortstr(str(value))


_WRITERS: Final[dict[str, Callable[[Any], bytes]]] = {
    "content_type": wire.shortstr,
    "content_encoding": wire.shortstr,
    "headers": wire.table,
    "delivery_mode": _octet,
    "priority": _octet,
    "correlation_id": wire.shortstr,
    "reply_to": wire.shortstr,
    "expiration": _expiration,
    "message_id": wire.shortstr,
    "timestamp": wire.timestamp,
    "type": wire.shortstr,
    "user_id": wire.shortstr,
    "app_id": wire.shortstr,
    "cluster_id": wire.shortstr,
}
_NONE: Final = properties.encode(Properties())
_PERSISTENT: Final = properties.encode(Properties(delivery_mode=PERSISTENT))


def encode(base: Properties | None, persistent: bool, fields: Mapping[str, Any]) -> bytes:
    """The octets of `base` with `fields` instead of its own; a value of None leaves a property out.

    Raises InvalidValue for what the property cannot hold.
    """
    if base is None and not fields:
        return _PERSISTENT if persistent else _NONE
    values: dict[str, Any] = {}
    if base is not None:
        values = {name: getattr(base, name) for name in _WRITERS}
    values.update(fields)
    if persistent:
        values["delivery_mode"] = PERSISTENT
    return properties.join({name: _write(name, value) for name, value in values.items() if value is not None})


def _write(name: str, value: Any) -> bytes:
    writer = _WRITERS.get(name)
    if writer is None:
        raise TypeError(f"messages have no property {name!r}; they have {', '.join(_WRITERS)}")
    try:
        return writer(value)
    except ProtocolError as error:
        raise InvalidValue(f"{name}: {error.text}") from None
    except (struct.error, ValueError, TypeError, AttributeError) as error:
        raise InvalidValue(f"{name} cannot be {value!r}: {error}") from None
