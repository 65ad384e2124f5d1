"""Committed offsets: what there is, beside a naive twin; limits; and what expires when."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model.committed import Committed, CommittedOffset, Retention
from broker.model.group_errors import GroupError, GroupRefused
from broker.model.group_limits import OFFSET_COST, TOPIC_COST

RETENTION_MS = 1_000
EACH_ITS_OWN = Retention(None, frozenset())


def offset(
    number: int = 5, *, metadata: str = "", at: int = 0, expires: int | None = None
) -> CommittedOffset:
    return CommittedOffset(number, 3, metadata, at, expires)


def error_of(committed: Committed, topic: str, partition: int, what: CommittedOffset) -> GroupError | None:
    try:
        committed.commit(topic, partition, what)
    except GroupRefused as refused:
        return refused.error
    return None


def test_there_is_room_for_so_much_and_for_what_takes_no_more() -> None:
    room = [OFFSET_COST + TOPIC_COST + len("topic") + 10]
    committed = Committed(room=lambda: room[0] - committed.size)
    assert error_of(committed, "topic", 0, offset(1, metadata="x" * 11)) is GroupError.OFFSETS_TOO_LARGE
    assert error_of(committed, "topic", 0, offset(1, metadata="x" * 10)) is None
    assert error_of(committed, "topic", 1, offset(1)) is GroupError.OFFSETS_TOO_LARGE
    assert error_of(committed, "topic", 0, offset(2, metadata="x" * 11)) is GroupError.OFFSETS_TOO_LARGE
    assert error_of(committed, "topic", 0, offset(3, metadata="y" * 10)) is None
    room[0] = 0
    assert error_of(committed, "topic", 0, offset(4, metadata="y" * 9)) is None
    assert [there.offset for _, _, there in committed] == [4]


def test_text_counts_for_what_it_takes_in_memory() -> None:
    committed = Committed()
    committed.commit("topic", 0, offset(1, metadata="ü" * 100))
    assert committed.size == OFFSET_COST + TOPIC_COST + len("topic") + 400


def test_the_last_commit_counts_also_if_it_goes_back() -> None:
    committed = Committed()
    committed.commit("a", 0, offset(7))
    committed.commit("a", 0, offset(2, metadata="again"))
    assert committed.get("a", 0) == offset(2, metadata="again")
    assert committed.get("a", 1) is None
    assert committed.get("b", 0) is None
    assert len(committed) == 1


def test_metadata_have_a_limit_in_octets() -> None:
    committed = Committed()
    assert error_of(committed, "a", 0, offset(metadata="x" * 4_096)) is None
    assert error_of(committed, "a", 1, offset(metadata="x" * 4_097)) is GroupError.OFFSET_METADATA_TOO_LARGE
    assert error_of(committed, "a", 1, offset(metadata="é" * 2_049)) is GroupError.OFFSET_METADATA_TOO_LARGE
    assert committed.get("a", 1) is None


def test_partitions_have_a_limit() -> None:
    committed = Committed(partitions_max=2)
    for partition in range(2):
        committed.commit("a", partition, offset())
    assert error_of(committed, "b", 0, offset()) is GroupError.TOO_MANY_OFFSETS
    assert error_of(committed, "a", 1, offset(9)) is None  # There already.
    committed.delete("a", 0)
    assert error_of(committed, "b", 0, offset()) is None


@pytest.mark.parametrize(
    ("retention", "expected"),
    [
        (None, set()),
        (EACH_ITS_OWN, {("old", 0), ("old", 1), ("asked", 0)}),
        (Retention(None, frozenset({"old"})), {("asked", 0)}),
        (Retention(None, frozenset({"asked"})), {("old", 0), ("old", 1)}),
        (Retention(1_000, frozenset()), {("old", 0), ("old", 1), ("asked", 0)}),
        (Retention(1_001, frozenset()), {("asked", 0)}),
        (Retention(100, frozenset()), {("old", 0), ("old", 1), ("asked", 0)}),
    ],
)
def test_what_expires(retention: Retention | None, expected: set[tuple[str, int]]) -> None:
    committed = Committed()
    committed.commit("old", 0, offset(at=999))
    committed.commit("old", 1, offset(at=1_000))
    committed.commit("young", 0, offset(at=1_001))
    committed.commit("asked", 0, offset(at=1_900, expires=2_000))
    committed.commit("asked", 1, offset(at=0, expires=2_001))
    assert set(committed.expire(retention, RETENTION_MS, 2_000)) == expected
    assert len(committed) == 5 - len(expected)
    assert not expected & {(topic, partition) for topic, partition, _ in committed}


topics = st.sampled_from(["a", "b", "c"])
partitions = st.integers(0, 3)
steps = st.one_of(
    st.tuples(st.just("commit"), topics, partitions, st.integers(0, 99), st.none() | st.integers(0, 99)),
    st.tuples(st.just("delete"), topics, partitions),
    st.tuples(st.just("delete topic"), topics),
    st.tuples(st.just("expire"), st.none() | st.integers(0, 99), st.frozensets(topics), st.integers(0, 199)),
    st.tuples(st.just("clear")),
)


@given(st.lists(steps, max_size=40))
def test_committed_is_a_dictionary(walk: list[tuple[Any, ...]]) -> None:
    committed, twin = Committed(partitions_max=8), {}
    for verb, *arguments in walk:
        if verb == "commit":
            topic, partition, at, expires = arguments
            error = error_of(
                committed, topic, partition, offset(at, metadata="x" * (at % 7), at=at, expires=expires)
            )
            assert (error is None) == (len(twin) < 8 or (topic, partition) in twin)
            if error is None:
                twin[topic, partition] = offset(at, metadata="x" * (at % 7), at=at, expires=expires)
        elif verb == "delete":
            topic, partition = arguments
            assert committed.delete(topic, partition) == (twin.pop((topic, partition), None) is not None)
        elif verb == "delete topic":
            gone = [key for key in twin if key[0] == arguments[0]]
            assert sorted(committed.delete_topic(arguments[0])) == sorted(key[1] for key in gone)
            for key in gone:
                del twin[key]
        elif verb == "expire":
            since, subscribed, now = arguments
            due = {
                key
                for key, there in twin.items()
                if key[0] not in subscribed
                and (
                    now - max(there.commit_ms, since or 0) >= 50
                    if there.expire_ms is None
                    else there.expire_ms <= now
                )
            }
            assert set(committed.expire(Retention(since, subscribed), 50, now)) == due
            for key in due:
                del twin[key]
        else:
            assert set(committed.clear()) == set(twin)
            twin.clear()
        sizes = [TOPIC_COST + len(topic) for topic in {topic for topic, _ in twin}]
        sizes += [OFFSET_COST + len(there.metadata) for there in twin.values()]
        assert committed.size == sum(sizes)
        assert {(topic, partition): there for topic, partition, there in committed} == twin
        assert len(committed) == len(twin)
