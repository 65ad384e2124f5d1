"""AMQP's field tables as JSON, and JSON as a field table.

Shape:  JSON has fewer types: octets are shown as text, times as seconds, decimals as numbers, and a number that
        is none as null. What comes from JSON is a string, an integer, a double, a boolean, void, a table or an array.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from broker.amqp import wire
from broker.amqp.errors import LocalProtocolError


def shown(value: Any) -> Any:
    """A field value for JSON."""
    match value:
        case bytes():
            return value.decode(errors="replace")
        case datetime():
            return int(value.timestamp())
        case Decimal():
            return float(value)
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {name: shown(inner) for name, inner in value.items()}
        case list() | tuple():
            return [shown(inner) for inner in value]
    return value


def checked(fields: dict[str, Any]) -> dict[str, Any]:
    """The same fields. Raises ValueError if AMQP has no table for them."""
    try:
        wire.table(fields)
    except LocalProtocolError as error:
        raise ValueError(error.text) from None
    return fields
