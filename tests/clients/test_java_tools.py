"""Kafka's own Java tools, version 4, against a real broker.

Shape:  what they work on is made with librdkafka, which does not take a second to start.
Why:    `LEVERET_TESTS_KAFKA=127.0.0.1:9092 pytest tests/clients/test_java_tools.py` runs the same scenarios against
        whatever listens there, so that they can be held against Apache Kafka.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

import confluent
import java_tools
from patience import WAIT_S

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("java")]  # one process fetches the tools

TRIES = 5


@pytest.fixture(scope="module")
def bootstrap(request):
    return os.environ.get("LEVERET_TESTS_KAFKA") or request.getfixturevalue("log_broker").bootstrap


@pytest.fixture(scope="module")
def tools(bootstrap):
    return java_tools.JavaTools(java_tools.jars(), bootstrap)


@pytest.fixture
def name(request):
    """Of a topic that only this test has. With a point or an underscore in it the tools would warn."""
    test = re.sub(r"[^a-zA-Z0-9]+", "-", request.node.name).strip("-")
    return f"{test}-{os.getpid()}"


@pytest.fixture
def topic(bootstrap, name):
    """A topic with two partitions."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(name, 2)])[name].result(WAIT_S)
    return name


@pytest.fixture
def filled(bootstrap, topic):
    """The topic with `zero one two three` in its first partition, and `four five` in the other."""
    producer = confluent.producer(bootstrap)
    confluent.produce(producer, topic, [b"zero", b"one", b"two", b"three"], partition=0)
    confluent.produce(producer, topic, [b"four", b"five"], partition=1)
    return topic


@pytest.fixture
def group(bootstrap, filled):
    """One that has read one record of each partition of the topic; it has the topic's name."""
    consumer = confluent.consumer(bootstrap, filled)
    consumer.commit(offsets=[TopicPartition(filled, number, 1) for number in range(2)], asynchronous=False)
    consumer.close()
    return filled


def read(tools, topic, count, *arguments):
    """So many records of a topic, each as the tool prints it."""
    given = ("--topic", topic, "--max-messages", str(count), "--timeout-ms", "30000", *arguments)
    return tools.run("ConsoleConsumer", *given)


def table(lines):
    """What is printed in columns, as dictionaries."""
    head = lines[0].split()
    return [dict(zip(head, line.split(), strict=True)) for line in lines[1:]]


def test_topics(tools, name):
    create = ("--create", "--topic", name, "--partitions", "3", "--config", "retention.ms=100000")
    assert tools.run("TopicCommand", *create) == [f"Created topic {name}."]
    assert "TopicExistsException: " in tools.refused("TopicCommand", *create)
    assert name in tools.run("TopicCommand", "--list")
    whole, *partitions = tools.run("TopicCommand", "--describe", "--topic", name)
    assert re.search(r"TopicId: [\w-]{22}\tPartitionCount: 3\tReplicationFactor: 1\tConfigs: ", whole)
    assert "retention.ms=100000" in whole
    form = r"Partition: (\d+)\tLeader: (\d+)\tReplicas: (\d+)\tIsr: (\d+)"
    found = [re.search(form, line).groups() for line in partitions]
    assert [fields[0] for fields in found] == ["0", "1", "2"]
    assert len({node for fields in found for node in fields[1:]}) == 1
    delete = ("--delete", "--topic", name)
    assert tools.run("TopicCommand", *delete) == []
    assert f"Topic '{name}' does not exist as expected" in tools.refused("TopicCommand", *delete)


def test_more_partitions_and_never_fewer(tools, topic):
    alter = ("TopicCommand", "--alter", "--topic", topic, "--partitions")
    assert tools.run(*alter, "5") == []
    said = tools.refused(*alter, "2")
    assert "InvalidPartitionsException: " in said
    assert tools.run("GetOffsetShell", "--topic", topic) == [f"{topic}:{number}:0" for number in range(5)]


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("with space", (), "InvalidTopicException"),
        ("two-copies", ("--replication-factor", "2"), "InvalidReplicationFactorException"),
    ],
)
def test_topics_that_are_refused(bootstrap, tools, name, arguments, error):
    said = tools.refused("TopicCommand", "--create", "--topic", name, *arguments)
    assert f"org.apache.kafka.common.errors.{error}: " in said
    assert name not in AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=WAIT_S).topics


def test_every_codec(tools, name):
    """Into a topic that is made by it."""
    written = []
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        lines = [f"{codec} {number} {'x' * 100}" for number in range(100)]
        text = "".join(f"{line}\n" for line in lines)
        assert tools.run("ConsoleProducer", "--topic", name, "--compression-codec", codec, text=text) == []
        written += lines
    assert sorted(read(tools, name, 500, "--from-beginning")) == sorted(written)


def test_keys_headers_and_partitions(tools, topic):
    keyed = ("--reader-property", "parse.key=true", "--reader-property", "parse.headers=true")
    text = "a:b,c:d\tk1\tone\na:b\tk2\ttwo\ne:\tk3\tthree\n"
    assert tools.run("ConsoleProducer", "--topic", topic, *keyed, text=text) == []
    printed = []
    for field in ("timestamp", "partition", "offset", "headers", "key"):
        printed += ["--formatter-property", f"print.{field}=true"]
    lines = read(tools, topic, 3, "--from-beginning", *printed)
    found = [line.split("\t") for line in lines]
    assert all(re.fullmatch(r"CreateTime:\d{13}", fields[0]) for fields in found)
    # Which partition a key belongs to is the producer's decision: these are Java's.
    assert sorted(fields[1:] for fields in found) == [
        ["Partition:0", "Offset:0", "e:", "k3", "three"],
        ["Partition:1", "Offset:0", "a:b,c:d", "k1", "one"],
        ["Partition:1", "Offset:1", "a:b", "k2", "two"],
    ]


def test_reading_from_an_offset(tools, filled):
    assert read(tools, filled, 2, "--partition", "0", "--offset", "2") == ["two", "three"]


def test_a_group_goes_on_where_it_was(tools, group):
    describe = ("ConsumerGroupCommand", "--describe", "--group", group)
    rows = table(tools.run(*describe)[-3:])
    offsets = [(row["CURRENT-OFFSET"], row["LOG-END-OFFSET"], row["LAG"]) for row in rows]
    assert offsets == [("1", "4", "3"), ("1", "2", "1")]
    assert {row[column] for row in rows for column in ("CONSUMER-ID", "HOST", "CLIENT-ID")} == {"-"}
    assert sorted(read(tools, group, 4, "--group", group)) == ["five", "one", "three", "two"]
    assert {row["LAG"] for row in table(tools.run(*describe)[-3:])} == {"0"}


def test_groups_are_listed(tools, group):
    listed = tools.run("ConsumerGroupCommand", "--list", "--state")
    assert [group, "Empty"] in [line.split() for line in listed]
    state = tools.run("ConsumerGroupCommand", "--describe", "--group", group, "--state")[-1].split()
    assert (state[0], state[-3:]) == (group, ["-", "Empty", "0"])


def test_offsets_of_a_group_are_reset(tools, group):
    def reset(*arguments):
        rows = table(tools.run("ConsumerGroupCommand", "--group", group, "--reset-offsets", *arguments))
        return sorted((row["PARTITION"], row["NEW-OFFSET"]) for row in rows)

    assert reset("--shift-by", "-1", "--topic", f"{group}:1", "--dry-run") == [("1", "0")]
    early = ("--to-datetime", "2020-01-01T00:00:00.000")
    assert reset(*early, "--all-topics", "--dry-run") == [("0", "0"), ("1", "0")]
    assert reset("--to-latest", "--topic", group, "--execute") == [("0", "4"), ("1", "2")]
    rows = table(tools.run("ConsumerGroupCommand", "--describe", "--group", group)[-3:])
    assert [row["CURRENT-OFFSET"] for row in rows] == ["4", "2"]


def test_offsets_and_groups_are_deleted(tools, group):
    command = ("ConsumerGroupCommand", "--group", group)
    done, *rows = tools.run(*command, "--delete-offsets", "--topic", f"{group}:0")
    assert done == f"Request succeeded for deleting offsets from group {group}."
    assert table(rows) == [{"TOPIC": group, "PARTITION": "0", "STATUS": "Successful"}]
    (row,) = table(tools.run(*command, "--describe")[-2:])
    assert (row["PARTITION"], row["CURRENT-OFFSET"]) == ("1", "1")
    assert tools.run(*command, "--delete") == [
        f"Deletion of requested consumer groups ('{group}') was successful."
    ]
    assert "GroupIdNotFoundException: " in "\n".join(tools.run(*command, "--delete"))
    assert "GroupIdNotFoundException: " in "\n".join(tools.run(*command, "--describe"))


def test_what_was_acknowledged_is_there(tools, topic):
    lines = tools.run("VerifiableProducer", "--topic", topic, "--max-messages", "1000", "--acks", "-1")
    seen = [json.loads(line) for line in lines]
    (total,) = [event for event in seen if event["name"] == "tool_data"]
    assert (total["sent"], total["acked"]) == (1000, 1000)
    places = {
        (event["partition"], event["offset"]) for event in seen if event["name"] == "producer_send_success"
    }
    assert len(places) == 1000
    ends = Counter(partition for partition, _ in places)
    assert tools.run("GetOffsetShell", "--topic", topic) == [f"{topic}:{n}:{ends[n]}" for n in range(2)]
    there = read(tools, topic, 1000, "--from-beginning")
    assert sorted(map(int, there)) == list(range(1000))


def event(program, name):
    """The next one with this name that a verifiable tool prints."""
    return json.loads(program.line(f'"name":"{name}"'))


def assigned(program):
    return sorted(found["partition"] for found in event(program, "partitions_assigned")["partitions"])


def test_a_group_shares_partitions_and_takes_over(bootstrap, tools, topic, tmp_path):
    often = tmp_path / "consumer.properties"
    often.write_text("heartbeat.interval.ms=200\n")
    consume = ("VerifiableConsumer", "--topic", topic, "--group-id", topic, "--session-timeout", "6000")
    consume += ("--command-config", str(often))
    command = ("ConsumerGroupCommand", "--group", topic)
    with tools.started(*consume) as first:
        assert assigned(first) == [0, 1]
        with tools.started(*consume) as second:
            assert sorted([assigned(first), assigned(second)]) == [[0], [1]]
            members = table(tools.run(*command, "--describe", "--members"))
            assert [(row["HOST"], row["#PARTITIONS"]) for row in members] == [("/127.0.0.1", "1")] * 2
            assert tools.run(*command, "--describe", "--state")[-1].split()[-3:] == ["range", "Stable", "2"]
            said = "\n".join(tools.run(*command, "--delete"))
            assert "GroupNotEmptyException: " in said
            second.kill()
        assert assigned(first) == [0, 1]
        confluent.produce(confluent.producer(bootstrap), topic, [b"x"] * 100)
        seen = 0
        while seen < 100:
            seen += event(first, "records_consumed")["count"]
        assert seen == 100
        first.terminate()
        assert '"name":"shutdown_complete"' in first.output
    rows = table(tools.run(*command, "--describe")[-3:])
    assert {row["LAG"] for row in rows} == {"0"}
    assert sum(int(row["CURRENT-OFFSET"]) for row in rows) == 100


def test_offsets(tools, filled):
    def offsets(*arguments):
        return tools.run("GetOffsetShell", "--topic", filled, *arguments)

    assert offsets() == [f"{filled}:0:4", f"{filled}:1:2"]
    assert offsets("--time", "earliest") == [f"{filled}:0:0", f"{filled}:1:0"]
    assert offsets("--time", "1000", "--partitions", "1") == [f"{filled}:1:0"]
    assert offsets("--time", "4000000000000") == []
    assert "Could not match any topic-partitions" in tools.refused("GetOffsetShell", "--topic", "missing")


def test_the_offset_with_the_highest_timestamp(bootstrap, tools, topic):
    producer = confluent.producer(bootstrap)
    minute_ago = int(time.time() * 1000) - 60_000  # old ones are deleted
    for later in (2000, 4000, 3000):
        confluent.produce(producer, topic, [b"x"], partition=0, timestamp=minute_ago + later)
    newest = ("GetOffsetShell", "--topic", topic, "--partitions", "0", "--time")
    assert tools.run(*newest, "max-timestamp") == [f"{topic}:0:1"]
    assert tools.run(*newest, str(minute_ago + 2500)) == [f"{topic}:0:1"]


def test_records_are_deleted(tools, filled, tmp_path):
    file = tmp_path / "offsets.json"

    def delete(*offsets):
        partitions = [
            {"topic": filled, "partition": partition, "offset": offset} for partition, offset in offsets
        ]
        file.write_text(json.dumps({"partitions": partitions, "version": 1}))
        return sorted(tools.run("DeleteRecordsCommand", "--offset-json-file", str(file))[2:])

    assert delete((0, 2), (1, -1)) == [
        f"partition: {filled}-0\tlow_watermark: 2",
        f"partition: {filled}-1\tlow_watermark: 2",
    ]
    earliest = ("GetOffsetShell", "--topic", filled, "--time", "earliest")
    assert tools.run(*earliest) == [f"{filled}:0:2", f"{filled}:1:2"]
    assert read(tools, filled, 2, "--from-beginning") == ["two", "three"]
    (refused,) = delete((0, 1000))
    assert "OffsetOutOfRangeException: " in refused


def test_configs_of_a_topic(tools, topic):
    entity = ("ConfigCommand", "--entity-type", "topics", "--entity-name", topic)
    changed = [f"Completed updating config for topic {topic}."]

    def configs(*arguments):
        lines = tools.run(*entity, "--describe", *arguments)[1:]
        return dict(line.split()[0].split("=", 1) for line in lines)

    added = ("--add-config", "retention.ms=5000,cleanup.policy=compact")
    assert tools.run(*entity, "--alter", *added) == changed
    assert configs() == {"retention.ms": "5000", "cleanup.policy": "compact"}
    assert tools.run(*entity, "--alter", "--delete-config", "retention.ms") == changed
    every = configs("--all")
    assert (every["cleanup.policy"], every["retention.ms"]) == ("compact", "604800000")
    said = tools.refused(*entity, "--alter", "--add-config", "nosuch=1")
    assert "InvalidConfigurationException: " in said


def test_configs_of_the_broker(bootstrap, tools):
    (node,) = AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=WAIT_S).brokers
    entity = ("--entity-type", "brokers", "--entity-name", str(node))
    first, *lines = tools.run("ConfigCommand", *entity, "--describe", "--all")
    assert first == f"All configs for broker {node} are:"
    assert any(line.split()[0].startswith("auto.create.topics.enable=") for line in lines)


def test_log_dirs(tools, filled):
    *_, line = tools.run("LogDirsCommand", "--describe", "--topic-list", filled)
    (broker,) = json.loads(line)["brokers"]
    (folder,) = broker["logDirs"]
    assert folder["error"] is None
    found = {partition["partition"]: partition for partition in folder["partitions"]}
    assert set(found) == {f"{filled}-0", f"{filled}-1"}
    assert found[f"{filled}-0"]["size"] > 61
    assert {(partition["offsetLag"], partition["isFuture"]) for partition in found.values()} == {(0, False)}


def test_what_java_clients_count_on(bootstrap, tools, name):
    lines = tools.run("BrokerApiVersionsCommand")
    form = r"\t(\w+)\(\d+\): .*\[usable: \d+\]"
    usable = {found[1] for line in lines if (found := re.match(form, line))}
    assert {"Produce", "Fetch", "Metadata", "JoinGroup", "CreateTopics", "DescribeConfigs"} <= usable
    arguments = ["--num-cluster-nodes", "1", "--expect-record-too-large-exception", "False"]
    for supported in ("offsets-for-times", "cluster-id", "create-topics", "describe-configs"):
        arguments += [f"--{supported}-supported", "True"]
    arguments += ["--idempotent-producer-supported", "True"]
    arguments += ["--describe-acls-supported", str("DescribeAcls" in usable)]
    # All that it does has ten seconds together, which a slow machine needs for loading Java's classes.
    for number in range(TRIES):
        code, said = compatibility(bootstrap, tools, f"{name}-{number}", arguments)
        if "Timed out after 10000 ms" not in said:
            break
    assert code == 0, said


def compatibility(bootstrap, tools, topic, arguments):
    """The exit code of `ClientCompatibilityTest`, and what it says. It wants a topic in which nothing is, and makes `newtopic`."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    if "newtopic" in admin.list_topics(timeout=WAIT_S).topics:
        admin.delete_topics(["newtopic"])["newtopic"].result(WAIT_S)
    admin.create_topics([NewTopic(topic, 1)])[topic].result(WAIT_S)
    return tools.tried("ClientCompatibilityTest", "--topic", topic, *arguments)


def test_transactions_are_refused_at_once(bootstrap, tools, topic):
    """Java does not show the text that comes with this error."""
    if os.environ.get("LEVERET_TESTS_KAFKA"):
        pytest.skip("Apache Kafka has transactions")
    record = ["--num-records", "1", "--record-size", "1", "--throughput", "-1"]
    said = tools.refused("ProducerPerformance", "--topic", topic, *record, "--transactional-id", "mine")
    assert "TransactionalIdAuthorizationException" in said
