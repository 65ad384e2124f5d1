"""Bodies of Kafka messages: drawn from the tables, and turned into kio's dataclasses.

kio generates its own codec from the schemas that Apache Kafka publishes, and knows nothing of ours.
"""

from __future__ import annotations

import dataclasses
import datetime
import io
import random
import typing
import uuid
from collections.abc import Iterator
from typing import Any

from kio.index import load_payload_module
from kio.schema.errors import ErrorCode
from kio.serial import entity_reader, entity_writer
from kio.static.constants import EntityType

from broker.kafka import api
from broker.kafka.schema import Field, Fields, Schema, Type

_TEXTS = ["", "orders", "größe-π-𝄞", "x" * 126, "y" * 127, "z" * 128, "w" * 20_000]
_OCTETS = [b"", b"\0", b"key", b"a" * 127, b"b" * 300, b"c" * 5_000]
_INT_BITS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}
# 2100; kio makes dates and durations of milliseconds, and its durations are floats.
_MILLISECONDS_MAX = 4_102_444_800_000
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def messages() -> Iterator[tuple[api.Api, int, Schema]]:
    """Every request and response in every version that is served."""
    for each in api.APIS.values():
        for version in range(each.min_version, each.max_version + 1):
            yield each, version, each.request
            yield each, version, each.response


def name_of(message: tuple[api.Api, int, Schema]) -> str:
    return f"{message[2].name}-v{message[1]}"


def draw(rng: random.Random, fields: Fields, version: int) -> dict[str, Any]:
    """A body with a value for each field that the version has, and the default for the others."""
    return {
        field.name: _value(rng, field, version) if field.is_in(version) else field.absent()
        for field in fields
    }


def _value(rng: random.Random, field: Field, version: int) -> Any:
    if field.is_nullable_in(version) and rng.random() < 0.3:
        return None
    if field.tag is not None and rng.random() < 0.5:
        return field.absent()
    if field.name.endswith("_ms") and field.type == "int64":
        return rng.choice([-1, 0, rng.randrange(_MILLISECONDS_MAX)])
    if field.name.endswith("error_code"):
        return int(rng.choice(list(ErrorCode)))
    return _of_type(rng, field.type, version)


def _of_type(rng: random.Random, kind: Type, version: int) -> Any:
    if isinstance(kind, tuple):
        return draw(rng, kind, version)
    if isinstance(kind, list):
        return [draw(rng, kind[0], version) for _ in range(rng.choice([0, 1, 1, 2, 3]))]
    if kind.startswith("[]"):
        return [_of_type(rng, kind[2:], version) for _ in range(rng.choice([0, 1, 3, 130]))]
    if kind in _INT_BITS:
        most = 2 ** (_INT_BITS[kind] - 1)
        return rng.choice([0, 1, -1, most - 1, -most, rng.randrange(-most, most)])
    return _other(rng, kind)


def _other(rng: random.Random, kind: str) -> Any:
    if kind == "bool":
        return rng.random() < 0.5
    if kind == "string":
        return rng.choice(_TEXTS)
    if kind == "uuid":
        return rng.choice([bytes(16), rng.randbytes(16)])
    assert kind in ("bytes", "records"), kind
    return rng.choice(_OCTETS)


# ---- kio ----


def kio_class(each: api.Api, version: int, schema: Schema) -> type[Any]:
    side = EntityType.request if schema is each.request else EntityType.response
    found: type[Any] = getattr(load_payload_module(each.key, version, side), schema.name)
    return found


def to_kio(kind: type[Any], fields: Fields, version: int, body: dict[str, Any]) -> Any:
    """The same values as an instance of one of kio's dataclasses."""
    hints = typing.get_type_hints(kind)
    present = [field for field in fields if field.is_in(version)]
    values = {}
    for theirs, ours in zip(dataclasses.fields(kind), present, strict=True):
        assert ours.name in (theirs.name, f"{theirs.name}_ms")
        value, hint = body[ours.name], hints[theirs.name]
        values[theirs.name] = _to_kio_value(
            theirs.metadata.get("kafka_type"), hint, ours.type, version, value
        )
    return kind(**values)


@dataclasses.dataclass
class Row:
    """A field as the table has it and as kio has it; `default` is MISSING where kio has none."""

    name: str
    nullable: tuple[bool, bool]
    default: tuple[Any, Any]


def rows(kind: type[Any], fields: Fields, version: int) -> Iterator[Row]:
    """All fields of a message and of the structures in it."""
    hints = typing.get_type_hints(kind)
    ours = [field for field in fields if field.is_in(version)]
    for theirs, field in zip(dataclasses.fields(kind), ours, strict=True):
        hint, kafka_type = hints[theirs.name], theirs.metadata.get("kafka_type")
        # kio has None for the id of zeros and for the date of -1 as well.
        nullable = type(None) in typing.get_args(hint) and kafka_type not in ("uuid", "datetime_i64")
        default = _to_kio_value(kafka_type, hint, field.type, version, field.absent())
        yield Row(field.name, (field.is_nullable_in(version), nullable), (default, theirs.default))
        inner = field.type[0] if isinstance(field.type, list) else field.type
        if isinstance(inner, tuple):
            yield from rows(_dataclass_in(hint), inner, version)


def _to_kio_value(kafka_type: str | None, hint: Any, kind: Type, version: int, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(kind, tuple):
        return to_kio(_dataclass_in(hint), kind, version, value)
    if isinstance(kind, list):
        return tuple(to_kio(_dataclass_in(hint), kind[0], version, item) for item in value)
    if isinstance(value, list):
        return tuple(value)
    if kafka_type == "error_code":
        return ErrorCode(value)
    if kafka_type in ("timedelta_i32", "timedelta_i64"):
        return datetime.timedelta(milliseconds=value)
    if kafka_type == "datetime_i64":
        return None if value == -1 else _EPOCH + datetime.timedelta(milliseconds=value)
    if kafka_type == "uuid":
        return uuid.UUID(bytes=value) if any(value) else None
    return value


def _dataclass_in(hint: Any) -> type[Any]:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return hint
    return next(_dataclass_in(part) for part in typing.get_args(hint) if part not in (type(None), Ellipsis))


def kio_bytes(entity: Any) -> bytes:
    buffer = io.BytesIO()
    entity_writer(type(entity))(buffer, entity)
    return buffer.getvalue()


def kio_read(kind: type[Any], octets: bytes) -> Any:
    entity, size = entity_reader(kind)(octets, 0)
    assert size == len(octets)
    return entity
