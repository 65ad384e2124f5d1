"""librdkafka's consumer groups, by confluent-kafka, against a real broker."""

from __future__ import annotations

from contextlib import ExitStack, closing

import pytest
from confluent_kafka import OFFSET_INVALID, ConsumerGroupState, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from confluent import WAIT_S, consumer, poll, produce, producer, spread, take

BOTH = pytest.mark.parametrize("strategy", ["range", "cooperative-sticky"])


@pytest.fixture
def sender(log_broker):
    return producer(log_broker.bootstrap)


@pytest.fixture
def member(log_broker, topic):
    """Makes members of the test's own group, which read the test's own topic."""
    with ExitStack() as made:

        def member(calls=None, **settings):
            client = consumer(log_broker.bootstrap, topic, **settings)
            made.enter_context(closing(client))
            client.subscribe([topic], **(calls or {}))
            return client

        yield member


@pytest.fixture
def filled(sender, topic):
    """A topic with `a` to `c` and a number in each partition."""

    def fill(first, last):
        for partition, name in enumerate("abc"):
            values = [b"%b%d" % (name.encode(), number) for number in range(first, last)]
            produce(sender, topic, values, partition=partition)

    fill(0, 10)
    return fill


def values(messages):
    return sorted(message.value() for message in messages)


def expected(first, last):
    return sorted(f"{name}{number}".encode() for name in "abc" for number in range(first, last))


@BOTH
def test_partitions_are_shared_out_and_come_back(member, filled, topic, strategy):
    first = member(partition_assignment_strategy=strategy)
    poll(first, spread([first], [3]))
    assert values(take(first, 30)) == expected(0, 10)
    first.commit(asynchronous=False)
    second = member(partition_assignment_strategy=strategy)
    poll([first, second], spread([first, second], [1, 2]))
    third = member(partition_assignment_strategy=strategy)
    everyone = [first, second, third]
    poll(everyone, spread(everyone, [1, 1, 1]))
    filled(10, 20)
    assert values(take(everyone, 30)) == expected(10, 20)
    for client in everyone:
        client.commit(asynchronous=False)
    third.close()
    poll([first, second], spread([first, second], [1, 2]))
    second.close()
    poll(first, spread([first], [3]))
    filled(20, 30)
    assert values(take(first, 30)) == expected(20, 30)


def test_members_that_come_at_once(member, filled):
    everyone = [member() for _ in range(3)]
    found = []
    done = spread(everyone, [1, 1, 1])
    poll(everyone, lambda: done() and set(values(found)) == set(expected(0, 10)), found.append)


def test_more_members_than_partitions(member, filled):
    everyone = [member() for _ in range(4)]
    poll(everyone, spread(everyone, [0, 1, 1, 1]))
    [owner, *_] = [client for client in everyone if client.assignment()]
    owner.close()
    everyone.remove(owner)
    poll(everyone, spread(everyone, [1, 1, 1]))


def test_cooperative_members_keep_what_they_have(member, filled):
    """Only what goes to the newcomer is taken from the first."""
    revoked = []
    settings = {"partition_assignment_strategy": "cooperative-sticky"}
    first = member({"on_revoke": lambda client, gone: revoked.extend(gone)}, **settings)
    poll(first, spread([first], [3]))
    second = member(**settings)
    poll([first, second], spread([first, second], [1, 2]))
    assert len(revoked) == 1
    assert [one.partition for one in second.assignment()] == [revoked[0].partition]


def test_commits_are_where_the_next_one_begins(member, filled, topic):
    first = member()
    found = take(first, 30)
    committed = {0: 5, 1: 10, 2: 0}
    asked = [TopicPartition(topic, number, offset) for number, offset in committed.items()]
    answered = first.commit(offsets=asked, asynchronous=False)
    assert [(one.partition, one.offset, one.error) for one in answered] == [
        (number, offset, None) for number, offset in committed.items()
    ]
    first.close()
    again = values(take(member(), 15))
    assert again == values(message for message in found if message.offset() >= committed[message.partition()])


def test_commit_of_one_message(member, filled, topic):
    first = member()
    message = take(first, 1)[0]
    [answered] = first.commit(message=message, asynchronous=False)
    assert (answered.partition, answered.offset) == (message.partition(), message.offset() + 1)
    [known] = first.committed([TopicPartition(topic, message.partition())], timeout=WAIT_S)
    assert known.offset == message.offset() + 1


def test_automatic_commits(member, filled):
    first = member(enable_auto_commit=True, auto_commit_interval_ms=100)
    assert values(take(first, 30)) == expected(0, 10)
    first.close()  # commits what was taken since
    filled(10, 12)
    assert values(take(member(), 6)) == expected(10, 12)


def test_automatic_commits_while_it_runs(member, filled, topic, log_broker):
    """Seen by somebody else, while the member goes on."""
    first = member(enable_auto_commit=True, auto_commit_interval_ms=50)
    take(first, 30)
    watcher = consumer(log_broker.bootstrap, topic)
    asked = [TopicPartition(topic, number) for number in range(3)]
    poll(first, lambda: [one.offset for one in watcher.committed(asked, timeout=WAIT_S)] == [10, 10, 10])
    watcher.close()


def test_stored_offsets(member, filled, topic):
    """Only what the application says it is done with is committed."""
    first = member(enable_auto_commit=True, enable_auto_offset_store=False)
    for message in take(first, 30):
        if message.offset() < 4:
            first.store_offsets(message=message)
    first.close()
    assert values(take(member(), 18)) == expected(4, 10)


def test_committed_metadata(member, filled, topic):
    first = member()
    take(first, 30)
    told = TopicPartition(topic, 0, 7, metadata="what I was at: ü")
    first.commit(offsets=[told], asynchronous=False)
    known, nothing = first.committed([TopicPartition(topic, 0), TopicPartition(topic, 1)], timeout=WAIT_S)
    assert (known.offset, known.metadata, known.error) == (7, "what I was at: ü", None)
    assert (nothing.offset, nothing.error) == (OFFSET_INVALID, None)
    too_much = TopicPartition(topic, 0, 8, metadata="x" * 5000)
    with pytest.raises(KafkaException) as caught:
        first.commit(offsets=[too_much], asynchronous=False)
    assert caught.value.args[0].code() == KafkaError.OFFSET_METADATA_TOO_LARGE


def test_a_static_member_that_comes_back_in_time(member, filled, sender, topic, log_broker):
    """It gets its partitions again, and the others hear nothing of it."""
    told = []
    calls = {name: lambda *_, name=name: told.append(name) for name in ("on_assign", "on_revoke")}
    other = member(calls, group_instance_id="other")
    one = member(group_instance_id="one")
    poll([other, one], spread([other, one], [1, 2]))
    owned = {two.partition for two in one.assignment()}
    told.clear()
    one.close()  # which a static member does without a word
    admin = AdminClient({"bootstrap.servers": log_broker.bootstrap, "log_level": 0})
    described = admin.describe_consumer_groups([topic])[topic].result(WAIT_S)
    assert sorted(two.group_instance_id for two in described.members) == ["one", "other"]
    one = member(group_instance_id="one")
    poll([other, one], lambda: one.assignment())
    assert {two.partition for two in one.assignment()} == owned
    assert told == []


def test_a_static_member_is_fenced_by_its_double(member, filled):
    first = member(group_instance_id="one")
    poll(first, spread([first], [3]))
    second = member(group_instance_id="one")
    with pytest.raises(KafkaException) as caught:
        poll([first, second], lambda: False)
    assert caught.value.args[0].code() in (KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID)
    poll(second, spread([second], [3]))


def test_a_member_that_was_closed_commits_no_more(member, filled, topic, log_broker):
    """What somebody says from outside is refused while there are members."""
    first = member()
    poll(first, spread([first], [3]))
    outside = consumer(log_broker.bootstrap, topic)
    outside.assign([TopicPartition(topic, 0, 0)])
    with pytest.raises(KafkaException) as caught:
        outside.commit(offsets=[TopicPartition(topic, 0, 3)], asynchronous=False)
    assert caught.value.args[0].code() == KafkaError.UNKNOWN_MEMBER_ID
    first.close()
    [answered] = outside.commit(offsets=[TopicPartition(topic, 0, 3)], asynchronous=False)
    assert answered.error is None
    outside.close()


def test_a_pattern_and_a_topic_that_comes_later(log_broker, sender, topic):
    client = consumer(log_broker.bootstrap, topic, topic_metadata_refresh_interval_ms=100)
    client.subscribe([f"^{topic}[.].*"])
    produce(sender, f"{topic}.one", [b"one"])
    assert take(client, 1)[0].value() == b"one"
    produce(sender, f"{topic}.two", [b"two"])
    found = []
    poll(client, lambda: b"two" in values(found), found.append)
    client.close()


def test_a_group_of_two_topics(log_broker, sender, topic):
    names = [f"{topic}.one", f"{topic}.two"]
    for name in names:
        produce(sender, name, [name.encode()] * 9)
    members = [
        consumer(log_broker.bootstrap, topic, partition_assignment_strategy="roundrobin") for _ in "ab"
    ]
    for client in members:
        client.subscribe(names)
    found = []
    poll(members, lambda: len(found) >= 18 and spread(members, [3, 3])(), found.append)
    assert {message.value() for message in found} == {name.encode() for name in names}
    for client in members:
        client.close()


def test_offsets_and_groups_survive_a_restart(returning_log_broker, topic):
    bootstrap = returning_log_broker.bootstrap
    sender = producer(bootstrap)
    produce(sender, topic, [b"%d" % number for number in range(10)])
    client = consumer(bootstrap, topic, reconnect_backoff_max_ms=100)
    client.subscribe([topic])
    take(client, 10)
    client.commit(offsets=[TopicPartition(topic, 0, 6, metadata="six")], asynchronous=False)
    assert returning_log_broker.stop() == 0
    returning_log_broker.start()
    # The group is what it was, so that the member need not join again.
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    described = admin.describe_consumer_groups([topic])[topic].result(WAIT_S)
    assert described.state == ConsumerGroupState.STABLE
    assert len(described.members) == 1
    produce(sender, topic, [b"10"])
    assert take(client, 1)[0].value() == b"10"
    [known] = client.committed([TopicPartition(topic, 0)], timeout=WAIT_S)
    assert (known.offset, known.metadata) == (6, "six")
    client.close()
