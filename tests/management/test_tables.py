"""Field tables as JSON."""

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from broker.management.tables import checked, shown


def test_what_json_lacks_is_shown_as_what_it_has():
    table = {
        "text": "ü",
        "octets": b"\xffa",
        "time": datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC),
        "decimal": Decimal("1.25"),
        "no number": float("nan"),
        "too large": float("inf"),
        "nested": {"list": [1, b"x", (True, None)]},
    }
    assert shown(table) == {
        "text": "ü",
        "octets": "\ufffda",
        "time": 1_000_000_000,
        "decimal": 1.25,
        "no number": None,
        "too large": None,
        "nested": {"list": [1, "x", [True, None]]},
    }
    json.dumps(shown(table), allow_nan=False)


def test_what_amqp_cannot_say_is_refused():
    assert checked({"a": [1, {"b": None}]}) == {"a": [1, {"b": None}]}
    with pytest.raises(ValueError, match="64 bits"):
        checked({"a": 1 << 63})
    with pytest.raises(ValueError, match="255"):
        checked({"a" * 256: 1})
