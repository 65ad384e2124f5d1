"""Regular expressions of the API: the same answers as Python's, in bounded time."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.management.pattern import Pattern, PatternError

_atoms = st.sampled_from(
    ["a", "B", "1", ".", "[ab]", "[^a]", "[A-C]", "[a\\-z]", r"\d", r"\W", r"\w", r"\s", r"\.", "-", "^", "$"]
)
_suffixes = st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{0,}", "*?", "+?"])
patterns = st.recursive(
    _atoms,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}|{two[1]})"),
        st.tuples(inner, _suffixes).map(lambda two: f"(?:{two[0]}){two[1]}"),
    ),
    max_leaves=8,
)


@given(patterns, st.text("abAB1z-._ ", max_size=10))
def test_patterns_find_what_python_finds(text, name):
    # Python's $ also stands before a line end, of which names have none.
    assert Pattern(text).found_in(name) == bool(re.search(text, name, re.IGNORECASE))


@pytest.mark.parametrize(
    ("text", "found", "missed"),
    [
        ("", "anything", None),
        ("orders", "my.Orders.eu", "order"),
        ("^orders$", "orders", "my.orders"),
        (r"^a\.b", "a.b.c", "a-b"),
        ("[]x]", "]", "y"),
        ("[^]x]", "y", "]"),
        ("a{,2}", "a{,2}", "aa"),  # only a pattern if it begins with a number, as with Erlang
        ("x{y}", "x{y}", "xy"),
        ("eu|us", "logs.us", "logs.uk"),
        (r"[\d_-]+$", "a-1_", "1a"),
    ],
)
def test_what_people_write(text, found, missed):
    assert Pattern(text).found_in(found)
    assert missed is None or not Pattern(text).found_in(missed)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("(", "a ( without a )"),
        (")", "a ) without a ("),
        ("[a", "ends too early"),
        ("a\\", "ends too early"),
        ("*a", "nothing to repeat before *"),
        ("a**", "nothing to repeat before *"),
        ("[z-a]", "wrong way round"),
        ("a{3,2}", "wrong way round"),
        (r"(a)\1", r"\1 is not supported"),
        (r"\bx", r"\b is not supported"),
        ("(?=a)", "only allowed as (?:"),
        ("[[:alpha:]]", "named classes are not supported"),
        ("a" * 257, "at most 256"),
        ("(" * 21 + ")" * 21, "more than 20 groups"),
        ("(a{20}){21}", "too complex"),
        ("a{999999999}", "too complex"),
    ],
)
def test_what_cannot_be_is_said(text, says):
    with pytest.raises(PatternError, match=re.escape(says)):
        Pattern(text)


def test_nothing_repeated_is_nothing():
    assert Pattern("(){999999999}((){9999}){9999}a").found_in("a")


@pytest.mark.parametrize("text", ["(a*)*b", "(a|a)*b", "(a+)+$", "a*a*a*a*a*a*b", "(.*)(.*)(.*)(.*)b"])
def test_no_pattern_runs_away(text):
    """Python's own would take longer than the sun has left; what is counted here are tests of characters."""
    pattern = Pattern(text)
    tested = 0

    def counting(test):
        def count(character):
            nonlocal tested
            tested += 1
            return test(character)

        return count

    for step in pattern._steps:
        if step.test is not None:
            step.test = counting(step.test)
    pattern.found_in("a" * 254 + "c")
    assert tested <= 255 * len(pattern._steps)
