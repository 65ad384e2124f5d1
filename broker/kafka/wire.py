"""What readers and writers of every message share: lengths, tagged fields, records, and what is wrong with them.

Flow:   the functions that `broker.kafka.reading` and `broker.kafka.writing` generate call these.
Shape:  uvarint   7 bits a byte, lowest first, the top bit says that more follow
        string    length i16 | UTF-8          compact: length + 1 uvarint | UTF-8         null: -1, or 0
        bytes     length i32 | octets         compact: length + 1 uvarint | octets
        array     count i32 | elements        compact: count + 1 uvarint | elements
        tags      count uvarint | (tag uvarint | size uvarint | octets)*, by tag, ascending
Limits: a uvarint has 5 bytes; a string has 32,767 bytes in either form, as Kafka's has.
Spec:   Kafka protocol guide "Protocol Primitive Types"; KIP-482 for the compact forms.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from broker.kafka.errors import RemoteProtocolError

# A message or a structure inside one: the published field names in snake_case.
# `Any` because a type for each of 70 messages says what the tables say already.
Struct: TypeAlias = dict[str, Any]

# Bytes, or whatever object with a length was given as records: a range of a file, say.
Part: TypeAlias = Any

STRING_BYTES_MAX = 0x7FFF
# Records below this are copied into the bytes around them: one more piece costs more than the copy.
RECORDS_BYTES_COPIED = 4096

_UVARINT_BYTES_MAX = 5
_OCTETS = (bytes, bytearray, memoryview)
_SMALL = [bytes([n]) for n in range(0x80)]


# ---- reading: (buffer, position) to (value, next position); a position behind the end is an IndexError ----


def uvarint_rest(buffer: bytes, at: int, first: int) -> tuple[int, int]:
    """The value of an unsigned varint of several bytes, of which `first` was read already.

    Raises RemoteProtocolError above 5 bytes.
    """
    value = first & 0x7F
    for shift in range(7, 7 * _UVARINT_BYTES_MAX, 7):
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise RemoteProtocolError(f"an unsigned varint has more than {_UVARINT_BYTES_MAX} bytes")


def read_uvarint(buffer: bytes, at: int) -> tuple[int, int]:
    first = buffer[at]
    return (first, at + 1) if first < 0x80 else uvarint_rest(buffer, at + 1, first)


def read_tag(buffer: bytes, at: int) -> tuple[int, int, int]:
    """Tag, where its octets begin and where they end. Raises RemoteProtocolError when that is behind the buffer."""
    tag, at = read_uvarint(buffer, at)
    size, at = read_uvarint(buffer, at)
    if size > len(buffer) - at:
        raise misfit(f"tagged field {tag}", size, len(buffer) - at)
    return tag, at, at + size


def skip_tags(buffer: bytes, at: int, count: int) -> int:
    """Go past `count` tagged fields that nobody here knows."""
    for _ in range(count):
        _, _, at = read_tag(buffer, at)
    return at


# ---- what is wrong with a peer's bytes ----


def misfit(what: str, size: int, left: int) -> RemoteProtocolError:
    return RemoteProtocolError(f"{what} has a size of {size}, and {max(left, 0)} bytes are left")


def refused(what: str, size: int, left: int) -> RemoteProtocolError:
    if size < 0:
        return RemoteProtocolError(f"{what} is null, which it cannot be")
    return misfit(what, size, left)


def too_many(what: str, count: int, left: int) -> RemoteProtocolError:
    if count < 0:
        return RemoteProtocolError(f"{what} is null, which it cannot be")
    return RemoteProtocolError(f"{what} has {count} elements: too many for {left} bytes, or for one message")


def overrun(what: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"{what} does not end where its tagged field ends")


# ---- writing ----


def uvarint(value: int) -> bytes:
    """An unsigned varint of a value that is not negative."""
    if value < 0x80:
        return _SMALL[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def put_records(out: bytearray, parts: list[Part], records: Part) -> bytearray:
    """Add records behind `out`, which holds their length already; returns where to go on writing."""
    if len(records) <= RECORDS_BYTES_COPIED and isinstance(records, _OCTETS):
        out += records
        return out
    parts += (out, records)
    return bytearray()


def put_tags(tags: tuple[tuple[int, bytearray], ...]) -> bytes:
    """Tagged fields with their count; they come in the order of their tags."""
    pieces: list[bytes | bytearray] = [uvarint(len(tags))]
    for tag, octets in tags:
        pieces += (uvarint(tag), uvarint(len(octets)), octets)
    return b"".join(pieces)


def differs(struct: Struct, defaults: Struct) -> bool:
    """Whether any field of a structure has another value than its default."""
    return any(struct.get(name, default) != default for name, default in defaults.items())
