"""A broker whose data folder is a file system of its own, with little room: full, drained, killed, and filled by others."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from altered_broker import AlteredBroker
from amqp_client import Channel, Client, Confirm
from broker.amqp import methods
from patience import WAIT_S
from process import BrokerProcess

SIZE = 160 * 2**20
RESERVE_SIZE = 64 * 2**20
BODY_SIZE = 64 * 1024
# For all queues together: less than what goes to the files of each at once.
JOURNALED_SIZE = 48 * 1024
WINDOW = 20
# Without a confirm for so long, the disk is full.
PATIENCE_S = 0.5
# More than this was never published when the disk is full.
MESSAGES_MAX = SIZE // BODY_SIZE
QUEUES = ("a", "b", "c", "d")
CONFIG = """
[limits]
segment_size = "1MiB"
disk_free = {disk_free}
stop_timeout_s = 1.0
"""

# What waits when the disk is full finds no room until somebody makes some.
WITHOUT_RESERVE = """
from broker.node.node import NodeOptions
import broker.config.layers
broker.config.layers.NodeOptions = lambda *given, **named: NodeOptions(*given, **named, reserve_size=0)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Its `data` is a file system of `SIZE` octets."""
    data = tmp_path / "data"
    data.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(data)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"a small file system is needed: {error}")
    if mounted.returncode:
        pytest.skip(f"a small file system is needed, and only root may mount one: {mounted.stderr.strip()}")
    with ExitStack() as stack:
        stack.callback(subprocess.run, ["umount", str(data)], check=True)
        yield tmp_path


def body(number: int) -> bytes:
    return b"%08d" % number * (BODY_SIZE // 8)


class Publisher:
    """Publishes until it is blocked, and knows what was confirmed."""

    def __init__(self, channel: Channel, exchange: str, first: int = 0) -> None:
        self.channel = channel
        self.exchange = exchange
        self.first = first
        self.sent = first
        self.confirmed: set[int] = set()

    async def publish(self) -> None:
        await self.channel.publish(body(self.sent), exchange=self.exchange, to="a", delivery_mode=2)
        self.sent += 1

    async def until_blocked(self) -> methods.ConnectionBlocked:
        client = self.channel.client
        while not (alarms := client.came()):
            assert self.sent < MESSAGES_MAX, "the disk has more room than it should"
            if self.sent - self.first - len(self.confirmed) < WINDOW:
                await self.publish()
            else:  # who is blocked may get no confirm, and hears of it only if it publishes
                with trio.move_on_after(PATIENCE_S) as waiting:
                    await client._receive()
                if waiting.cancelled_caught:
                    await self.publish()
            self._note_confirms()
        (blocked,) = alarms
        assert isinstance(blocked, methods.ConnectionBlocked)
        return blocked

    def _note_confirms(self) -> None:
        for confirm in self.channel.client.came(self.channel.number):
            assert isinstance(confirm, Confirm)
            assert confirm.ack
            newest = confirm.tag - 1 + self.first
            numbers = range(self.first, newest + 1) if confirm.multiple else (newest,)
            self.confirmed.update(numbers)

    async def until_all_is_confirmed(self) -> None:
        self._note_confirms()
        while len(self.confirmed) < self.sent - self.first:
            await self.channel.client._receive()
            self._note_confirms()


@asynccontextmanager
async def connected(broker: BrokerProcess) -> AsyncIterator[Channel]:
    client = await Client.connect(broker.amqp)
    try:
        yield await client.channel()
    finally:
        client.drop()


@asynccontextmanager
async def publisher(broker: BrokerProcess, exchange: str, first: int = 0) -> AsyncIterator[Publisher]:
    async with connected(broker) as channel:
        await channel.confirm_mode()
        for queue in QUEUES:
            await channel.declare(queue, durable=True)
            await channel.bind(queue, "amq.fanout")
        yield Publisher(channel, exchange, first)


async def drain(broker: BrokerProcess, queue: str, least: set[int], most: int) -> list[int]:
    """Acknowledge what a queue has; returns the numbers of the messages once all of `least` are among them."""
    found: list[int] = []
    async with connected(broker) as channel:
        await channel.qos(10)
        await channel.consume(queue)
        while not least <= set(found):
            message = await channel.message()
            number = int(message.body[:8])
            assert message.body == body(number)
            assert not found or number > found[-1]
            assert number < most
            found.append(number)
            await channel.ack(message.tag)
        await channel.client.close()
    return found


@pytest.mark.parametrize("exchange", ["", "amq.fanout"], ids=["one queue", "the journal"])
async def test_publishers_wait_consumers_drain_and_publishers_go_on(folder: Path, exchange: str) -> None:
    queues = QUEUES if exchange else QUEUES[:1]
    with BrokerProcess(folder, config=CONFIG.format(disk_free=0)) as broker:
        async with publisher(broker, exchange) as publishing:
            blocked = await publishing.until_blocked()
            assert blocked.reason == "low on disk"
            assert publishing.confirmed
            for _ in range(5):
                await publishing.publish()  # which are not read yet
            for queue in queues:
                await drain(broker, queue, set(publishing.confirmed), publishing.sent)
            assert isinstance(await publishing.channel.client.next(), methods.ConnectionUnblocked)
            await publishing.until_all_is_confirmed()
            for _ in range(50):
                await publishing.publish()
            await publishing.until_all_is_confirmed()
            last = {publishing.sent - 1}
            for queue in queues:
                await drain(broker, queue, last, publishing.sent)
            log = broker.log.read_text()
            assert "No space left on device; publishers wait until there is room" in log
            assert "Traceback" not in log
            assert broker.stop() == 0


@pytest.mark.parametrize("exchange", ["", "amq.fanout"], ids=["one queue", "the journal"])
async def test_a_broker_that_is_killed_on_a_full_disk_starts_there_and_has_what_it_confirmed(
    folder: Path, exchange: str
) -> None:
    queues = QUEUES if exchange else QUEUES[:1]
    with BrokerProcess(folder, config=CONFIG.format(disk_free=0)) as broker:
        async with publisher(broker, exchange) as publishing:
            await publishing.until_blocked()
            broker.kill()
        broker.start()
        for queue in queues:
            found = await drain(broker, queue, publishing.confirmed, publishing.sent)
            assert len(set(found)) == len(found)
        async with publisher(broker, exchange, publishing.sent) as again:
            for _ in range(50):
                await again.publish()
            await again.until_all_is_confirmed()
        for queue in queues:
            await drain(broker, queue, again.confirmed, again.sent)


def removed_files_open(broker: BrokerProcess) -> int:
    """How many files of its data folder the process holds open that have no name any more."""
    folder = Path(f"/proc/{broker.pid}/fd")
    found = 0
    for name in os.listdir(folder):
        with suppress(FileNotFoundError):
            target = os.readlink(folder / name)
            found += target.startswith(str(broker.data)) and target.endswith("(deleted)")
    return found


async def test_a_removed_journal_gives_its_room_back(folder: Path) -> None:
    """Queues that hold one message each, and more through the journal than the disk has room for."""
    sent = SIZE * 5 // 4 // JOURNALED_SIZE
    with BrokerProcess(folder, config=CONFIG.format(disk_free=0)) as broker:
        async with connected(broker) as channel:
            await channel.confirm_mode()
            for queue in QUEUES:
                await channel.declare(queue, durable=True, arguments={"x-max-length": 1})
                await channel.bind(queue, "amq.fanout")
            for number in range(1, sent + 1):
                await channel.publish(
                    bytes(JOURNALED_SIZE // len(QUEUES)), exchange="amq.fanout", delivery_mode=2
                )
                with trio.fail_after(WAIT_S):
                    await channel.confirms(number, since=number)
        assert "No space left" not in broker.log.read_text()
        assert removed_files_open(broker) == 0


async def test_others_fill_the_disk(folder: Path) -> None:
    """Below the limit of free octets publishers wait, before it is full; then there is room again."""
    with BrokerProcess(folder, config=CONFIG.format(disk_free=16 * 2**20)) as broker:
        async with publisher(broker, "") as publishing:
            await publishing.publish()
            await publishing.until_all_is_confirmed()
            other = broker.data / "of somebody else"
            other.write_bytes(bytes(SIZE - RESERVE_SIZE - 12 * 2**20))
            client = publishing.channel.client
            with trio.fail_after(WAIT_S):
                while not (alarms := client.came()):
                    await publishing.publish()
                    with trio.move_on_after(PATIENCE_S):
                        await client._receive()
                    await trio.sleep(0.05)
            assert isinstance(alarms[0], methods.ConnectionBlocked)
            await drain(broker, "a", set(publishing.confirmed), publishing.sent)
            other.unlink()
            assert isinstance(await client.next(), methods.ConnectionUnblocked)
            await publishing.until_all_is_confirmed()
            assert "No space left" not in broker.log.read_text()


async def test_a_broker_with_a_full_disk_stops_and_says_what_was_not_safe(folder: Path) -> None:
    config = CONFIG.format(disk_free=0)
    with AlteredBroker(folder, WITHOUT_RESERVE, config=config) as broker:
        async with publisher(broker, "") as publishing:
            await publishing.until_blocked()
            assert broker.stop() == 70
            assert broker.output[-1].startswith(f"leveret: the disk failed: {broker.data}/")
            last = "No space left on device; nothing that was not safe has been confirmed"
            assert broker.output[-1].endswith(last)
