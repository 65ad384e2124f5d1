"""The octets of properties given by name are those of the codec."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import leveret
from broker.amqp import properties as codec
from leveret import Properties
from leveret.properties import encode

short = st.text(max_size=20)
fields = st.fixed_dictionaries(
    {},
    optional={
        "content_type": short,
        "content_encoding": short,
        "headers": st.dictionaries(short, st.one_of(st.none(), st.booleans(), st.integers(0, 9), short)),
        "priority": st.integers(0, 255),
        "correlation_id": short,
        "reply_to": short,
        "expiration": short,
        "message_id": short,
        "timestamp": st.integers(0, 2**40),
        "type": short,
        "user_id": short,
        "app_id": short,
    },
)


@given(fields, st.booleans())
def test_fields_are_encoded_as_the_codec_does(fields, persistent):
    expected = Properties(**fields, delivery_mode=2 if persistent else None)

    assert encode(None, persistent, fields) == codec.encode(expected)


@given(fields, fields)
def test_fields_come_before_those_of_the_base(base, fields):
    octets = encode(Properties(**base), False, fields)

    assert octets == codec.encode(Properties(**{**base, **fields}))


def test_none_leaves_a_property_out():
    octets = encode(Properties(type="a", app_id="b"), False, {"type": None})

    assert codec.decode(octets) == Properties(app_id="b")


def test_expiration_is_a_number_of_milliseconds_too():
    assert codec.decode(encode(None, False, {"expiration": 60_000})).expiration == "60000"


def test_headers_of_all_types():
    headers = {
        "none": None,
        "bool": True,
        "int": -1,
        "long": 2**40,
        "float": 1.5,
        "decimal": Decimal("1.25"),
        "str": "ü",
        "bytes": b"\xff",
        "time": datetime(2026, 1, 2, tzinfo=UTC),
        "list": [1, ["a"], {"b": None}],
        "dict": {"a": {"b": [True]}},
    }

    assert codec.decode(encode(None, True, {"headers": headers})).headers == headers


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"content_type": "x" * 256}, "content_type.*at most 255"),
        ({"headers": {"x": 2**63}}, "headers.*64 bits"),
        ({"headers": {"x": object()}}, "headers.*cannot hold a object"),
        ({"headers": {"x" * 256: 1}}, "headers.*at most 255"),
        ({"headers": {1: 1}}, "headers cannot be"),
        ({"priority": 256}, "priority.*256"),
        ({"priority": "high"}, "priority.*high"),
        ({"timestamp": -1}, "timestamp.*-1"),
        ({"message_id": 7}, "message_id.*7"),
    ],
)
def test_what_a_property_cannot_hold_is_said(fields, reason):
    with pytest.raises(leveret.InvalidValue, match=reason):
        encode(None, False, fields)


def test_a_property_that_nobody_knows():
    with pytest.raises(TypeError, match="no property 'colour'"):
        encode(None, False, {"colour": "red"})
