from __future__ import annotations

import contextlib
import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pamqp.decode
import pamqp.encode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqp_strategies import field_tables, field_values, short_texts
from broker.amqp import wire
from broker.amqp.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from broker.amqp.spec import ReplyCode

# Each tag that RabbitMQ reads, the octets behind it and what they mean.
TAGS: list[tuple[bytes, bytes, Any]] = [
    (b"t", b"\x00", False),
    (b"t", b"\x02", True),
    (b"b", b"\xff", -1),
    (b"B", b"\xff", 255),
    (b"s", b"\x80\x00", -(2**15)),
    (b"u", b"\x80\x00", 2**15),
    (b"I", b"\xff\xff\xff\xfe", -2),
    (b"i", b"\xff\xff\xff\xfe", 2**32 - 2),
    (b"l", b"\xff" * 8, -1),
    (b"L", b"\xff" * 8, -1),
    (b"f", struct.pack(">f", 0.5), 0.5),
    (b"d", struct.pack(">d", 0.1), 0.1),
    (b"D", b"\x02\x00\x00\x01\x00", Decimal("2.56")),
    (b"D", b"\x00\xff\xff\xff\xff", Decimal(2**32 - 1)),
    (b"S", b"\x00\x00\x00\x03" + "aü".encode(), "aü"),
    (b"S", b"\x00\x00\x00\x02\xff\xfe", b"\xff\xfe"),
    (b"A", b"\x00\x00\x00\x03Vt\x01", [None, True]),
    (b"T", b"\x00\x00\x00\x00\x00\x00\x00\x01", datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),
    (b"T", b"\xff" * 8, 2**64 - 1),
    (b"F", b"\x00\x00\x00\x04\x01kt\x01", {"k": True}),
    (b"V", b"", None),
    (b"x", b"\x00\x00\x00\x02ab", b"ab"),
]


@pytest.mark.parametrize(("tag", "octets", "value"), TAGS)
def test_a_value_is_read_by_its_tag(tag: bytes, octets: bytes, value: Any) -> None:
    body = b"\x01n" + tag + octets
    read, end = wire.read_table(len(body).to_bytes(4) + body, 0)
    assert read == {"n": value}
    assert type(read["n"]) is type(value) or isinstance(read["n"], wire.Timestamp)
    assert end == 4 + len(body)


@given(field_tables, st.binary(max_size=4), st.binary(max_size=4))
def test_a_table_comes_back(table: dict[str, Any], before: bytes, behind: bytes) -> None:
    octets = before + wire.table(table) + behind
    assert wire.read_table(octets, len(before)) == (table, len(octets) - len(behind))


@given(field_values)
def test_types_come_back(value: Any) -> None:
    """1, True and 1.0 are equal in Python, and not the same in a table."""
    assert repr(_plain(wire.read_value(wire.write_value(value)))) == repr(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


@given(field_tables)
def test_split_and_join_keep_octets(table: dict[str, Any]) -> None:
    octets = wire.table(table)
    fields = wire.split_table(octets)
    assert wire.join_table(fields) == octets
    assert {name: wire.read_value(raw) for name, raw in fields.items()} == table


@given(st.lists(field_values))
def test_split_and_join_keep_the_octets_of_an_array(values: list[Any]) -> None:
    octets = wire.write_value(values)
    raws = wire.split_array(octets)
    assert wire.join_array(raws) == octets
    assert [wire.read_value(raw) for raw in raws] == values


@given(field_tables.map(lambda table: _as_pamqp(table)))
def test_pamqp_reads_what_we_write(table: dict[str, Any]) -> None:
    octets = wire.table(table)
    end, read = pamqp.decode.field_table(octets)
    assert (end, read) == (len(octets), table)


@given(field_tables.map(lambda table: _as_pamqp(table)))
def test_we_read_what_pamqp_writes(table: dict[str, Any]) -> None:
    octets = pamqp.encode.field_table(table)
    assert wire.read_table(octets, 0) == (table, len(octets))


def _as_pamqp(value: Any) -> Any:
    """The same, without what pamqp cannot carry."""
    match value:
        case bytes():
            return bytearray(value)
        case wire.Timestamp():
            return None
        case float():  # with 32 bits there
            return struct.unpack(">f", struct.pack(">f", value))[0] if abs(value) < 2.0**127 else None
        case Decimal():  # signed there
            return value if int("".join(map(str, value.as_tuple().digits))) < 2**31 else None
        case datetime():  # larger numbers are taken for milliseconds
            return value if value.timestamp() < 2**32 else None
        case list():
            return [_as_pamqp(item) for item in value]
        case dict():
            return {name: _as_pamqp(item) for name, item in value.items()}
    return value


@pytest.mark.parametrize(
    ("value", "octets"),
    [
        (2**31 - 1, b"I\x7f\xff\xff\xff"),
        (-(2**31), b"I\x80\x00\x00\x00"),
        (2**31, b"l\x00\x00\x00\x00\x80\x00\x00\x00"),
        (wire.LongInt(1), b"l\x00\x00\x00\x00\x00\x00\x00\x01"),
        (True, b"t\x01"),
        (1.0, b"d?\xf0\x00\x00\x00\x00\x00\x00"),
        ("1", b"S\x00\x00\x00\x011"),
        (b"1", b"x\x00\x00\x00\x011"),
        (Decimal("1e3"), b"D\x00\x00\x00\x03\xe8"),
        (wire.Timestamp(2**63), b"T\x80\x00\x00\x00\x00\x00\x00\x00"),
        ((), b"A\x00\x00\x00\x00"),
    ],
)
def test_a_value_is_written_with_its_tag(value: Any, octets: bytes) -> None:
    assert wire.write_value(value) == octets


@pytest.mark.parametrize(
    "value",
    [
        2**63,
        -(2**63) - 1,
        Decimal("-1"),
        Decimal("NaN"),
        Decimal("Infinity"),
        Decimal(2**32),
        Decimal("1e1000000000"),
        Decimal("1e-256"),
        datetime(1969, 12, 31, tzinfo=UTC),
        "\ud800",
        {"n" * 256: 1},
        {"\ud800": 1},
        object(),
        {1, 2},
    ],
)
def test_what_no_field_can_carry_is_our_mistake(value: Any) -> None:
    with pytest.raises(LocalProtocolError) as error:
        wire.write_value(value)
    assert error.value.code is ReplyCode.SYNTAX_ERROR


def _nested(depth: int, inner: bytes = b"V") -> bytes:
    """A table value in so many arrays."""
    for _ in range(depth):
        inner = b"A" + len(inner).to_bytes(4) + inner
    return inner


def test_tables_nest_so_deep_and_no_deeper() -> None:
    value: Any = None
    for _ in range(wire.TABLE_DEPTH_MAX):
        value = [value]
    assert wire.read_value(wire.write_value(value)) == value
    with pytest.raises(RemoteProtocolError, match="nested deeper than 32"):
        wire.read_value(_nested(wire.TABLE_DEPTH_MAX + 1))
    with pytest.raises(LocalProtocolError, match="nested deeper than 32"):
        wire.write_value([value])


def test_a_table_as_deep_as_a_frame_is_refused_and_not_more() -> None:
    with pytest.raises(RemoteProtocolError, match="nested"):
        wire.read_value(_nested(20_000))


@pytest.mark.parametrize("tag", sorted(set(range(256)) - {tag[0] for tag, _, _ in TAGS}))
def test_another_tag_is_a_syntax_error(tag: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"unknown field type {tag:#04x}") as error:
        wire.read_value(bytes([tag]) + bytes(20))
    assert error.value.code is ReplyCode.SYNTAX_ERROR


@given(field_tables.filter(bool), st.data())
def test_a_table_cut_short_is_refused(table: dict[str, Any], data: st.DataObject) -> None:
    octets = wire.table(table)
    cut = octets[: data.draw(st.integers(0, len(octets) - 1))]
    with pytest.raises(RemoteProtocolError):
        wire.read_table(cut, 0)
    with pytest.raises(RemoteProtocolError):
        wire.split_table(cut)


@given(field_tables.filter(bool), st.data())
def test_a_table_that_says_another_size_is_refused(table: dict[str, Any], data: st.DataObject) -> None:
    octets = wire.table(table)
    wrong = data.draw(st.integers(0, len(octets) - 5))
    body = wrong.to_bytes(4) + octets[4:]
    try:
        read, end = wire.read_table(body, 0)
    except RemoteProtocolError:
        return
    assert end == 4 + wrong  # it was cut between two fields
    assert read.items() <= table.items() or read != table


@given(st.binary(max_size=60))
def test_any_octets_are_a_table_or_an_error(octets: bytes) -> None:
    body = len(octets).to_bytes(4) + octets
    for read in (wire.read_table, wire.split_table):
        with contextlib.suppress(RemoteProtocolError):
            read(body, 0)
    with contextlib.suppress(RemoteProtocolError):
        wire.split_array(b"A" + body)


@given(
    st.lists(st.sampled_from([bytes([n]) for n in b"tbBsuIilLfdDSATFVx\x00\x01\x02\x04\xff"]), max_size=80)
)
def test_octets_that_look_like_a_table_are_one_or_an_error(pieces: list[bytes]) -> None:
    octets = b"".join(pieces)
    try:
        table = wire.read_table(len(octets).to_bytes(4) + octets, 0)[0]
    except RemoteProtocolError:
        return
    # What could be read can be written, and says the same.
    assert repr(wire.read_table(wire.table(table), 0)[0]) == repr(table)


# ---- strings and times ----


@given(short_texts, st.binary(max_size=3))
def test_a_short_string_comes_back(text: str, behind: bytes) -> None:
    octets = wire.shortstr(text)
    assert wire.read_shortstr(b"!" + octets + behind, 1) == (text, 1 + len(octets))


def test_a_short_string_has_255_octets_at_most() -> None:
    assert len(wire.shortstr("ü" * 127)) == 255
    with pytest.raises(LocalProtocolError, match="at most 255"):
        wire.shortstr("ü" * 128)


def test_a_short_string_is_utf_8() -> None:
    with pytest.raises(RemoteProtocolError, match="Malformed UTF-8 in shortstr") as error:
        wire.read_shortstr(b"\x01\xff", 0)
    assert error.value.code is ReplyCode.FRAME_ERROR


@pytest.mark.parametrize("octets", [b"", b"\x01", b"\x02a"])
def test_a_short_string_cut_short_is_refused(octets: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as error:
        wire.read_shortstr(octets, 0)
    assert error.value.code is ReplyCode.SYNTAX_ERROR


@pytest.mark.parametrize("octets", [b"", b"\x00\x00\x00", b"\x00\x00\x00\x02a", b"\xff\xff\xff\xffa"])
def test_a_long_string_cut_short_is_refused(octets: bytes) -> None:
    with pytest.raises(ProtocolError) as error:
        wire.read_longstr(octets, 0)
    assert error.value.code is ReplyCode.SYNTAX_ERROR


@given(st.integers(0, 2**64 - 1))
def test_every_timestamp_comes_back(seconds: int) -> None:
    octets = seconds.to_bytes(8)
    value, end = wire.read_timestamp(octets, 0)
    assert end == 8
    assert wire.timestamp(value) == octets
    assert wire.write_value(value) == b"T" + octets


def test_a_time_is_written_in_whole_seconds() -> None:
    assert wire.timestamp(datetime(1970, 1, 1, 0, 0, 1, 999_999, tzinfo=UTC)) == (1).to_bytes(8)


@pytest.mark.parametrize("seconds", [-1, 2**64])
def test_a_time_that_does_not_fit_is_our_mistake(seconds: int) -> None:
    with pytest.raises(LocalProtocolError, match="does not fit into 64 bits"):
        wire.timestamp(seconds)
