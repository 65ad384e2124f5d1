"""kcat against a real broker; Debian's brings a librdkafka of 2023, which looks for exact versions."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from patience import PROGRAM_S

pytestmark = pytest.mark.skipif(shutil.which("kcat") is None, reason="kcat is missing")


@pytest.fixture
def kcat(log_broker):
    """Runs it; returns the lines that it prints."""

    def run(*arguments, text=""):
        command = ["kcat", "-b", log_broker.bootstrap, *arguments]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=PROGRAM_S)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


def lines(count):
    return [f"line {number} {'x' * (number % 100)}" for number in range(count)]


@pytest.mark.parametrize("idempotent", ["false", "true"])
@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_lines(kcat, topic, codec, idempotent):
    sent = lines(1000)
    settings = ("-X", f"compression.codec={codec}", "-X", f"enable.idempotence={idempotent}")
    kcat("-P", "-t", topic, "-p", "1", *settings, text="\n".join(sent))
    assert kcat("-C", "-t", topic, "-p", "1", "-e", "-q") == sent


def test_it_takes_the_broker_for_one_that_can_everything(log_broker):
    """From versions that it knows it concludes what works; the rest it would leave out without a word."""
    command = ["kcat", "-b", log_broker.bootstrap, "-L", "-X", "debug=feature"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROGRAM_S)
    features = set(re.findall(r"Enabling feature (\w+)", done.stderr))
    producing = {"MsgVer2", "LZ4", "ZSTD", "IdempotentProducer"}
    reading = {"BrokerGroupCoordinator", "BrokerBalancedConsumer", "OffsetTime"}
    assert features >= producing | reading | {"SaslHandshake", "SaslAuthReq"}


def test_keys_headers_and_places(kcat, topic):
    kcat("-P", "-t", topic, "-p", "0", "-K:", "-H", "a=1", "-H", "b=2", text="key:value\nother:thing\n")
    found = kcat("-C", "-t", topic, "-e", "-q", "-f", "%p %o %k %s %h\\n")
    assert found == ["0 0 key value a=1,b=2", "0 1 other thing a=1,b=2"]


def test_from_an_offset_and_a_time(kcat, topic):
    for number in range(3):
        kcat("-P", "-t", topic, "-p", "0", text=f"{number}\n")
    read = ("-C", "-t", topic, "-p", "0", "-e", "-q")
    assert kcat(*read, "-o", "1") == ["1", "2"]
    assert kcat(*read, "-o", "-1") == ["2"]
    assert kcat(*read, "-o", "beginning", "-c", "2") == ["0", "1"]
    times = kcat(*read, "-f", "%T\\n")
    assert kcat(*read, "-o", f"s@{times[2]}") == ["2"]
    assert kcat("-Q", "-t", f"{topic}:0:{times[2]}") == [f"{topic} [0] offset 2"]


def test_metadata(kcat, log_broker, topic):
    kcat("-P", "-t", topic, text="x\n")
    found = json.loads("".join(kcat("-L", "-J", "-t", topic)))
    assert [broker["name"] for broker in found["brokers"]] == [log_broker.bootstrap]
    [described] = found["topics"]
    assert described["topic"] == topic
    assert [one["partition"] for one in described["partitions"]] == [0, 1, 2]
    assert {one["leader"] for one in described["partitions"]} == {found["controllerid"]}


def test_a_group(kcat, topic):
    sent = lines(30)
    kcat("-P", "-t", topic, text="\n".join(sent))
    settings = ("-X", "auto.offset.reset=earliest", "-e", "-q")
    assert sorted(kcat("-G", topic, *settings, topic)) == sorted(sent)
    kcat("-P", "-t", topic, text="later\n")
    assert kcat("-G", topic, *settings, topic) == ["later"]
