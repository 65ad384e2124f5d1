"""What the examples for topics say when something goes wrong: in a line, soon, and with nothing lost."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from ports import free_port
from process import ROOT, BrokerProcess
from program import Program

PRODUCER, CONSUMER = "log_producer.py", "log_consumer.py"
BACKENDS = pytest.mark.parametrize("backend", ["trio", "asyncio"])


@pytest.fixture
def start():
    """Starts an example at an address; those that still run at the end are killed."""
    programs: list[Program] = []

    def start(url: str, name: str, *arguments: str, group: str = "counters") -> Program:
        environment = {"KAFKA_URL": url, "GROUP": group, "PYTHONPATH": f"{ROOT}:{ROOT / 'clients'}"}
        programs.append(Program(ROOT / "examples" / name, *arguments, environment=environment))
        return programs[-1]

    yield start
    for program in programs:
        with program:
            pass


@pytest.fixture
def port():
    """The same after a restart."""
    return free_port()


@pytest.fixture
def broker(tmp_path, port):
    with BrokerProcess(tmp_path, "--kafka", f"127.0.0.1:{port}", kafka=True) as running:
        yield running


def problem(program: Program) -> str:
    """The only line that it writes before it ends, which it does badly."""
    assert program.wait() == 1, program.output
    (line,) = program.output.splitlines()
    return line


def arguments(name: str, backend: str) -> list[str]:
    return ["10", backend] if name == PRODUCER else [backend]


@BACKENDS
@pytest.mark.parametrize("name", [PRODUCER, CONSUMER])
def test_nobody_listens(start, port, name, backend):
    program = start(f"kafka://127.0.0.1:{port}", name, *arguments(name, backend))
    assert re.fullmatch(rf"Not .*: no broker of 127.0.0.1:{port} could be .*refused", problem(program))


@BACKENDS
@pytest.mark.parametrize("name", [PRODUCER, CONSUMER])
def test_no_such_host(start, name, backend):
    program = start("kafka://no.such.host.invalid", name, *arguments(name, backend))
    assert problem(program).startswith("Not ")
    assert "no broker of no.such.host.invalid:9092 could be reached" in program.output


@pytest.mark.parametrize("name", [PRODUCER, CONSUMER])
def test_no_url_of_a_log(start, name):
    assert "begins with kafka://" in problem(start("amqp://localhost", name))


@BACKENDS
@pytest.mark.parametrize("name", [PRODUCER, CONSUMER])
def test_a_wrong_password(start, broker, name, backend):
    program = start(f"kafka://guest:wrong@{broker.bootstrap}", name, *arguments(name, backend))
    assert "'guest' was refused with SCRAM-SHA-512: authentication failed" in problem(program)
    assert "wrong" not in program.output


def test_a_topic_that_is_missing_and_not_made(tmp_path, start):
    with BrokerProcess(tmp_path, kafka=True, config="[kafka]\nauto_create_topics = false\n") as broker:
        program = start(f"kafka://{broker.bootstrap}", CONSUMER)
        assert "topic 'views': it is not there, and the broker does not make it" in problem(program)


@BACKENDS
def test_a_producer_that_is_stopped(start, broker, backend):
    program = start(f"kafka://{broker.bootstrap}", PRODUCER, "10000000", backend)
    program.line("the first one")
    assert program.interrupt() == 1, program.output
    assert program.output.splitlines()[1:] == ["Stopped; what came last may not be sent"]


@BACKENDS
def test_a_consumer_that_is_stopped_while_the_broker_is_down(start, broker, backend):
    url = f"kafka://{broker.bootstrap}"
    assert start(url, PRODUCER, "10", backend).wait() == 0
    program = start(url, CONSUMER, backend)
    for _ in range(11):
        program.line(" saw ")
    broker.kill()
    program.line("reading goes on when that has passed")
    assert program.interrupt() == 0, program.output
    assert "may not be committed" in program.output
    assert program.output.endswith("Bye\n")
    assert "Traceback" not in program.output


@BACKENDS
@pytest.mark.parametrize("login", ["", "guest:guest@"])
def test_a_broker_that_is_killed_in_the_middle(start, broker, backend, login):
    """Every record that was acknowledged is in the log once, each person's in order, and the consumer reads on."""
    url, count = f"kafka://{login}{broker.bootstrap}", 40_000
    consumer = start(url, CONSUMER, backend, group="reads-on")
    consumer.line("Waiting")
    producer = start(url, PRODUCER, str(count), backend)
    read = {seen(consumer.line(" saw ")) for _ in range(2)}
    broker.kill()
    broker.start()
    assert producer.wait() == 0, producer.output
    assert f"sent: {count}, " in producer.output

    after = start(url, CONSUMER, backend, group="reads-it-all")
    pages = [seen(after.line(" saw ")) for _ in range(count + 1)]
    assert max(Counter(pages).values()) == 1
    for person, name in enumerate(["alice", "bob", "carol", "dave", "erin"]):
        expected = [f"/page/{number}" for number in range(person, count, 5)]
        found = [page for who, page in pages if who == name]
        assert found == (["/welcome", *expected] if name == "alice" else expected)
    assert after.interrupt() == 0, after.output

    while len(read) <= count:
        read.add(seen(consumer.line(" saw ")))
    assert consumer.interrupt() == 0, consumer.output
    assert "Traceback" not in producer.output + consumer.output


def seen(line: str) -> tuple[str, str]:
    """Who saw which page."""
    who, _, page, _ = line.split()
    return who, page
