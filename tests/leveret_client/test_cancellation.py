"""Whatever is cancelled at whatever point: the connection stays usable, and no message gets stuck."""

import anyio
import pytest

import leveret
from backends import on_both_backends
from broker.amqp import methods
from broker.amqp.errors import LocalProtocolError
from fake_broker import Acked, Published, play

POINTS = 40


class Answers:
    """Plays a broker that answers everything; its queue is never empty."""

    def __init__(self):
        self.channels = set()
        self.consumers = set()
        self.held = set()
        self._next_tag = {}
        self._published = {}

    async def __call__(self, fake):
        await fake.open()
        while True:
            came = await fake.next()
            number = fake.channel
            if isinstance(came, methods.ConnectionClose):
                await fake.say_own(methods.ConnectionCloseOk())
                return
            answer = self._answer(fake, number, came)
            if answer:
                await fake.write(answer)

    def _answer(self, fake, number, came):
        match came:
            case methods.ChannelOpen():
                assert number not in self.channels
                self.channels.add(number)
                self._next_tag[number] = self._published[number] = 1
                return methods.encode(number, methods.ChannelOpenOk())
            case methods.ChannelClose():
                self.channels.remove(number)
                self.held = {held for held in self.held if held[0] != number}
                self.consumers = {consumer for consumer in self.consumers if consumer[0] != number}
                return methods.encode(number, methods.ChannelCloseOk())
            case methods.QueueDeclare():
                return methods.encode(number, methods.QueueDeclareOk("q", 0, 0))
            case methods.BasicQos():
                return methods.encode(number, methods.BasicQosOk())
            case methods.BasicGet():
                return fake.with_content(methods.BasicGetOk(self._hold(number)), b"", channel=number)
            case methods.BasicConsume():
                tag = came.consumer_tag
                self.consumers.add((number, tag))
                two = [self._hold(number), self._hold(number)]
                return methods.encode(number, methods.BasicConsumeOk(tag)) + fake.deliveries(
                    tag, two[0], b"", b"", channel=number
                )
            case methods.BasicCancel():
                self.consumers.remove((number, came.consumer_tag))
                late = fake.deliveries(came.consumer_tag, self._hold(number), b"", channel=number)
                return late + methods.encode(number, methods.BasicCancelOk(came.consumer_tag))
            case Published():
                self._published[number] += 1
                return methods.encode(number, methods.BasicAck(self._published[number] - 1, False))
            case Acked(tag, multiple):
                if multiple:
                    self.held -= {held for held in self.held if held[0] == number and held[1] <= tag}
                else:
                    self.held.remove((number, tag))
            case methods.BasicNack():
                assert came.requeue
                self.held.remove((number, came.delivery_tag))
            case methods.ConfirmSelect():
                assert came.nowait
            case _:
                raise AssertionError(came)
        return b""

    def _hold(self, number):
        tag = self._next_tag[number]
        self._next_tag[number] += 1
        self.held.add((number, tag))
        return tag


async def open_a_channel(connection, channel):
    async with connection.channel():
        pass


async def declare(connection, channel):
    await channel.declare_queue("q")


async def get(connection, channel):
    message = await channel.get("q")
    await message.ack()


async def publish(connection, channel):
    await channel.publish(b"body", mandatory=True)


async def publish_many(connection, channel):
    await channel.publish_many([b"body"] * 5, window=2)


async def consume(connection, channel):
    async with channel.consume("q") as messages:
        await (await anext(messages)).ack()


async def iterate(connection, channel):
    async with channel.consume("q") as messages:
        async for message in messages:
            await message.ack()


async def consume_without_entering(connection, channel):
    messages = channel.consume("q")
    try:
        await (await anext(messages)).ack()
    finally:
        await messages.aclose()


async def everything_at_once(connection, channel):
    async with anyio.create_task_group() as tasks:
        for use in (open_a_channel, declare, get, publish, publish_many, consume):
            tasks.start_soon(use, connection, channel)


async def cancel_after(steps, use, *arguments):
    """Cancelled when the scheduler has gone round so many times."""
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:

            async def run():
                await use(*arguments)
                tasks.cancel_scope.cancel()

            tasks.start_soon(run)
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            scope.cancel()


@pytest.mark.parametrize(
    "use",
    [
        open_a_channel,
        declare,
        get,
        publish,
        publish_many,
        consume,
        iterate,
        consume_without_entering,
        everything_at_once,
    ],
)
@on_both_backends
async def test_cancelled_at_any_point(use):
    broker = Answers()

    async def client(connect):
        async with connect() as connection, connection.channel() as channel:
            for steps in range(POINTS):
                await cancel_after(steps, use, connection, channel)
                assert (await channel.declare_queue("q")).name == "q"
                await channel.publish(b"after")
                await anyio.wait_all_tasks_blocked()
                assert not broker.held
                assert not broker.consumers
                assert broker.channels == {1}

    await play(client, broker)


@on_both_backends
async def test_a_connection_that_is_cancelled_at_any_point():
    """Also while it opens or closes: it is closed, if it was open with a goodbye."""

    async def use(connect):
        async with connect() as connection, connection.channel() as channel:
            opened.append(True)
            await channel.publish(b"body")

    async def broker(fake):
        try:
            await Answers()(fake)
            answered.append(True)
        except (anyio.EndOfStream, anyio.BrokenResourceError, LocalProtocolError):
            assert not opened  # it was cancelled before it was open
        with pytest.raises(anyio.EndOfStream):
            await fake.stream.receive()

    for steps in range(POINTS):
        opened, answered = [], []
        await play(lambda connect, steps=steps: cancel_after(steps, use, connect), broker)
        assert bool(answered) or not opened


@on_both_backends
async def test_cancelled_again_and_again_at_a_real_broker(url, queue):
    """In the end all messages are there."""
    async with leveret.connect(url) as connection:
        async with connection.channel() as channel:
            await channel.declare_queue(queue)
            await channel.publish_many([b"body"] * 50, routing_key=queue)
            for steps in range(60):
                for use in (take, get_one, consume_some):
                    await cancel_after(steps, use, channel, queue)
        async with connection.channel() as channel:
            assert (await channel.declare_queue(queue, passive=True)).message_count == 50
            await channel.delete_queue(queue)


async def take(channel, queue):
    messages = channel.consume(queue, prefetch=3)
    try:
        await (await anext(messages)).nack()
    finally:
        await messages.aclose()


async def get_one(channel, queue):
    message = await channel.get(queue)
    if message is not None:
        await message.nack()


async def consume_some(channel, queue):
    async with channel.consume(queue, prefetch=10) as messages:
        for _ in range(20):
            await (await anext(messages)).reject(requeue=True)
