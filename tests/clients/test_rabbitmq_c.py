"""rabbitmq-c's command line tools (amqp-tools) against a real broker."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from patience import PROGRAM_S

TOOLS = (
    "amqp-declare-queue",
    "amqp-delete-queue",
    "amqp-publish",
    "amqp-get",
    "amqp-consume",
)
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"amqp-tools: {', '.join(MISSING)} missing")


@pytest.fixture
def run(broker):
    """Runs a tool: exit code, what it said, and what it said about errors."""

    def run(tool, *arguments, text=""):
        command = [tool, f"--url={broker.url}%2F", *arguments]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=PROGRAM_S)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def declared(run, queue):
    assert run("amqp-declare-queue", "-d", "-q", queue) == (0, f"{queue}\n", "")
    yield queue
    code, _, errors = run("amqp-delete-queue", "-q", queue)
    assert (code, errors) == (0, "")


def test_publish_and_get(run, declared):
    assert run("amqp-publish", "-p", "-r", declared, "-b", "one") == (0, "", "")
    assert run("amqp-publish", "-r", declared, "-H", "a: b", "-C", "text/plain", text="two") == (0, "", "")
    assert run("amqp-get", "-q", declared) == (0, "one", "")
    assert run("amqp-get", "-q", declared) == (0, "two", "")
    code, body, _ = run("amqp-get", "-q", declared)
    assert (code, body) == (2, "")  # nothing there


def test_a_line_each(run, declared):
    lines = "".join(f"{number}\n" for number in range(100))
    assert run("amqp-publish", "-l", "-p", "-r", declared, text=lines) == (0, "", "")
    consume = ("amqp-consume", "-q", declared, "-p", "10", "-c", "100", "cat")
    assert run(*consume) == (0, lines, "")


def test_what_was_not_acknowledged_is_there_again(run, declared):
    run("amqp-publish", "-r", declared, "-b", "kept")
    # A command that fails makes amqp-consume end without an acknowledgement.
    run("amqp-consume", "-q", declared, "-c", "1", "false")
    assert run("amqp-get", "-q", declared) == (0, "kept", "")


def test_deleting_says_how_many_there_were(run, queue):
    run("amqp-declare-queue", "-q", queue)
    run("amqp-publish", "-r", queue, "-b", "x")
    code, _, errors = run("amqp-delete-queue", "-e", "-q", queue)
    assert code == 1
    assert f"PRECONDITION_FAILED - queue '{queue}' in vhost '/' not empty" in errors
    assert run("amqp-delete-queue", "-q", queue) == (0, "1\n", "")


def test_a_queue_that_is_not_there(run, queue):
    code, _, errors = run("amqp-get", "-q", queue)
    assert code == 1
    assert f"404, message: NOT_FOUND - no queue '{queue}' in vhost '/'" in errors


def test_consume_from_an_exchange(broker, run):
    """With a queue of its own; the broker names it, and it is gone with the consumer."""
    command = ["amqp-consume", f"--url={broker.url}%2F", "-e", "amq.topic", "-r", "c.#", "-c", "1", "cat"]
    consumer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert consumer.stderr.readline().startswith("Server provided queue name: amq.gen-")
        # It may not have bound its queue yet: what nobody gets is published again.
        for _ in range(1000):
            run("amqp-publish", "-e", "amq.topic", "-r", "c.d", "-b", "hello")
            try:
                output, _ = consumer.communicate(timeout=0.1)
            except subprocess.TimeoutExpired:
                continue
            break
        assert output == "hello"
    finally:
        consumer.kill()
        consumer.communicate()
