"""amqplib, node's client, against a real broker; the scenarios are in amqplib_scenarios.js.

Shape:  each runs with today's version, and with one from before 0.10.7, which asks for frames of 4,096 octets.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

import npm
from patience import PROGRAM_S

pytestmark = pytest.mark.xdist_group("amqplib")  # one process installs it

SCENARIOS = Path(__file__).with_name("amqplib_scenarios.js")


@pytest.fixture(scope="module", params=["2.3.1", "0.10.5"])
def modules(request):
    return npm.installed("amqplib", request.param)


@pytest.fixture
def seen(broker, queue, modules):
    """Runs a scenario; returns what it saw."""

    def run(name):
        command = ["node", str(SCENARIOS), broker.url, queue, name]
        environment = {**os.environ, "NODE_PATH": str(modules)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PROGRAM_S)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_confirm_and_consume(seen):
    numbers = list(range(100))
    expected = {"waiting": 100, "bodies": numbers, "headers": numbers, "deleted": 0}
    assert seen("confirmAndConsume") == expected


def test_a_body_of_many_frames(seen):
    assert seen("largeBody") == {"size": 1_000_000, "same": True}


def test_exchanges(seen):
    assert seen("exchanges") == {"body": "matching", "more": False}


def test_a_mandatory_message_without_a_queue_is_returned(seen):
    assert seen("mandatory") == {"returned": [[312, "NO_ROUTE", "lost"]]}


def test_what_is_given_back_comes_again_and_says_so(seen):
    assert seen("nackAndRequeue") == {"redelivered": [False, True], "more": False}


def test_a_consumer_is_told_when_its_queue_is_deleted(seen):
    assert seen("cancelled") == {"told": None}


def test_a_queue_that_is_not_there(seen, queue):
    found = seen("checkQueue")
    assert (found["rejected"], found["alive"]) == (404, 0)
    code, text = found["closed"]
    assert code == 404
    assert f"NOT_FOUND - no queue '{queue}' in vhost '/'" in text


def test_a_queue_that_is_declared_differently(seen, queue):
    code, text = seen("inequivalent")["rejected"]
    assert code == 406
    assert f"PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue '{queue}' in vhost '/'" in text
