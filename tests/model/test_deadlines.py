"""Deadlines beside a naive twin, which is a dictionary."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from broker.model.deadlines import Deadlines

keys = st.sampled_from("abcd")
steps = st.one_of(
    st.tuples(st.just("set"), keys, st.integers(1, 50)),
    st.tuples(st.just("remove"), keys),
    st.tuples(st.just("due"), st.integers(0, 60)),
)


@given(st.lists(steps, max_size=60))
def test_deadlines_are_a_dictionary(walk: list[tuple[Any, ...]]) -> None:
    deadlines = Deadlines()
    twin: dict[str, int] = {}
    for verb, *arguments in walk:
        if verb == "set":
            deadlines.set(*arguments)
            twin[arguments[0]] = arguments[1]
        elif verb == "remove":
            deadlines.remove(arguments[0])
            twin.pop(arguments[0], None)
        else:
            due = {key: moment for key, moment in twin.items() if moment <= arguments[0]}
            found = deadlines.due(arguments[0])
            assert sorted(found) == sorted(due)
            assert [due[key] for key in found] == sorted(due.values())
            twin = {key: moment for key, moment in twin.items() if key not in due}
        assert deadlines.next_moment() == min(twin.values(), default=0)


def test_putting_off_and_forgetting_leaves_nothing_behind() -> None:
    deadlines = Deadlines()
    for number in range(10_000):
        deadlines.set("shorter and shorter", 100_000 - number)
        deadlines.set(f"only once {number}", 1_000_000)
        deadlines.remove(f"only once {number}")
    assert len(deadlines._heap) < 100
    assert deadlines.due(100_000) == ["shorter and shorter"]
    assert deadlines.next_moment() == 0
