"""Between the two worlds: AMQP messages as records of a topic, and records as AMQP messages.

Shape:  record key: the message's header `x-partition-key`, else its routing key; value: its body; headers: those
        of the message as text or octets, then `amqp.exchange`, `amqp.routing-key`, and `amqp.properties`, the
        properties as they came. Back the other way, a record without `amqp.properties` gives its headers as the
        message's, and its key as `x-partition-key`.
Why:    Kafka's clients read the headers that they know; AMQP's get back exactly what was published.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from broker.amqp import content, properties, wire
from broker.amqp.envelope import Envelope
from broker.amqp.errors import ProtocolError
from broker.amqp.properties import PERSISTENT, Properties
from broker.kafka.records import Record

PARTITION_KEY: Final = "x-partition-key"
STREAM_OFFSET: Final = "x-stream-offset"
STREAM_PARTITION: Final = "x-stream-partition"
FILTER_VALUE: Final = "x-stream-filter-value"

_EXCHANGE: Final = "amqp.exchange"
_ROUTING_KEY: Final = "amqp.routing-key"
_PROPERTIES: Final = "amqp.properties"
# A short string of AMQP has no more; a name of a table's field is one.
_SHORT_MAX: Final = 255


def record_of(envelope: Envelope, closed: bytes, now_ms: int) -> Record:
    """The record of a message."""
    raw = content.properties_of(closed)
    headers: list[tuple[str, bytes | None]] = []
    key = envelope.routing_key.encode() or None
    if envelope.facts.has_headers:
        found = _headers_in(raw)
        headers = [(name, _octets_of(value)) for name, value in found.items()]
        if PARTITION_KEY in found:
            key = _octets_of(found[PARTITION_KEY])
    headers += [
        (_EXCHANGE, envelope.exchange.encode()),
        (_ROUTING_KEY, envelope.routing_key.encode()),
        (_PROPERTIES, bytes(raw)),
    ]
    return Record(0, now_ms, key, content.body_of(closed), headers)


def _headers_in(raw: bytes) -> Mapping[str, Any]:
    """Nothing if nobody can read them: the octets go along all the same."""
    try:
        octets = properties.split(raw).get("headers")
        return wire.read_table(octets, 0)[0] if octets is not None else {}
    except ProtocolError:
        return {}


def _octets_of(value: Any) -> bytes:
    """A field value as a record's header has it: text and octets as they are, the rest as one would write it."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, bool):
        return b"true" if value else b"false"
    return str(value).encode()


def filter_value_of(record: Record) -> str | None:
    """What consumers of a stream may filter by."""
    for name, value in record.headers:
        if name == FILTER_VALUE and value is not None:
            return value.decode(errors="replace")
    return None


def origin_of(record: Record, topic: str) -> tuple[str, str]:
    """Exchange and routing key: as they were, or those with which the default exchange would have led here."""
    found = {name: value for name, value in record.headers if name in (_EXCHANGE, _ROUTING_KEY)}
    exchange, key = found.get(_EXCHANGE), found.get(_ROUTING_KEY)
    if exchange is None or key is None or max(len(exchange), len(key)) > _SHORT_MAX:
        return "", topic
    return exchange.decode(errors="replace"), key.decode(errors="replace")


def content_of(record: Record, partition: int | None, channel: int, frame_max: int) -> bytes:
    """The content of a message; `partition` is told where there are several."""
    position: dict[str, Any] = {STREAM_OFFSET: record.offset}
    if partition is not None:
        position[STREAM_PARTITION] = partition
    raw = dict(record.headers).get(_PROPERTIES)
    made = _with_headers(raw, position) if raw is not None else None
    if made is None:
        made = properties.encode(_properties_of(record, position))
    return content.build(channel, made, record.value or b"", frame_max)


def _with_headers(raw: bytes, more: Mapping[str, Any]) -> bytes | None:
    """Properties with some headers more; None if they are no properties."""
    try:
        values = properties.split(raw)
        fields = wire.split_table(values["headers"]) if "headers" in values else {}
        values["headers"] = wire.join_table(
            fields | {name: wire.write_value(value) for name, value in more.items()}
        )
        return properties.join(values)
    except (ProtocolError, KeyError):
        return None


def _properties_of(record: Record, position: Mapping[str, Any]) -> Properties:
    """Of a record that Kafka's client made."""
    headers: dict[str, Any] = {
        name: _text_or_octets(value) for name, value in record.headers if len(name.encode()) <= _SHORT_MAX
    }
    if record.key is not None:
        headers[PARTITION_KEY] = _text_or_octets(record.key)
    moment = (
        datetime.fromtimestamp(max(record.timestamp, 0) // 1000, UTC) if _tellable(record.timestamp) else None
    )
    return Properties(headers=headers | dict(position), delivery_mode=PERSISTENT, timestamp=moment)


def _tellable(timestamp: int) -> bool:
    """Within the years that a date can say."""
    return 0 <= timestamp < 253_402_300_800_000


def _text_or_octets(value: bytes | None) -> str | bytes | None:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
