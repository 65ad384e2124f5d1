"""The body of a request while it comes in."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.management.body import BodyError, IncomingBody, ValueCount

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='a,[{"\\é\n🐇'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='b,]}"\\'), inner),
    max_leaves=20,
)


def values_in(value):
    """Elements, counted one more for each empty list or dict."""
    if isinstance(value, list):
        return max(len(value), 1) + sum(map(values_in, value))
    if isinstance(value, dict):
        return max(len(value), 1) + sum(map(values_in, value.values()))
    return 0


def counted(text, sizes=()):
    count = ValueCount()
    for size in (*sizes, len(text)):
        count.add(text[:size])
        text = text[size:]
    return count.values


@given(JSON, st.booleans(), st.lists(st.integers(0, 5), max_size=100))
def test_values_are_counted_without_parsing(value, ascii_only, sizes):
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert counted(text) == values_in(value)
    assert counted(text, sizes) == values_in(value)


@pytest.mark.parametrize(
    ("text", "values"),
    [(b'"' + b"," * 1000 + b'"', 0), (rb'"\\",1', 1), (rb'"\",1"', 0), (rb'"\\\",1"', 0), (b"[[],[]]", 4)],
)
def test_strings_have_no_values_in_them(text, values):
    assert counted(text) == values
    assert counted(text, [1] * len(text)) == values


def test_weight_is_known_from_the_announced_size_and_grows_with_values():
    body = IncomingBody(1000, 2000, 10)
    assert body.weight == 2000
    body.add(b"[[]", ends_chunk=False)
    assert body.weight == 2000 + 2 * 256
    with pytest.raises(BodyError, match="more than the 10 values"):
        body.add(b",1" * 9, ends_chunk=False)
    with pytest.raises(BodyError, match="more than the 2000 bytes"):
        IncomingBody(2001, 2000, 10)
