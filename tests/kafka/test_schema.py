"""Tables: versions, defaults, null, tags, and every type; the messages that are served use most of it."""

from __future__ import annotations

from typing import Any

import pytest

from broker.kafka import wire
from broker.kafka.errors import RemoteProtocolError
from broker.kafka.schema import VERSION_MAX, Field, Fields, Schema, versions

_INNER = (Field("name", "string", "0+", nullable="0+"), Field("since_two", "int16", "2+", default=5))

OLD, FLEXIBLE = 0, 2


def written(fields: Fields, version: int, body: dict[str, Any]) -> bytes:
    parts: list[wire.Part] = []
    out = Schema("Test", fields, FLEXIBLE).writer(version)(body, bytearray(), parts)
    return b"".join(map(bytes, [*parts, out]))


def taken(fields: Fields, version: int, octets: bytes, elements_max: int = 1000) -> dict[str, Any]:
    body, at = Schema("Test", fields, FLEXIBLE).reader(version)(octets, 0, elements_max)
    assert at == len(octets)
    return body


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3+", range(3, VERSION_MAX + 1)),
        ("0-7", range(8)),
        ("5", range(5, 6)),
        ("none", range(0)),
    ],
)
def test_versions(text: str, expected: range) -> None:
    assert versions(text) == expected


@pytest.mark.parametrize(
    ("kind", "value", "old", "flexible"),
    [
        ("bool", True, "01", "01"),
        ("int8", -2, "fe", "fe"),
        ("int16", -2, "fffe", "fffe"),
        ("int32", -2, "fffffffe", "fffffffe"),
        ("int64", -2, "fffffffffffffffe", "fffffffffffffffe"),
        ("uint16", 65_534, "fffe", "fffe"),
        ("uint32", 2**32 - 2, "fffffffe", "fffffffe"),
        ("float64", -1.5, "bff8000000000000", "bff8000000000000"),
        ("uuid", bytes(range(16)), bytes(range(16)).hex(), bytes(range(16)).hex()),
        ("string", "ö", "0002c3b6", "03c3b6"),
        ("bytes", b"abc", "00000003616263", "04616263"),
        ("records", b"abc", "00000003616263", "04616263"),
        ("[]int16", [1, -1], "000000020001ffff", "030001ffff"),
        ("[]string", ["a", ""], "000000020001610000", "03026101"),
        ("[]uuid", [bytes(16)], "00000001" + "00" * 16, "02" + "00" * 16),
        ("[]bytes", [b"a"], "000000010000000161", "020261"),
    ],
)
def test_types(kind: str, value: Any, old: str, flexible: str) -> None:
    fields = (Field("it", kind, "0+"),)

    for version, octets in ((OLD, bytes.fromhex(old)), (FLEXIBLE, bytes.fromhex(flexible) + b"\0")):
        assert written(fields, version, {"it": value}) == octets
        assert taken(fields, version, octets) == {"it": value}


def test_records_are_a_view_of_the_frame() -> None:
    octets = b"\0\0\0\3abc"
    records = taken((Field("it", "records", "0+"),), OLD, octets)["it"]

    assert isinstance(records, memoryview)
    assert records.obj is octets


@pytest.mark.parametrize(
    ("kind", "old", "flexible"),
    [
        ("string", "ffff", "00"),
        ("bytes", "ffffffff", "00"),
        ("records", "ffffffff", "00"),
        ("[]int32", "ffffffff", "00"),
        ([_INNER], "ffffffff", "00"),
        (_INNER, "ff", "ff"),
    ],
    ids=str,
)
def test_null(kind: Any, old: str, flexible: str) -> None:
    fields = (Field("it", kind, "0+", nullable="0+"),)

    for version, octets in ((OLD, bytes.fromhex(old)), (FLEXIBLE, bytes.fromhex(flexible) + b"\0")):
        assert written(fields, version, {"it": None}) == octets
        assert taken(fields, version, octets) == {"it": None}


@pytest.mark.parametrize("kind", ["string", "bytes", "records", "[]int32", [_INNER]], ids=str)
def test_null_is_refused_where_it_cannot_be(kind: Any) -> None:
    fields = (Field("it", kind, "0+"),)

    for version, octets in ((OLD, b"\xff\xff\xff\xff"), (FLEXIBLE, b"\0\0")):
        with pytest.raises(RemoteProtocolError, match=f"Test v{version}: it is null"):
            taken(fields, version, octets)


@pytest.mark.parametrize(
    ("kind", "empty"), [("string", "ffff"), ("[]int32", "ffffffff"), ([_INNER], "ffffffff")], ids=str
)
def test_none_is_written_as_empty_where_null_cannot_be(kind: Any, empty: str) -> None:
    """One body serves all versions, of which the old ones have no null."""
    fields = (Field("it", kind, "0+", nullable="1+"),)

    assert written(fields, 0, {"it": None}) == bytes(len(empty) // 2)
    assert written(fields, 1, {"it": None}) == bytes.fromhex(empty)


def test_a_field_that_the_version_lacks_has_its_default() -> None:
    fields = (
        Field("number", "int32", "5+"),
        Field("leader", "int32", "5+", default=-1),
        Field("text", "string", "5+"),
        Field("null", "string", "5+", default=None, nullable="5+"),
        Field("id", "uuid", "5+"),
        Field("flag", "bool", "5+"),
        Field("octets", "bytes", "5+"),
        Field("records", "records", "5+", nullable="5+"),
        Field("list", "[]int32", "5+"),
        Field("inner", _INNER, "5+"),
        Field("share", "float64", "5+"),
    )
    first, second = taken(fields, OLD, b""), taken(fields, OLD, b"")

    assert first == {
        "number": 0,
        "leader": -1,
        "text": "",
        "null": None,
        "id": bytes(16),
        "flag": False,
        "octets": b"",
        "records": None,
        "list": [],
        "inner": {"name": "", "since_two": 5},
        "share": 0.0,
    }
    assert first["list"] is not second["list"]
    assert first["inner"] is not second["inner"]


def test_a_value_for_a_field_that_the_version_lacks_is_dropped() -> None:
    fields = (Field("old", "int8", "0-1"), Field("new", "int8", "1+"))

    assert written(fields, 0, {"old": 1, "new": 2}) == b"\1"
    assert written(fields, 1, {"old": 1, "new": 2}) == b"\1\2"
    assert written(fields, 2, {"old": 1, "new": 2}) == b"\2\0"


def test_a_structure_is_written_with_the_defaults_of_what_is_missing() -> None:
    fields = (Field("it", _INNER, "0+"), Field("all", [_INNER], "0+"))

    octets = written(fields, FLEXIBLE, {"it": {"since_two": 9}, "all": [{}]})

    assert taken(fields, FLEXIBLE, octets) == {
        "it": {"name": "", "since_two": 9},
        "all": [{"name": "", "since_two": 5}],
    }


_TAGGED = (
    Field("last", "string", "2+", default=None, nullable="2+", tag=3),
    Field("plain", "int8", "0+"),
    Field("first", _INNER, "2+", tag=0),
    Field("list", [_INNER], "3+", tag=1),
)


def test_tagged_fields_are_written_in_order_and_only_where_they_say_something() -> None:
    empty = written(_TAGGED, 2, {"plain": 1, "last": None, "first": {"since_two": 5}, "list": [{}]})
    full = written(_TAGGED, 2, {"plain": 1, "last": "x", "first": {"name": "n", "since_two": 5}})

    assert empty == b"\1\0"
    assert full == b"\1" + b"\2" + (b"\0\5" + b"\2n\0\5\0") + (b"\3\2" + b"\2x")
    assert taken(_TAGGED, 2, full) == {
        "last": "x",
        "plain": 1,
        "first": {"name": "n", "since_two": 5},
        "list": [],
    }


def test_tagged_fields_that_are_not_known_are_skipped() -> None:
    octets = b"\1" + b"\3" + (b"\1\3abc") + (b"\3\2" + b"\2x") + (b"\x09\0")

    assert taken(_TAGGED, 2, octets)["last"] == "x"


@pytest.mark.parametrize("size", [1, 3])
def test_a_tagged_field_ends_where_it_says(size: int) -> None:
    octets = b"\1" + b"\1" + bytes([3, size]) + b"\2x" + b"\0\0"

    with pytest.raises(RemoteProtocolError, match=r"Test v2: last does not end where its tagged field ends"):
        taken(_TAGGED, 2, octets)


@pytest.mark.parametrize("version", [OLD, FLEXIBLE])
def test_a_string_has_at_most_32767_bytes(version: int) -> None:
    fields = (Field("it", "string", "0+"),)
    longest = written(fields, version, {"it": "x" * 32_767})

    assert taken(fields, version, longest) == {"it": "x" * 32_767}
    with pytest.raises(RemoteProtocolError, match="it has a size of 32768"):
        taken(fields, FLEXIBLE, wire.uvarint(32_769) + b"x" * 32_768 + b"\0")


@pytest.mark.parametrize(("version", "octets"), [(OLD, "00000003 0000 0000"), (FLEXIBLE, "04 0001 0001")])
def test_a_count_is_held_against_the_bytes_that_are_left(version: int, octets: str) -> None:
    fields = (Field("it", [_INNER], "0+"),)

    with pytest.raises(RemoteProtocolError, match="it has 3 elements: too many for 4 bytes"):
        taken(fields, version, bytes.fromhex(octets))


def test_elements_are_counted_over_all_arrays() -> None:
    fields = (Field("outer", [(Field("inner", "[]int8", "0+"),)], "0+"),)
    octets = written(fields, OLD, {"outer": [{"inner": [1, 2]}, {"inner": [3]}]})

    taken(fields, OLD, octets, elements_max=5)
    with pytest.raises(RemoteProtocolError, match=r"outer.inner has 1 elements"):
        taken(fields, OLD, octets, elements_max=4)
    # A count below -1 is null as well, and gives nothing back.
    nullable = (Field("null", "[]int8", "0+", nullable="0+"), *fields)
    with pytest.raises(RemoteProtocolError, match=r"outer.inner has 1 elements"):
        taken(nullable, OLD, b"\x80\0\0\0" + octets, elements_max=4)


def test_functions_are_built_once() -> None:
    schema = Schema("Test", _TAGGED, FLEXIBLE)

    assert schema.reader(1) is schema.reader(1)
    assert schema.writer(1) is schema.writer(1)
    assert schema.reader(1) is not schema.reader(2)
