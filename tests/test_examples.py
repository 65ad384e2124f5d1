"""Every example of examples/ runs, as its users run it, and prints what it says."""

from __future__ import annotations

import re

import pytest

from process import ROOT, BrokerProcess
from program import Program

EXAMPLES = ROOT / "examples"


@pytest.fixture
def broker(tmp_path):
    """One for each test: the examples have the names of their queues in them."""
    with BrokerProcess(tmp_path, kafka=True) as running:
        yield running


@pytest.fixture
def start(broker):
    """Starts an example; those that still run at the end are killed."""
    programs: list[Program] = []

    def start(name: str, *arguments: str) -> Program:
        environment = {
            "AMQP_URL": broker.url,
            "KAFKA_URL": f"kafka://{broker.bootstrap}",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'clients'}",
        }
        programs.append(Program(EXAMPLES / name, *arguments, environment=environment))
        return programs[-1]

    yield start
    for program in programs:
        with program:
            pass


def output(program: Program) -> list[str]:
    """What it prints until it ends, which it does well."""
    assert program.wait() == 0, program.output
    return program.output.splitlines()


def test_the_readme_names_every_example():
    readme = (EXAMPLES / "README.md").read_text()
    named = set(re.findall(r"^python examples/(\w+\.py)", readme, re.MULTILINE))
    assert named == {file.name for file in EXAMPLES.glob("*.py")}


def test_a_task_of_a_worker_that_dies_goes_to_another(start):
    first = start("worker.py")
    first.line("Waiting for tasks")
    long = "long" + 100 * "."
    assert output(start("new_task.py", long)) == [f"Sent {long!r}"]
    first.line(f"Received {long!r}")

    second = start("worker.py")
    second.line("Waiting for tasks")
    assert output(start("new_task.py", "short", "shorter")) == ["Sent 'short'", "Sent 'shorter'"]
    # The first one is busy, so both go to the second one.
    for task in ("short", "shorter"):
        second.line(f"Received {task!r}")
        second.line(f"Done with {task!r}")

    first.kill()
    second.line(f"Received {long!r} again")
    second.kill()


def test_tasks_wait_for_a_worker(start):
    output(start("new_task.py", "early"))
    worker = start("worker.py")
    worker.line("Received 'early'")
    worker.line("Done with 'early'")
    assert worker.interrupt() == 0, worker.output


def test_publish_subscribe(start):
    listeners = [start("receive_logs.py"), start("receive_logs.py")]
    for listener in listeners:
        listener.line("Waiting for logs")
    assert output(start("emit_log.py", "the", "disk is full")) == ["Sent 'the disk is full'"]
    for listener in listeners:
        assert listener.line("disk") == "the disk is full"
        assert listener.interrupt() == 0, listener.output


def test_routing(start):
    listener = start("receive_logs_direct.py", "warning", "error")
    listener.line("Waiting for logs")
    for severity in ("info", "warning", "error"):
        assert output(start("emit_log_direct.py", severity, "hot")) == [f"Sent {severity}: 'hot'"]
    assert listener.line(": ") == "warning: hot"
    assert listener.line(": ") == "error: hot"
    assert listener.interrupt() == 0, listener.output
    assert "info" not in listener.output


def test_topics(start):
    listener = start("receive_logs_topic.py", "kern.*", "#.critical")
    listener.line("Waiting for logs")
    for topic in ("kern.info", "kern.a.b", "cron.critical", "a.b.c.critical", "kern.critical", "kern"):
        assert output(start("emit_log_topic.py", topic, "x")) == [f"Sent {topic}: 'x'"]
    expected = ["kern.info: x", "cron.critical: x", "a.b.c.critical: x", "kern.critical: x"]
    assert [listener.line(": ") for _ in expected] == expected
    assert listener.interrupt() == 0, listener.output
    assert listener.output.count(": x") == len(expected)


@pytest.mark.parametrize("example", ["receive_logs_direct.py", "receive_logs_topic.py"])
def test_a_listener_wants_to_know_what_to_listen_to(start, example):
    program = start(example)
    assert program.wait() == 1
    assert program.output.startswith("which ones?")


def test_rpc(start):
    server = start("rpc_server.py")
    server.line("Waiting for requests")
    expected = ["fibonacci(10) = 55", "fibonacci(30) = 832040"]
    assert output(start("rpc_client.py", "10", "30")) == expected
    (refused,) = output(start("rpc_client.py", "ten"))
    assert refused.startswith("fibonacci(ten) = error: ")
    assert server.interrupt() == 0, server.output
    assert server.output.splitlines()[1:3] == expected


def test_publisher_confirms(start):
    one, batches, returned, waiting = output(start("publisher_confirms.py", "250"))
    assert re.fullmatch(r"one by one: 250 confirmed, [\d,]+ a second", one)
    assert re.fullmatch(r"in batches of 100, 0 refused: 250 confirmed, [\d,]+ a second", batches)
    assert returned == "returned: lost? (NO_ROUTE)"
    assert waiting == "waiting in the queue: 500"


def test_a_stream(start):
    published, *read = output(start("stream.py"))
    assert published == "Published 5 readings"
    expected = [("'first'", number) for number in range(5)] + [("3", 3), ("3", 4), ("'last'", 4)]
    assert read == [f"From {begin}: reading {at} at offset {at}" for begin, at in expected]


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_leveret_s_own_client(start, backend):
    lines = output(start("leveret_client.py", backend))
    serving = [line for line in lines if line.startswith("serving")]
    assert serving == ["serving one tea, {'table': 7}", "serving two coffees, {}", "serving water, {}"]
    assert "confirmed: 3" in lines
    (returned,) = [line for line in lines if line.startswith("returned")]
    assert "NO_ROUTE" in returned


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_leveret_s_own_client_for_topics(start, backend):
    first, sent = output(start("log_producer.py", "200", backend))
    assert re.fullmatch(r"the first one is in partition [0-3], at offset 0", first)
    assert re.fullmatch(r"sent: 200, to partitions \[[0-3, ]+\]", sent)
    consumer = start("log_consumer.py", backend)
    consumer.line("Waiting for views of 4 partitions")
    views = [consumer.line(" saw ").split(" (")[0] for _ in range(201)]
    assert [view for view in views if view.startswith("alice")] == [
        "alice saw /welcome",
        *[f"alice saw /page/{number}" for number in range(0, 200, 5)],
    ]
    assert consumer.interrupt() == 0, consumer.output
    assert consumer.output.endswith("Bye\n")

    # What is read is read, and what comes is shared.
    members = [start("log_consumer.py", backend), start("log_consumer.py", backend)]
    for member in members:
        member.line("Waiting for views")
    output(start("log_producer.py", "5", backend))
    for member in members:
        assert member.terminate() == 0, member.output
        assert "/page/5 " not in member.output
