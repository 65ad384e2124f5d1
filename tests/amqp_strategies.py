"""What Hypothesis makes of AMQP: field tables, methods, properties."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import strategies as st

from broker.amqp import methods
from broker.amqp.properties import Properties
from broker.amqp.wire import LongInt, Timestamp

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_DATE_S = int((datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH).total_seconds())

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
short_texts = texts.filter(lambda text: len(text.encode()) <= 255)

dates = st.integers(0, _LAST_DATE_S).map(lambda seconds: _EPOCH + timedelta(seconds=seconds))
late_times = st.integers(_LAST_DATE_S + 100_000, 2**64 - 1).map(Timestamp)

decimals = st.builds(
    lambda unscaled, scale: Decimal(unscaled).scaleb(-scale), st.integers(0, 2**32 - 1), st.integers(0, 255)
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.integers(-(2**63), 2**63 - 1).map(LongInt)
    | st.floats(allow_nan=False)
    | decimals
    | texts
    | st.binary(max_size=20)
    | dates
    | late_times
)

field_values = st.recursive(
    scalars,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(short_texts, values, max_size=4),
    max_leaves=12,
)
field_tables = st.dictionaries(short_texts, field_values, max_size=5)

_wire_types = {
    "Octet": st.integers(0, 2**8 - 1),
    "Short": st.integers(0, 2**16 - 1),
    "Long": st.integers(0, 2**32 - 1),
    "LongLong": st.integers(0, 2**64 - 1),
    "ShortStr": short_texts,
    "LongStr": st.binary(max_size=40),
    "Bit": st.booleans(),
    "Table": field_tables,
}


def methods_of(kind: type[methods.Method]) -> st.SearchStrategy[methods.Method]:
    """Methods of one class, with any arguments."""
    return st.builds(kind, *[_wire_types[type] for _, type in kind.layout])


any_method = st.sampled_from(list(methods.BY_ID.values())).flatmap(methods_of)

properties = st.builds(
    Properties,
    content_type=st.none() | short_texts,
    content_encoding=st.none() | short_texts,
    headers=st.none() | field_tables,
    delivery_mode=st.none() | st.integers(0, 255),
    priority=st.none() | st.integers(0, 255),
    correlation_id=st.none() | short_texts,
    reply_to=st.none() | short_texts | st.just("amq.rabbitmq.reply-to"),
    expiration=st.none() | short_texts | st.integers(-5, 2**40).map(str),
    message_id=st.none() | short_texts,
    timestamp=st.none() | dates | late_times,
    type=st.none() | short_texts,
    user_id=st.none() | short_texts,
    app_id=st.none() | short_texts,
    cluster_id=st.none() | short_texts,
)
