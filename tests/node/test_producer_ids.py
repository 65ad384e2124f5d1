"""Numbers for producers: none is given twice, whatever happens to the process."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepped_node import SteppedNode

BLOCK = 1000


def take(node: SteppedNode, count: int) -> list[int]:
    """So many that somebody may be told: their commits are done."""
    taken = [node.node.producer_ids.take() for _ in range(count)]
    node.commit()
    assert all(commit is None or commit.done for _, commit in taken)
    return [id for id, _ in taken]


def test_they_are_reserved_by_blocks():
    node = SteppedNode()
    before = node.definitions.revision
    assert take(node, 2 * BLOCK + 1) == [*range(2 * BLOCK + 1)]
    assert node.definitions.revision == before + 1
    assert node.definitions.values["producer_ids"] == {"next": 3 * BLOCK}
    assert take(node, BLOCK - 1)[-1] == 3 * BLOCK - 1
    assert node.definitions.revision == before + 1
    node.abandon()


def test_a_number_waits_until_it_is_reserved():
    node = SteppedNode()
    node.commit()
    first, commit = node.node.producer_ids.take()
    second, same = node.node.producer_ids.take()
    node.end_pass()
    assert (first, second, same) == (0, 1, commit)
    assert commit is not None
    assert not commit.done
    node.work()
    assert commit.done
    node.abandon()


@pytest.mark.parametrize("end", ["close", "kill"])
def test_the_next_process_begins_behind_what_was_reserved(end):
    node = SteppedNode()
    assert take(node, 3) == [0, 1, 2]
    again = node.close() if end == "close" else node.kill()
    assert take(again, 2) == [BLOCK, BLOCK + 1]
    node.abandon()


STEPS = st.lists(
    st.one_of(st.integers(1, 1500), st.sampled_from(("pass", "work", "kill"))), min_size=1, max_size=12
)


@given(STEPS)
def test_nobody_is_told_a_number_that_somebody_had(steps):
    first = node = SteppedNode()
    told: list[int] = []

    for step in steps:
        match step:
            case "pass":
                node.end_pass()
            case "work":
                node.work()
            case "kill":
                node = node.kill()
            case int():
                for _ in range(step):
                    id, commit = node.node.producer_ids.take()
                    if commit is None or commit.done:
                        told.append(id)
                    else:
                        commit.waiters.append(lambda id=id: told.append(id))
    node.commit()
    assert len(set(told)) == len(told)
    first.abandon()
