"""Kafka's clients in Go, sarama, franz-go and kafka-go, against a real broker; the scenarios are in go/."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition

import confluent
import go_program
from patience import PROGRAM_S
from program import Program

SOURCE = Path(__file__).with_name("go")
CLIENTS = ("sarama", "franz-go", "kafka-go")
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")  # as batches number them
PARTITIONS = 3

# The first test builds, and should be the only one.
pytestmark = [pytest.mark.timeout(go_program.BUILD_S + PROGRAM_S), pytest.mark.xdist_group("go")]


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    return go_program.built(SOURCE, tmp_path_factory.mktemp("go"))


@pytest.fixture(params=CLIENTS)
def client(request):
    return request.param


def run(program, client, broker, topic, name, *arguments):
    """A scenario; returns what it saw."""
    command = [program, client, broker.bootstrap, topic, name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROGRAM_S)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def seen(log_broker, topic, program):
    return lambda client, name, *arguments: run(program, client, log_broker, topic, name, *arguments)


def by_place(records):
    """By partition and offset; fails where one place has two."""
    found = {(record["partition"], record["offset"]): record for record in records}
    assert len(found) == len(records)
    return dict(sorted(found.items()))


def without_codec(records):
    return [{name: value for name, value in record.items() if name != "codec"} for record in records]


def without_place(records):
    return sorted(
        json.dumps([record["key"], record["value"], record["headers"], record["time"]]) for record in records
    )


def each_partition(records):
    """Its offsets in the order in which records were given."""
    found = [[] for _ in range(PARTITIONS)]
    for record in records:
        found[record["partition"]].append(record["offset"])
    return found


@pytest.mark.parametrize("codec", CODECS)
def test_what_was_produced_is_read(seen, client, codec):
    """By the client that wrote it, and by the one that also tells how a batch is compressed."""
    found = seen(client, "produceAndConsume", codec)
    assert without_place(found["acked"]) == without_place(found["sent"])
    written = by_place(without_codec(found["acked"]))
    assert by_place(without_codec(found["read"])) == written
    offsets = each_partition(found["read"])
    assert offsets == [list(range(len(of))) for of in offsets]
    assert min(map(len, offsets)) > 0
    places = {(record["key"], record["partition"]) for record in found["read"]}
    assert len(places) == 20  # a key is always in the same partition
    told = seen("franz-go", "read", str(PARTITIONS), "300")
    assert {record["codec"] for record in told} == {CODECS.index(codec)}
    assert by_place(without_codec(told)) == written


def test_a_group_shares_partitions_and_goes_on(seen, client):
    found = seen(client, "group")
    assert found["alone"] == {"1": PARTITIONS}
    assert sorted(found["both"].values()) == [1, 2]
    assert found["left"] == {"1": PARTITIONS}
    assert found["resumed"]


def test_topics(seen, client):
    found = seen(client, "admin")
    acked = by_place(found["acked"])
    ends = [len(of) for of in each_partition(acked.values())]
    since = [
        min(
            offset
            for (number, offset), record in acked.items()
            if number == of and record["time"] > 1700000049500
        )
        for of in range(PARTITIONS)
    ]
    del found["acked"]
    assert found == {
        "again": 36,  # TOPIC_ALREADY_EXISTS
        "partitions": PARTITIONS,
        "configs": {"retention.ms": "1000000000000", "max.message.bytes": "100000"},
        "first": [0] * PARTITIONS,
        "end": ends,
        "since": since,
        "removed": 3,  # UNKNOWN_TOPIC_OR_PARTITION
    }


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_logging_in(seen, client, mechanism):
    assert seen(client, "login", mechanism, "guest", "guest") == {"acked": 1}
    refused = {"code": 58}  # SASL_AUTHENTICATION_FAILED
    assert seen(client, "login", mechanism, "guest", "wrong") == refused


def acked(producing):
    """The next record that is acknowledged: where it is, its value, and when, in µs."""
    return tuple(map(int, producing.line("acked").split()[1:]))


def test_a_producer_goes_on_after_a_crash(returning_log_broker, topic, program, client):
    """No error comes to it, what was acknowledged before and after is there, and once if the producer is idempotent."""
    broker = returning_log_broker
    found = []
    with Program(
        client, broker.bootstrap, topic, "stream", program=str(program), environment={}
    ) as producing:
        found += [acked(producing) for _ in range(1000)]
        broker.kill()
        killed = time.time_ns() // 1000
        broker.start()
        later = 0
        while later < 500:  # 200 of them may have been on their way
            found.append(acked(producing))
            later += found[-1][-1] > killed
        assert producing.terminate() == 0
    lines = [line.split() for line in producing.output.splitlines()]
    found = {tuple(map(int, line[1:4])) for line in lines if line[0] == "acked"}
    assert [line for line in lines if line[0] == "failed"] == []
    assert json.loads(producing.output.splitlines()[-1]) == {"failed": 0}
    reader = confluent.consumer(broker.bootstrap, topic)
    ends = [reader.get_watermark_offsets(TopicPartition(topic, number))[1] for number in range(PARTITIONS)]
    reader.close()
    read = run(program, client, broker, topic, "read", str(PARTITIONS), str(sum(ends)))
    there = {(record["partition"], record["offset"], int(record["value"])) for record in read}
    assert found <= there
    values = [int(record["value"]) for record in read]
    if client != "kafka-go":  # it cannot tell what it writes twice
        assert sorted(values) == list(range(len(values)))
    assert set(values) == set(range(len(found)))
