"""KafkaJS, node's client, against a real broker; the scenarios are in kafkajs_scenarios.js."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

import npm
from patience import PROGRAM_S

pytestmark = pytest.mark.xdist_group("kafkajs")  # one process installs it

SCENARIOS = Path(__file__).with_name("kafkajs_scenarios.js")


@pytest.fixture(scope="module")
def modules():
    return npm.installed("kafkajs", "2.2.4")


@pytest.fixture
def seen(log_broker, topic, modules):
    """Runs a scenario; returns what it saw."""

    def run(name, *arguments):
        command = ["node", str(SCENARIOS), log_broker.bootstrap, topic, name, *arguments]
        environment = {**os.environ, "NODE_PATH": str(modules), "KAFKAJS_NO_PARTITIONER_WARNING": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PROGRAM_S)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.parametrize("codec", ["None", "GZIP"])
def test_what_was_produced_is_read(seen, codec):
    """The other codecs are packages of their own."""
    found = seen("produceAndConsume", codec)
    assert found == {"baseOffset": "0", "errorCode": 0, "offsets": list(range(100)), "same": True}


def test_keys_headers_and_times(seen):
    first, second = seen("keysHeadersAndTimes")
    assert first == {
        "key": "key",
        "value": "value",
        "late": 0,
        "headers": {"a": "one", "b": ["two", "three"], "ü": "ü"},
    }
    assert (second["key"], second["value"], second["headers"]) == ("key", None, {})


def test_an_idempotent_producer(seen):
    assert seen("idempotent") == {"offsets": list(range(20))}


def test_acks(seen):
    assert seen("acks") == {"values": ["0", "1", "-1"]}


def test_partitions_are_shared_out(seen):
    assert seen("group") == {"seen": [[1, 1, 1], [1, 2], [3]]}


def test_commits_and_seek(seen):
    assert seen("commitsAndSeek") == {"later": ["4", "5", "6", "7", "8", "9"], "sought": ["9"]}


def test_offsets(seen):
    found = seen("offsets")
    ends = [
        {"partition": 0, "offset": "10", "high": "10", "low": "0"},
        {"partition": 1, "offset": "0", "high": "0", "low": "0"},
        {"partition": 2, "offset": "0", "high": "0", "low": "0"},
    ]
    since = [{"partition": number, "offset": offset} for number, offset in enumerate(["4", "0", "0"])]
    assert found == {"ends": ends, "since": since}


def test_topics_come_and_go(seen):
    assert seen("adminOfTopics") == {
        "created": True,
        "again": False,
        "partitions": [0, 1, 2, 3],
        "changed": [["max.message.bytes", "1000"]],  # what is altered is everything that is set
        "controller": True,
        "listed": True,
        "left": False,
    }


def test_groups_and_records(seen):
    assert seen("adminOfGroups") == {
        "listed": True,
        "states": ["Stable", "Empty"],
        "offsets": [[0, "5"], [1, "-1"], [2, "-1"]],
        "left": False,
        "low": "4",
    }


@pytest.mark.parametrize("mechanism", ["plain", "scram-sha-256", "scram-sha-512"])
def test_logging_in(seen, mechanism):
    assert seen("login", mechanism, "guest") == {"errorCode": 0}
    assert seen("login", mechanism, "wrong") == {"error": "KafkaJSSASLAuthenticationError"}
