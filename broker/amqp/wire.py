"""The primitive values of AMQP: short and long strings, field tables, timestamps.

Flow:   methods and properties are made of these; frames carry them.
Shape:  shortstr  length u8 | UTF-8            longstr  length u32 | octets
        table     length u32 | (name shortstr | tag u8 | value)*        array  length u32 | (tag u8 | value)*
Limits: tables nest at most 32 deep (the spec sets none; RabbitMQ recurses freely); everything else is
        bounded by the frame it stands in.
Spec:   AMQP 0-9-1 section 4.2.5, with the tags that RabbitMQ and every client use and not the printed
        ones: `s` is a 16-bit integer, `l` and `L` are both signed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeAlias

from broker.amqp.errors import LocalProtocolError, RemoteProtocolError
from broker.amqp.spec import ReplyCode

# A field value is one of: None, bool, int, float, Decimal, str, bytes, datetime, list, dict.
# `Any` because a recursive union makes every reader of a table cast.
FieldValue: TypeAlias = Any
FieldTable: TypeAlias = dict[str, FieldValue]

TABLE_DEPTH_MAX = 32
_DECIMAL_DIGITS_MAX = 10

_U8 = struct.Struct(">B")
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")


class LongInt(int):
    """An integer that goes out as a 64-bit `l` whatever its value, as RabbitMQ writes `x-death` counts."""

    __slots__ = ()


class Timestamp(int):
    """Seconds since 1970 that are too many for a date; they go out as the timestamp that they were."""

    __slots__ = ()


def syntax_error(text: str) -> RemoteProtocolError:
    return RemoteProtocolError(ReplyCode.SYNTAX_ERROR, text)


# ---- reading: every reader takes (buffer, position) and returns (value, next position) ----


def read_shortstr(buffer: bytes, at: int) -> tuple[str, int]:
    """Raises RemoteProtocolError when the string is cut short or is not UTF-8."""
    if at >= len(buffer):
        raise syntax_error("a short string was expected, and the arguments end")
    start = at + 1
    end = start + buffer[at]
    if end > len(buffer):
        raise syntax_error("a short string is longer than the arguments that hold it")
    try:
        return buffer[start:end].decode(), end
    except UnicodeDecodeError:
        raise RemoteProtocolError(ReplyCode.FRAME_ERROR, "Malformed UTF-8 in shortstr") from None


def read_longstr(buffer: bytes, at: int) -> tuple[bytes, int]:
    size, start = read_u32(buffer, at)
    end = start + size
    if end > len(buffer):
        raise syntax_error("a long string is longer than the arguments that hold it")
    return buffer[start:end], end


def _fixed(shape: str) -> Callable[[bytes, int], tuple[Any, int]]:
    unpacker = struct.Struct(shape)
    size = unpacker.size

    def read(buffer: bytes, at: int) -> tuple[Any, int]:
        try:
            return unpacker.unpack_from(buffer, at)[0], at + size
        except struct.error:
            raise syntax_error(f"{size} octets were expected, and the arguments end") from None

    return read


read_u8 = _fixed(">B")
read_u16 = _fixed(">H")
read_u32 = _fixed(">I")
read_u64 = _fixed(">Q")
_read_double = _fixed(">d")
_read_float = _fixed(">f")
_read_i32 = _fixed(">i")
_read_i64 = _fixed(">q")


def _read_bool(buffer: bytes, at: int) -> tuple[bool, int]:
    value, at = read_u8(buffer, at)
    return value != 0, at


def _read_decimal(buffer: bytes, at: int) -> tuple[Decimal, int]:
    scale, at = read_u8(buffer, at)
    unscaled, at = read_u32(buffer, at)
    return Decimal(unscaled).scaleb(-scale), at


def _read_text(buffer: bytes, at: int) -> tuple[str | bytes, int]:
    value, at = read_longstr(buffer, at)
    try:
        return value.decode(), at
    except UnicodeDecodeError:
        return value, at  # a long string may hold any octets


def read_timestamp(buffer: bytes, at: int) -> tuple[datetime | Timestamp, int]:
    """Seconds since 1970; a number too large for a date stays a number."""
    seconds, at = read_u64(buffer, at)
    try:
        return datetime.fromtimestamp(seconds, UTC), at
    except (OverflowError, ValueError, OSError):
        return Timestamp(seconds), at


_SCALARS: dict[int, Callable[[bytes, int], tuple[Any, int]]] = {
    ord("t"): _read_bool,
    ord("b"): _fixed(">b"),
    ord("B"): read_u8,
    ord("s"): _fixed(">h"),
    ord("u"): read_u16,
    ord("I"): _read_i32,
    ord("i"): read_u32,
    ord("l"): _read_i64,
    ord("L"): _read_i64,
    ord("f"): _read_float,
    ord("d"): _read_double,
    ord("D"): _read_decimal,
    ord("S"): _read_text,
    ord("x"): read_longstr,
    ord("T"): read_timestamp,
}


def _read_value(buffer: bytes, at: int, depth: int) -> tuple[FieldValue, int]:
    tag, at = read_u8(buffer, at)
    scalar = _SCALARS.get(tag)
    if scalar is not None:
        return scalar(buffer, at)
    if tag == ord("V"):
        return None, at
    if tag == ord("F"):
        return read_table(buffer, at, depth + 1)
    if tag == ord("A"):
        return _read_array(buffer, at, depth + 1)
    raise syntax_error(f"unknown field type {tag:#04x} in a table")


def _bounds(buffer: bytes, at: int, depth: int) -> tuple[int, int]:
    if depth > TABLE_DEPTH_MAX:
        raise syntax_error(f"field tables nested deeper than {TABLE_DEPTH_MAX}")
    size, start = read_u32(buffer, at)
    end = start + size
    if end > len(buffer):
        raise syntax_error("a table is longer than the arguments that hold it")
    return start, end


def _read_array(buffer: bytes, at: int, depth: int) -> tuple[list[FieldValue], int]:
    at, end = _bounds(buffer, at, depth)
    values = []
    while at < end:
        value, at = _read_value(buffer, at, depth)
        values.append(value)
    if at != end:
        raise syntax_error("the last value of an array runs over its end")
    return values, end


def read_table(buffer: bytes, at: int, depth: int = 0) -> tuple[FieldTable, int]:
    """Long strings become `str` where they are UTF-8 and `bytes` where not; `F` and `A` nest.

    Raises RemoteProtocolError for an unknown tag, a value that runs over, or more than 32 levels.
    """
    at, end = _bounds(buffer, at, depth)
    table: FieldTable = {}
    while at < end:
        name, at = read_shortstr(buffer, at)
        table[name], at = _read_value(buffer, at, depth)
    if at != end:
        raise syntax_error("the last value of a table runs over its end")
    return table, end


def split_table(buffer: bytes, at: int = 0) -> dict[str, bytes]:
    """Field name to the octets of its value, tag first: what `join_table` puts together again.

    For whoever changes one field of a peer's table and must not touch the width of the other numbers.
    """
    at, end = _bounds(buffer, at, 0)
    fields = {}
    while at < end:
        name, start = read_shortstr(buffer, at)
        _, at = _read_value(buffer, start, 0)
        fields[name] = buffer[start:at]
    if at != end:
        raise syntax_error("the last value of a table runs over its end")
    return fields


def split_array(raw: bytes) -> list[bytes]:
    """The octets of an array's values, tags first; `raw` has the array's own tag, as `split_table` gives it."""
    at, end = _bounds(raw, 1, 0)
    values = []
    while at < end:
        start = at
        _, at = _read_value(raw, start, 0)
        values.append(raw[start:at])
    if at != end:
        raise syntax_error("the last value of an array runs over its end")
    return values


def read_value(raw: bytes) -> FieldValue:
    """The value of one field as `split_table` gives it."""
    return _read_value(raw, 0, 0)[0]


# ---- writing: every writer returns the octets ----


def _misfit(text: str) -> LocalProtocolError:
    return LocalProtocolError(ReplyCode.SYNTAX_ERROR, text)


def _encoded(value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, as JSON may hold
        raise _misfit(f"{value[:40]!r} cannot be written as UTF-8: {error.reason}") from None


def shortstr(value: str) -> bytes:
    """Raises LocalProtocolError over 255 octets."""
    encoded = _encoded(value)
    if len(encoded) > 255:
        raise _misfit(f"{value[:40]!r}... has {len(encoded)} octets, a short string at most 255")
    return _U8.pack(len(encoded)) + encoded


def longstr(value: bytes | str) -> bytes:
    encoded = _encoded(value) if isinstance(value, str) else value
    return _U32.pack(len(encoded)) + encoded


def timestamp(value: datetime | int) -> bytes:
    """Whole seconds. Raises LocalProtocolError for a time before 1970."""
    seconds = int(value.timestamp()) if isinstance(value, datetime) else value
    if not 0 <= seconds < 2**64:
        raise _misfit(f"the time {value} does not fit into 64 bits of seconds since 1970")
    return _U64.pack(seconds)


def table(fields: Mapping[str, FieldValue], depth: int = 0) -> bytes:
    """Integers take the narrower of `I` and `l` that holds them, `str` is `S` and `bytes` is `x`.

    Raises LocalProtocolError for a value that no field type can carry.
    """
    body = b"".join([shortstr(name) + _value(value, depth) for name, value in fields.items()])
    return _U32.pack(len(body)) + body


def join_table(fields: Mapping[str, bytes]) -> bytes:
    """The table of fields whose values are octets already, as `split_table` or `write_value` gives them."""
    body = b"".join([shortstr(name) + raw for name, raw in fields.items()])
    return _U32.pack(len(body)) + body


def join_array(values: Sequence[bytes]) -> bytes:
    """The array, with its tag, of values that are octets already."""
    body = b"".join(values)
    return b"A" + _U32.pack(len(body)) + body


def write_value(value: FieldValue) -> bytes:
    """Tag and octets of one value."""
    return _value(value, 0)


def _array(values: Sequence[FieldValue], depth: int) -> bytes:
    body = b"".join([_value(value, depth) for value in values])
    return _U32.pack(len(body)) + body


def _integer(value: int) -> bytes:
    if -(2**31) <= value < 2**31 and not isinstance(value, LongInt):
        return b"I" + struct.pack(">i", value)
    if -(2**63) <= value < 2**63:
        return b"l" + struct.pack(">q", value)
    raise _misfit(f"the integer {value} does not fit into 64 bits")


def _decimal(value: Decimal) -> bytes:
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or sign:
        raise _misfit(f"AMQP has no decimal for {value}")
    if exponent > _DECIMAL_DIGITS_MAX:  # a small number of octets may say a very large number
        raise _misfit(f"the decimal {value} does not fit into 32 bits")
    unscaled = int("".join(map(str, digits)) or "0") * 10 ** max(exponent, 0)
    scale = max(-exponent, 0)
    if scale > 255 or unscaled >= 2**32:
        raise _misfit(f"the decimal {value} does not fit into 32 bits")
    return b"D" + _U8.pack(scale) + _U32.pack(unscaled)


def _value(value: FieldValue, depth: int) -> bytes:
    if depth > TABLE_DEPTH_MAX:
        raise _misfit(f"field tables nested deeper than {TABLE_DEPTH_MAX}")
    match value:
        case None:
            return b"V"
        case bool():
            return b"t\x01" if value else b"t\x00"
        case Timestamp():
            return b"T" + timestamp(value)
        case int():
            return _integer(value)
        case float():
            return b"d" + struct.pack(">d", value)
        case str():
            return b"S" + longstr(value)
        case bytes() | bytearray():
            return b"x" + longstr(bytes(value))
        case datetime():
            return b"T" + timestamp(value)
        case Decimal():
            return _decimal(value)
        case Mapping():
            return b"F" + table(value, depth + 1)
        case list() | tuple():
            return b"A" + _array(value, depth + 1)
    raise _misfit(f"a field cannot hold a {type(value).__name__}")
