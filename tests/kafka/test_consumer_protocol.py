"""Subscriptions and assignments, beside kio's codec and what clients have been seen to send."""

from __future__ import annotations

import importlib
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kio.serial import entity_reader, entity_writer

from broker.kafka.consumer_protocol import (
    NO_GENERATION,
    Assignment,
    Subscription,
    read_assignment,
    read_subscription,
    topics_of,
    write_assignment,
    write_subscription,
)

VERSIONS = range(4)

names = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
numbers = st.integers(-(2**31), 2**31 - 1)
partitions = st.dictionaries(names, st.lists(numbers, max_size=4), max_size=4)
user_data = st.none() | st.binary(max_size=20)
subscriptions = st.builds(
    Subscription, st.lists(names, max_size=4), user_data, partitions, numbers, st.none() | names
)
assignments = st.builds(Assignment, partitions, user_data)


def kio_class(name: str, version: int) -> Any:
    return importlib.import_module(f"kio.schema.{name}.v{version}.data")


def kio_entity(octets: bytes, kind: Any) -> Any:
    """What kio reads behind the version."""
    entity, size = entity_reader(kind)(octets[2:], 0)
    assert size == len(octets) - 2
    return entity


def kio_octets(entity: Any, version: int) -> bytes:
    buffer = io.BytesIO()
    entity_writer(type(entity))(buffer, entity)
    return version.to_bytes(2) + buffer.getvalue()


def as_dict(rows: Any) -> dict[str, list[int]]:
    return {row.topic: list(row.partitions) for row in rows}


@pytest.mark.parametrize("version", VERSIONS)
@given(subscription=subscriptions)
def test_subscriptions_are_those_of_kio(version: int, subscription: Subscription) -> None:
    octets = write_subscription(subscription, version)
    module = kio_class("consumer_protocol_subscription", version)
    entity = kio_entity(octets, module.ConsumerProtocolSubscription)
    assert list(entity.topics) == subscription.topics
    assert entity.user_data == subscription.user_data
    assert as_dict(getattr(entity, "owned_partitions", ())) == (subscription.owned if version >= 1 else {})
    assert getattr(entity, "generation_id", subscription.generation) == subscription.generation
    assert getattr(entity, "rack_id", subscription.rack) == subscription.rack
    assert kio_octets(entity, version) == octets
    assert read_subscription(octets) == Subscription(
        subscription.topics,
        subscription.user_data,
        subscription.owned if version >= 1 else {},
        subscription.generation if version >= 2 else NO_GENERATION,
        subscription.rack if version >= 3 else None,
    )
    assert topics_of(octets) == set(subscription.topics)


@pytest.mark.parametrize("version", VERSIONS)
@given(assignment=assignments)
def test_assignments_are_those_of_kio(version: int, assignment: Assignment) -> None:
    octets = write_assignment(assignment, version)
    module = kio_class("consumer_protocol_assignment", version)
    entity = kio_entity(octets, module.ConsumerProtocolAssignment)
    assert as_dict(entity.assigned_partitions) == assignment.partitions
    assert entity.user_data == assignment.user_data
    assert kio_octets(entity, version) == octets
    assert read_assignment(octets) == assignment


def test_the_octets_of_a_subscription() -> None:
    octets = write_subscription(Subscription(["ab"], b"x", {"ab": [7]}, 5, "r"))
    assert octets == (
        b"\x00\x03"
        b"\x00\x00\x00\x01\x00\x02ab"
        b"\x00\x00\x00\x01x"
        b"\x00\x00\x00\x01\x00\x02ab\x00\x00\x00\x01\x00\x00\x00\x07"
        b"\x00\x00\x00\x05"
        b"\x00\x01r"
    )


def test_what_is_newer_is_read_as_far_as_it_is_known() -> None:
    subscription = Subscription(["a"], None, {"a": [1]}, 4, "rack")
    octets = b"\x00\x09" + write_subscription(subscription)[2:] + b"and more"
    assert read_subscription(octets) == subscription
    assignment = Assignment({"a": [1, 2]})
    assert read_assignment(b"\x7f\xff" + write_assignment(assignment)[2:] + b"and more") == assignment


def test_a_subscription_without_all_its_fields_has_its_topics() -> None:
    octets = b"\x00\x01" + write_subscription(Subscription(["a", "b"], b"mine"), 0)[2:]
    assert read_subscription(octets) == Subscription(["a", "b"], b"mine")
    assert topics_of(octets) == {"a", "b"}


def test_a_topic_that_is_assigned_twice_has_all_its_partitions() -> None:
    row = b"\x00\x01a\x00\x00\x00\x01\x00\x00\x00"
    octets = b"\x00\x00\x00\x00\x00\x02" + row + b"\x03" + row + b"\x05" + b"\xff\xff\xff\xff"
    assert read_assignment(octets) == Assignment({"a": [3, 5]})


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"\x00",
        b"\x00\x00",
        b"\xff\xff\x00\x00\x00\x00\xff\xff\xff\xff",  # version -1
        b"\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff",  # no topics at all, where there must be a number of them
        b"\x00\x00\x7f\xff\xff\xff",  # more topics than octets
        b"\x00\x00\x00\x00\x00\x01\x00\x02\xff\xfe\xff\xff\xff\xff",  # not UTF-8
        b"\x00\x00\x00\x00\x00\x01\xff\xff\xff\xff\xff\xff",  # a topic without a name
        b"\x00\x00\x00\x00\x00\x00\x7f\xff\xff\xff",  # more user data than octets
    ],
)
def test_garbage_is_nothing(octets: bytes) -> None:
    assert read_subscription(octets) is None
    assert read_assignment(octets) is None
    assert topics_of(octets) is None


def test_more_partitions_than_fit_a_megabyte_are_garbage() -> None:
    many = write_assignment(Assignment({"a": [1] * (1 << 18)}))
    assert read_assignment(many) is None
    assert read_assignment(write_assignment(Assignment({"a": [1] * ((1 << 18) - 1)}))) is not None


@given(st.binary(max_size=60))
def test_any_octets_are_read_or_nothing(octets: bytes) -> None:
    for known in (octets, b"\x00\x03" + octets, b"\x00\x00" + octets):
        read_assignment(known)
        subscription = read_subscription(known)
        topics = topics_of(known)
        assert (subscription is None) == (topics is None)
        assert subscription is None or topics == set(subscription.topics)


@given(subscription=subscriptions, version=st.sampled_from(VERSIONS), data=st.data())
def test_a_subscription_that_ends_early_is_not_more_than_it_says(
    subscription: Subscription, version: int, data: st.DataObject
) -> None:
    octets = write_subscription(subscription, version)
    cut = octets[: data.draw(st.integers(0, len(octets) - 1))]
    found = read_subscription(cut)
    if found is not None:
        assert version > 0
        assert found == Subscription(subscription.topics, subscription.user_data)
