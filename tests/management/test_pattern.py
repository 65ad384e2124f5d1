"""Regular expressions of the API: the same answers as Python's, in bounded time."""

import random
import re

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from broker.management import turns
from broker.management.pattern import Pattern, PatternError
from broker.management.turns import Turns


def found(text, *names):
    """For each name, looked for in this order with one pattern."""

    async def look():
        pattern = Pattern(text)
        return [await pattern.found_in(name, Turns()) for name in names]

    return trio.run(look)


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


@given(patterns, st.lists(st.text("abAB1z-._ ", max_size=10), min_size=1, max_size=5))
def test_patterns_find_what_python_finds(text, names):
    # Python's $ also stands before a line end, of which names have none.
    assert found(text, *names) == [bool(re.search(text, name, re.IGNORECASE)) for name in names]


@pytest.mark.parametrize(
    ("text", "hit", "missed"),
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
def test_what_people_write(text, hit, missed):
    assert found(text, hit) == [True]
    assert missed is None or found(text, missed) == [False]


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
    assert found("(){999999999}((){9999}){9999}a", "a") == [True]


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
    trio.run(pattern.found_in, "a" * 254 + "c", Turns())
    assert tested <= 255 * len(pattern._steps)


def test_a_set_that_is_repeated_is_tested_once_for_a_character():
    pattern = Pattern("(?:[bcdefghijklm]?){150}x")
    tested = 0

    def counting(test):
        def count(character):
            nonlocal tested
            tested += 1
            return test(character)

        return count

    counted = {step.test: counting(step.test) for step in pattern._steps if step.test is not None}
    for step in pattern._steps:
        if step.test is not None:
            step.test = counted[step.test]
    trio.run(pattern.found_in, "a", Turns())
    assert tested == 2  # the set and the x


def test_names_that_are_alike_cost_what_one_costs():
    """What is looked at besides is looked up, as the worst pattern is quick on thousands of names."""
    pattern = Pattern("(a?){50}a{50}b")

    async def look(count):
        for number in range(count):
            assert not await pattern.found_in("a" * 200 + str(number % 10), Turns())
        return pattern._work

    assert trio.run(look, 2000) == trio.run(look, 10)


def unlike(count):
    """Names after which a match can be at ever other places."""
    choose = random.Random(1)
    return ["".join(choose.choices("ab", k=250)) for _ in range(count)]


def test_all_names_together_have_a_limit():
    names = unlike(100)
    assert found("a.{10}b", *names) == [True] * 100
    with pytest.raises(PatternError, match="takes too long"):
        found("a.{300}b", *names)


async def test_others_run_within_a_name(monkeypatch):
    monkeypatch.setattr(turns, "TURN_S", 0.0)
    others = 0

    async def count():
        nonlocal others
        while True:
            others += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await Pattern("a.{300}b").found_in(*unlike(1), Turns())
        nursery.cancel_scope.cancel()
    assert others > 200
