"""Shares are those that Kafka's RangeAssignor makes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leveret.log.assignor import share_out


@pytest.mark.parametrize(
    ("members", "partitions", "expected"),
    [
        ({}, {"t": 3}, {}),
        ({"a": ["t"]}, {}, {"a": {}}),
        ({"a": ["t"]}, {"t": 3}, {"a": {"t": [0, 1, 2]}}),
        ({"b": ["t"], "a": ["t"]}, {"t": 5}, {"a": {"t": [0, 1, 2]}, "b": {"t": [3, 4]}}),
        ({"a": ["t"], "b": ["t"], "c": ["t"]}, {"t": 2}, {"a": {"t": [0]}, "b": {"t": [1]}, "c": {}}),
        (
            {"a": ["t", "u"], "b": ["u"]},
            {"t": 2, "u": 3},
            {"a": {"t": [0, 1], "u": [0, 1]}, "b": {"u": [2]}},
        ),
        ({"a": ["gone"]}, {"t": 1}, {"a": {}}),
    ],
)
def test_shares(members, partitions, expected):
    shares = share_out(members, partitions)
    assert {
        member: {topic: list(numbers) for topic, numbers in share.items()} for member, share in shares.items()
    } == expected


def test_instances_come_first_and_in_the_order_of_their_ids():
    """So that one that comes back, with another member's id, gets what it had."""
    members = {name: ["t"] for name in "abcd"}
    shares = share_out(members, {"t": 4}, {"d": "one", "b": "two"})
    assert {member: list(share["t"]) for member, share in shares.items()} == {
        "d": [0],
        "b": [1],
        "a": [2],
        "c": [3],
    }


NAMES = st.sampled_from("abcde")


@given(
    members=st.dictionaries(NAMES, st.sets(NAMES), max_size=5),
    partitions=st.dictionaries(NAMES, st.integers(1, 9), max_size=5),
)
def test_every_partition_that_somebody_wants_has_one_owner(members, partitions):
    shares = share_out(members, partitions)
    assert shares.keys() == members.keys()
    for topic, count in partitions.items():
        wanting = [member for member, topics in members.items() if topic in topics]
        owned = sorted(number for share in shares.values() for number in share.get(topic, ()))
        assert owned == (list(range(count)) if wanting else [])
        sizes = [len(shares[member].get(topic, ())) for member in wanting]
        assert not sizes or max(sizes) - min(sizes) <= 1
        assert all(topic not in shares[member] for member in members if member not in wanting)
