"""Make dead letters: the message, with its death written into its headers, as a run to publish.

Flow:   the node buries what queues give up; `letters_of` builds what goes to the dead letter exchange.
Spec:   RabbitMQ: the expiration property is lost and kept in `x-death`; `CC` is lost where a dead letter
        routing key replaces the keys. Other headers, and entries of `x-death` that say nothing new, keep
        their octets, so that a 64-bit number stays one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from broker.amqp import content, properties, wire
from broker.amqp.envelope import Envelope, PublishRun, envelope_of
from broker.amqp.errors import ProtocolError
from broker.model.dead_letter import X_DEATH, Death, Entry, first_and_last, recorded
from broker.model.message import Slice, envelopes_of
from broker.model.queue import Queue

_COPIES = "CC"
_TABLE: Final = b"F"


@dataclass(slots=True, eq=False)
class Letters:
    """Dead letters with the same history."""

    run: PublishRun
    history: Sequence[Entry]


def letters_of(queue: Queue, reason: str, piece: Slice, now_ms: int) -> list[Letters]:
    """The dead letters of a slice, in its order; only for a queue with a dead letter exchange."""
    found: list[Letters] = []
    rewritten: dict[tuple[bytes, Envelope], tuple[bytes, Sequence[Entry]]] = {}
    for died, closed in zip(envelopes_of([piece]), piece.contents, strict=True):
        raw = content.properties_of(closed)
        if (raw, died) not in rewritten:
            rewritten[raw, died] = _with_death(raw, queue, reason, died, now_ms)
        new, history = rewritten[raw, died]
        if not found or found[-1].history is not history:
            found.append(Letters(PublishRun(_envelope_of(queue, died, new), [], None, 0), history))
        run = found[-1].run
        body = content.body_of(closed)
        closed = content.build(run.envelope.channel, new, body, run.envelope.frame_max)
        run.add([closed], None, len(body))
    return found


def _envelope_of(queue: Queue, died: Envelope, raw: bytes) -> Envelope:
    settings = queue.settings
    key = settings.dead_letter_routing_key
    assert settings.dead_letter_exchange is not None
    return envelope_of(
        died.channel,
        died.frame_max,
        settings.dead_letter_exchange,
        died.routing_key if key is None else key,
        properties.facts_of(raw),
    )


def _with_death(
    raw: bytes, queue: Queue, reason: str, died: Envelope, now_ms: int
) -> tuple[bytes, Sequence[Entry]]:
    """The properties with the death in their headers, and the history that they tell now."""
    values = properties.split(raw)
    fields = _fields(values.get("headers"))
    copies = _value(fields.get(_COPIES))
    expiration = values.pop("expiration", None)
    death = Death(
        queue.name,
        reason,
        now_ms,
        died.exchange,
        [died.routing_key, *(copies if isinstance(copies, list) else [])],
        None if expiration is None else expiration[1:].decode(errors="replace"),
    )
    history, fields[X_DEATH] = _history(fields.get(X_DEATH), death)
    for name, value in first_and_last(fields, death).items():
        fields[name] = wire.write_value(value)
    if queue.settings.dead_letter_routing_key is not None:
        fields.pop(_COPIES, None)
    values["headers"] = wire.join_table(fields)
    return properties.join(values), history


def _fields(headers: bytes | None) -> dict[str, bytes]:
    try:
        return {} if headers is None else wire.split_table(headers)
    except ProtocolError:
        return {}  # a client sent headers that nobody can read


def _value(raw: bytes | None) -> Any:
    return None if raw is None else wire.read_value(raw)


def _history(raw: bytes | None, death: Death) -> tuple[list[Entry], bytes]:
    """What `x-death` tells now, and its octets: entries whose count is what it was stay as they came."""
    values = wire.split_array(raw) if raw is not None and raw.startswith(b"A") else []
    tables = [value for value in values if value.startswith(_TABLE)]  # a client may have sent anything
    before = [_entry(table, at) for at, table in enumerate(tables)]
    history = recorded(before, death)
    written = []
    for entry in history:
        if entry.at is None:
            written.append(wire.write_value(_table_of(death, entry.count)))
        elif entry is before[entry.at]:
            written.append(tables[entry.at])
        else:
            written.append(_counted(tables[entry.at], entry.count))
    return history, wire.join_array(written)


def _entry(table: bytes, at: int) -> Entry:
    fields = wire.read_value(table)
    return Entry(fields.get("queue"), fields.get("reason"), fields.get("count"), at)


def _counted(table: bytes, count: int) -> bytes:
    fields = wire.split_table(table, len(_TABLE))
    fields["count"] = wire.write_value(wire.LongInt(count))
    return _TABLE + wire.join_table(fields)


def _table_of(death: Death, count: int) -> dict[str, Any]:
    said: dict[str, Any] = {} if death.expiration is None else {"original-expiration": death.expiration}
    return {
        **said,
        "count": wire.LongInt(count),
        "reason": death.reason,
        "queue": death.queue,
        "time": datetime.fromtimestamp(death.time_ms // 1000, UTC),
        "exchange": death.exchange,
        "routing-keys": list(death.routing_keys),
    }
