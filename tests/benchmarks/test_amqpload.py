"""The load generator of the benchmarks: its workloads run, and it fails when the broker breaks a promise."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from frame_proxy import Edit, Frames, MessageEdit, as_it_is, frame_proxy
from process import ROOT, BrokerProcess
from workloads import WORKLOADS

COUNT = 300
RUN_S = 60.0
VARIED = "--ids --headers --prefetch 100"
DELIVER, ACK, CONFIRM, PUBLISH = (60, 60), (60, 80), (60, 80), (60, 40)


@pytest.fixture(scope="module")
def amqpload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("a C compiler is missing")
    binary = tmp_path_factory.mktemp("amqpload") / "amqpload"
    sources = [str(source) for source in sorted((ROOT / "benchmarks" / "amqpload").glob("*.c"))]
    command = ["cc", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", str(binary), *sources]
    subprocess.run(command, check=True)
    return binary


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


async def run(amqpload: Path, address: tuple[str, int], arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [str(amqpload), "--port", str(address[1]), *arguments.split()]
    with trio.fail_after(RUN_S):
        return await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)


@pytest.mark.parametrize("name", WORKLOADS)
async def test_workload_runs_and_adds_up(name: str, amqpload: Path, broker: BrokerProcess) -> None:
    arguments = f"{WORKLOADS[name].arguments} --count {COUNT} --pid {broker.pid}"
    done = await run(amqpload, broker.amqp, arguments)
    assert (done.returncode, done.stderr) == (0, b"")
    figures = json.loads(done.stdout)
    assert figures["published"] >= COUNT
    assert figures["cpu_us_per_msg"] > 0
    assert figures["rss_kb"] > 10_000


def lose(number: int, message: Frames) -> Frames:
    return [] if number == 10 else message


def double(number: int, message: Frames) -> Frames:
    return message * 2 if number == 10 else message


def redeliver(number: int, message: Frames) -> Frames:
    """The flag is behind the consumer tag and the delivery tag."""
    method = bytearray(message[0])
    method[11 + 1 + method[11] + 8] = number == 10
    return [bytes(method), *message[1:]]


def shorten(number: int, message: Frames) -> Frames:
    """The size in the header, and the body."""
    if number != 10:
        return message
    method, header, body = message
    size = int.from_bytes(body[3:7], "big") - 1
    header = header[:11] + size.to_bytes(8, "big") + header[19:]
    return [method, header, body[:3] + size.to_bytes(4, "big") + body[7:-2] + body[-1:]]


def move_to_next_channel(number: int, message: Frames) -> Frames:
    if number != 10:
        return message
    channel = int.from_bytes(message[0][1:3], "big") % 10 + 1
    return [frame[:1] + channel.to_bytes(2, "big") + frame[3:] for frame in message]


class Swap:
    """Two messages, or parts of them, that come one after the other."""

    def __init__(self, *parts: int) -> None:
        self._parts = parts
        self._held: Frames = []

    def __call__(self, number: int, message: Frames) -> Frames:
        if number == 10:
            self._held = message
            return []
        first, self._held = self._held, []
        if first:
            for part in self._parts:
                first[part], message[part] = message[part], first[part]
        return first + message


def answer_another(number: int, message: Frames) -> Frames:
    """Requests and answers take turns; the correlation-id is the last property of an answer."""
    method, header, body = message
    if number == 21:
        header = header[:-37] + b"f" + header[-36:]
    return [method, header, body]


FAULTS: dict[str, tuple[str, Edit, Edit, str]] = {
    "a lost message": (
        VARIED,
        MessageEdit(DELIVER, lose, content=True),
        as_it_is,
        "299 of 300 messages came",
    ),
    "a doubled message": (VARIED, MessageEdit(DELIVER, double, content=True), as_it_is, "came after 10"),
    "two messages out of order": (
        VARIED,
        MessageEdit(DELIVER, Swap(0, 1, 2), content=True),
        as_it_is,
        "message 10 of publisher 0 came after 11",
    ),
    "properties of another message": (
        VARIED,
        MessageEdit(DELIVER, Swap(1), content=True),
        as_it_is,
        "has another's properties",
    ),
    "a redelivery": (VARIED, MessageEdit(DELIVER, redeliver, content=True), as_it_is, "was redelivered"),
    "a shortened body": (
        VARIED,
        MessageEdit(DELIVER, shorten, content=True),
        as_it_is,
        "99 bytes of a body came, not 100",
    ),
    "the queue of another key": (
        f"{VARIED} --exchange-type topic --keys 1000 --queues 10 --consumers 10 --connections 1",
        MessageEdit(DELIVER, move_to_next_channel, content=True),
        as_it_is,
        "got a message with key",
    ),
    "a lost acknowledgement": (
        VARIED,
        as_it_is,
        MessageEdit(ACK, lose, content=False),
        "1 messages are in the queues at the end, not 0",
    ),
    "a lost publish": (
        VARIED,
        as_it_is,
        MessageEdit(PUBLISH, lose, content=True),
        "299 of 300 messages came",
    ),
    "a lost publish without consumers": (
        "--consumers 0",
        as_it_is,
        MessageEdit(PUBLISH, lose, content=True),
        "299 messages are in the queues at the end, not 300",
    ),
    "a lost confirm": (
        f"{VARIED} --persistent --confirm 1",
        MessageEdit(CONFIRM, lose, content=False),
        as_it_is,
        "nothing could be published for 1 s",
    ),
    "the answer to another request": (
        "--rpc",
        as_it_is,
        MessageEdit(PUBLISH, answer_another, content=True),
        "client 0 got another answer than that to request 10",
    ),
    "a lost answer": (
        "--rpc",
        MessageEdit(DELIVER, lambda number, message: lose(number // 2, message), content=True),
        as_it_is,
        "1 requests have no answer after 1 s",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_broken_promise_is_an_error(fault: str, amqpload: Path, broker: BrokerProcess) -> None:
    arguments, answers, requests, said = FAULTS[fault]
    done = await run_through(amqpload, broker, arguments, answers, requests)
    assert done.returncode == 1
    assert said in done.stderr.decode()
    assert done.stdout == b""


async def run_through(
    amqpload: Path, broker: BrokerProcess, arguments: str, answers: Edit, requests: Edit
) -> subprocess.CompletedProcess[bytes]:
    async with frame_proxy(broker.amqp, answers=answers, requests=requests) as address:
        return await run(amqpload, address, f"{arguments} --count {COUNT} --patience 1")


async def test_without_a_fault_the_proxy_changes_nothing(amqpload: Path, broker: BrokerProcess) -> None:
    done = await run_through(amqpload, broker, VARIED, as_it_is, as_it_is)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--producers 2", "unknown option --producers"),
        ("--queues many", "--queues needs a number, not 'many'"),
        ("--size 10", "--size is at least 24"),
        ("--queues 3", "3 queues need as many --consumers"),
        ("--rpc --get", "--rpc excludes --get"),
    ],
)
async def test_bad_arguments_are_named(
    arguments: str, said: str, amqpload: Path, broker: BrokerProcess
) -> None:
    done = await run(amqpload, broker.amqp, arguments)
    assert done.returncode == 1
    assert said in done.stderr.decode()
