"""Publishing: confirms in all their shapes, returns, windows, and when publishers must wait."""

import contextlib
import logging
from datetime import UTC, datetime

import anyio
import pytest

import leveret
from backends import on_both_backends
from broker.amqp import methods
from fake_broker import play
from leveret import Properties
from leveret.outbox import FULL

ack = methods.BasicAck
nack = methods.BasicNack


def on_a_channel(use, **options):
    """A client that does this on an open channel."""

    async def client(connect):
        async with connect() as connection, connection.channel(**options) as channel:
            await use(channel)

    return client


async def open_to_publish(fake):
    await fake.open()
    await fake.open_channel()


async def close_all(fake):
    await fake.close_channel()
    await fake.close()


def returned(fake, body, *, exchange="", routing_key=""):
    method = methods.BasicReturn(312, "NO_ROUTE", exchange, routing_key)
    return fake.with_content(method, body)


async def fails(kind, call, *arguments, **named):
    with pytest.raises(kind) as caught:
        await call(*arguments, **named)
    return caught.value


# ---- confirms ----


@on_both_backends
async def test_confirms_are_asked_for_once_and_waited_for():
    steps = []

    async def use(channel):
        await channel.publish(b"one", routing_key="q")
        steps.append("one is confirmed")
        await channel.publish(b"two", exchange="x", mandatory=True)
        steps.append("two is confirmed")

    async def broker(fake):
        await open_to_publish(fake)
        assert (await fake.expect(methods.ConfirmSelect)).nowait
        one = await fake.published()
        assert (one.exchange, one.routing_key, one.mandatory, one.body) == ("", "q", False, b"one")
        await anyio.wait_all_tasks_blocked()
        steps.append("one is acked")
        await fake.say(ack(1, False))
        two = await fake.published()
        assert (two.exchange, two.routing_key, two.mandatory, two.body) == ("x", "", True, b"two")
        await anyio.wait_all_tasks_blocked()
        steps.append("two is acked")
        await fake.say(ack(2, False))
        await close_all(fake)

    await play(on_a_channel(use), broker)
    assert steps == ["one is acked", "one is confirmed", "two is acked", "two is confirmed"]


@pytest.mark.parametrize(
    ("answers", "refused"),
    [
        ([ack(9, True)], set()),
        ([ack(0, True)], set()),
        ([ack(number, False) for number in range(9, 0, -1)], set()),
        ([ack(5, False), ack(3, True), ack(7, True), ack(8, False), ack(9, False)], set()),
        ([ack(4, True), nack(5, False), ack(9, True)], {5}),
        ([nack(9, True)], set(range(1, 10))),
        ([nack(2, True), ack(9, False), nack(7, False), ack(8, True)], {1, 2, 7}),
        ([ack(5, True), ack(5, True), ack(3, False), ack(100, False), ack(2**63, True)], set()),
    ],
    ids=["all", "zero", "backwards", "mixed", "one refused", "all refused", "some refused", "nonsense"],
)
@on_both_backends
async def test_each_publisher_hears_of_its_own_message(answers, refused):
    heard = {}

    async def use(channel):
        async def publish(number):
            try:
                await channel.publish(b"%d" % number)
                heard[number] = True
            except leveret.PublishRefused:
                heard[number] = False

        async with anyio.create_task_group() as tasks:
            for number in range(1, 10):
                tasks.start_soon(publish, number)

    numbers = {}

    async def broker(fake):
        await open_to_publish(fake)
        await fake.expect(methods.ConfirmSelect)
        for number in range(1, 10):
            numbers[number] = int((await fake.published()).body)
        await fake.say(*answers)
        await close_all(fake)

    await play(on_a_channel(use), broker)
    assert heard == {numbers[number]: number not in refused for number in range(1, 10)}


@on_both_backends
async def test_a_refusal_says_of_what():
    async def use(channel):
        error = await fails(leveret.PublishRefused, channel.publish, b"", exchange="x", routing_key="k")
        assert (error.exchange, error.routing_key) == ("x", "k")
        assert "'x'" in str(error)

    async def broker(fake):
        await open_to_publish(fake)
        await fake.expect(methods.ConfirmSelect)
        await fake.published()
        await fake.say(nack(1, False))
        await close_all(fake)

    await play(on_a_channel(use), broker)


@on_both_backends
async def test_a_channel_that_the_broker_closes_fails_its_publishers():
    async def use(channel):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(fails, leveret.ChannelClosed, channel.publish, b"")
        error = await fails(leveret.ChannelClosed, channel.publish, b"")
        assert (error.code, error.text) == (404, "NOT_FOUND - no exchange")
        assert str(error) == "404 NOT_FOUND - no exchange"

    async def broker(fake):
        await open_to_publish(fake)
        await fake.expect(methods.ConfirmSelect)
        for _ in range(3):
            await fake.published()
        await fake.say(methods.ChannelClose(404, "NOT_FOUND - no exchange", 60, 40))
        await fake.expect(methods.ChannelCloseOk)
        await fake.close()

    await play(on_a_channel(use), broker)


# ---- returns ----


@on_both_backends
async def test_a_message_that_comes_back_is_unroutable():
    async def use(channel):
        error = await fails(
            leveret.Unroutable, channel.publish, b"body", routing_key="q", mandatory=True, headers={"a": 1}
        )
        message = error.message
        assert (message.code, message.text, message.exchange, message.routing_key) == (
            312,
            "NO_ROUTE",
            "",
            "q",
        )
        assert message.body == b"body"
        assert "no queue for routing key 'q'" in str(error)
        await channel.publish(b"next", routing_key="q")

    async def broker(fake):
        await open_to_publish(fake)
        await fake.expect(methods.ConfirmSelect)
        await fake.published()
        await fake.write(returned(fake, b"body", routing_key="q") + methods.encode(1, ack(1, False)))
        await fake.published()
        await fake.say(ack(2, False))
        await close_all(fake)

    await play(on_a_channel(use), broker)


@on_both_backends
async def test_of_many_messages_those_are_unroutable_that_came_back():
    heard = {}

    async def use(channel):
        async def publish(number, mandatory):
            try:
                await channel.publish(b"%d" % number, routing_key=f"k{number % 2}", mandatory=mandatory)
                heard[number] = None
            except leveret.Unroutable as error:
                heard[number] = error.message.body

        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(publish, number, number != 8)

    async def broker(fake):
        await open_to_publish(fake)
        await fake.expect(methods.ConfirmSelect)
        order = [await fake.published() for _ in range(10)]
        back = [published for published in order if published.body in (b"2", b"3", b"7")]
        octets = [returned(fake, published.body, routing_key=published.routing_key) for published in back]
        # Acks of earlier ones may come before returns of later ones.
        first = order.index(back[0])
        acks = [methods.encode(1, ack(first, True))] if first else []
        await fake.write(b"".join([octets[0], *acks, *octets[1:], methods.encode(1, ack(10, True))]))
        await close_all(fake)

    await play(on_a_channel(use), broker)
    assert heard == {number: b"%d" % number if number in (2, 3, 7) else None for number in range(10)}


@on_both_backends
async def test_equal_messages_that_come_back_are_as_many_failures():
    failed = []

    async def use(channel):
        async def publish():
            try:
                await channel.publish(b"same", mandatory=True)
            except leveret.Unroutable:
                failed.append(1)

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(publish)

    async def broker(fake):
        await open_to_publish(fake)
        await fake.expect(methods.ConfirmSelect)
        for _ in range(5):
            await fake.published()
        await fake.write(returned(fake, b"same") * 3 + methods.encode(1, ack(5, True)))
        await close_all(fake)

    await play(on_a_channel(use), broker)
    assert len(failed) == 3


async def publish_and_go(channel, **named):
    """Cancelled while it waits for the confirm."""
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: channel.publish(b"left", routing_key="q", **named))
            await anyio.wait_all_tasks_blocked()
            scope.cancel()


async def take_back_what_nobody_waits_for(fake):
    await open_to_publish(fake)
    await fake.expect(methods.ConfirmSelect)
    await fake.published()
    assert (await fake.published()).body == b"after"
    await fake.write(
        returned(fake, b"left", routing_key="q")
        + methods.encode(1, nack(3, False))
        + methods.encode(1, ack(2, True))
    )
    await close_all(fake)


@on_both_backends
async def test_what_comes_back_when_nobody_waits_any_more_is_logged(caplog):
    async def use(channel):
        await publish_and_go(channel, mandatory=True)
        await channel.publish(b"after")

    caplog.set_level(logging.WARNING, "leveret")
    await play(on_a_channel(use), take_back_what_nobody_waits_for)
    (record,) = caplog.records
    assert "came back that nobody waits for" in record.getMessage()
    assert "routing_key='q'" in record.getMessage()


@on_both_backends
async def test_what_comes_back_when_nobody_waits_any_more_can_be_had(caplog):
    bodies = []

    async def use(channel):
        await publish_and_go(channel, mandatory=True)
        await channel.publish(b"after")

    client = on_a_channel(use, on_return=lambda message: bodies.append(message.body))
    await play(client, take_back_what_nobody_waits_for)
    assert bodies == [b"left"]
    assert not caplog.records


@on_both_backends
async def test_an_error_of_whoever_takes_what_comes_back_harms_nobody(caplog):
    async def use(channel):
        await publish_and_go(channel, mandatory=True)
        await channel.publish(b"after")

    def complain(message):
        raise ValueError("not mine")

    await play(on_a_channel(use, on_return=complain), take_back_what_nobody_waits_for)
    (record,) = caplog.records
    assert record.getMessage().startswith("on_return failed for <ReturnedMessage 312 NO_ROUTE")
    assert "not mine" in str(record.exc_info)


@on_both_backends
async def test_a_return_of_something_that_was_not_published_is_logged(caplog):
    async def use(channel):
        await channel.publish(b"mine", mandatory=True)

    async def broker(fake):
        await open_to_publish(fake)
        await fake.expect(methods.ConfirmSelect)
        await fake.published()
        strange = returned(fake, b"mine", routing_key="other") + returned(fake, b"other")
        await fake.write(strange + methods.encode(1, ack(1, False)))
        await close_all(fake)

    caplog.set_level(logging.WARNING, "leveret")
    await play(on_a_channel(use), broker)
    assert len(caplog.records) == 2


@on_both_backends
async def test_a_refusal_when_nobody_waits_any_more_is_logged(caplog):
    async def use(channel):
        await publish_and_go(channel)
        await channel.publish(b"after")

    async def broker(fake):
        await open_to_publish(fake)
        await fake.expect(methods.ConfirmSelect)
        await fake.published()
        await fake.published()
        await fake.say(nack(1, False), ack(2, False))
        await close_all(fake)

    caplog.set_level(logging.WARNING, "leveret")
    await play(on_a_channel(use), broker)
    (record,) = caplog.records
    assert "refused a message" in record.getMessage()


# ---- many ----


@on_both_backends
async def test_the_window_is_never_passed():
    async def use(channel):
        assert await channel.publish_many((b"%d" % number for number in range(25)), window=10) == 25

    async def broker(fake):
        await open_to_publish(fake)
        await fake.expect(methods.ConfirmSelect)
        taken = 0
        confirmed = 0
        while confirmed < 25:
            while taken < min(confirmed + 10, 25):
                assert (await fake.published()).body == b"%d" % taken
                taken += 1
            assert await fake.silent()
            # One confirm is not worth waking up for, half of the window is.
            await fake.say(ack(confirmed + 1, True))
            assert await fake.silent() or taken == 25
            confirmed = min(confirmed + 5, 25)
            await fake.say(ack(confirmed, True))
        await close_all(fake)

    await play(on_a_channel(use), broker)


@on_both_backends
async def test_bodies_may_come_one_by_one():
    async def use(channel):
        send, receive = anyio.create_memory_object_stream[bytes](0)

        async def make():
            async with send:
                for number in range(7):
                    await send.send(b"%d" % number)

        async with anyio.create_task_group() as tasks, receive:
            tasks.start_soon(make)
            assert await channel.publish_many(receive, window=2, routing_key="q", type="t") == 7

    async def broker(fake):
        await open_to_publish(fake)
        await fake.expect(methods.ConfirmSelect)
        for number in range(7):
            published = await fake.published()
            assert (published.body, published.routing_key) == (b"%d" % number, "q")
            assert published.properties == Properties(type="t")
            await fake.say(ack(number + 1, False))
        await close_all(fake)

    await play(on_a_channel(use), broker)


@on_both_backends
async def test_after_a_failure_no_more_are_taken():
    taken = []

    def bodies():
        for number in range(100):
            taken.append(number)
            yield b"%d" % number

    async def use(channel):
        error = await fails(leveret.NotAllConfirmed, channel.publish_many, bodies(), window=4, mandatory=True)
        assert error.published == 4
        assert {index: type(failure) for index, failure in error.failures.items()} == {
            0: leveret.PublishRefused,
            2: leveret.Unroutable,
        }
        assert "2 of 4 messages failed" in str(error)
        assert await channel.publish_many([]) == 0

    async def broker(fake):
        await open_to_publish(fake)
        await fake.expect(methods.ConfirmSelect)
        for _ in range(4):
            await fake.published()
        await fake.write(returned(fake, b"2"))
        await fake.say(nack(1, False), ack(4, True))
        await close_all(fake)

    await play(on_a_channel(use), broker)
    assert len(taken) <= 5


@on_both_backends
async def test_after_a_failure_no_more_are_waited_for():
    taken = []

    async def bodies():
        for number in range(100):
            taken.append(number)
            yield b"%d" % number

    async def use(channel):
        async with contextlib.aclosing(bodies()) as source:
            error = await fails(leveret.NotAllConfirmed, channel.publish_many, source, window=1)
        assert (error.published, list(error.failures)) == (1, [0])

    async def broker(fake):
        await open_to_publish(fake)
        await fake.expect(methods.ConfirmSelect)
        await fake.published()
        await fake.say(nack(1, False))
        await close_all(fake)

    await play(on_a_channel(use), broker)
    assert len(taken) == 2


@on_both_backends
async def test_an_error_of_the_iterable_goes_on():
    def bodies():
        yield b"a"
        raise ValueError("no more")

    async def use(channel):
        with pytest.raises(ValueError, match="no more"):
            await channel.publish_many(bodies())
        await channel.publish(b"b")

    async def broker(fake):
        await open_to_publish(fake)
        await fake.expect(methods.ConfirmSelect)
        assert (await fake.published()).body == b"a"
        assert (await fake.published()).body == b"b"
        await fake.say(ack(2, True))
        await close_all(fake)

    await play(on_a_channel(use), broker)


@on_both_backends
async def test_single_and_many_share_the_numbers():
    async def use(channel):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.publish_many, [b"many"] * 10)
            for _ in range(10):
                tasks.start_soon(channel.publish, b"one")

    async def broker(fake):
        await open_to_publish(fake)
        await fake.expect(methods.ConfirmSelect)
        bodies = [(await fake.published()).body for _ in range(20)]
        assert sorted(bodies) == [b"many"] * 10 + [b"one"] * 10
        await fake.say(ack(7, True), ack(20, True))
        await close_all(fake)

    await play(on_a_channel(use), broker)


# ---- what goes over the wire ----


@on_both_backends
async def test_properties_go_along():
    now = datetime(2026, 11, 24, 12, tzinfo=UTC)
    base = Properties(content_type="text/plain", headers={"a": 1}, delivery_mode=2, app_id="base")
    given = {
        "content_type": "application/json",
        "content_encoding": "gzip",
        "headers": {"key": ["value", 1, None]},
        "priority": 5,
        "correlation_id": "c",
        "reply_to": "r",
        "expiration": 1500,
        "message_id": "m",
        "timestamp": now,
        "type": "t",
        "user_id": "guest",
        "app_id": "a",
    }

    async def use(channel):
        await channel.publish(b"", persistent=True, **given)
        await channel.publish(b"", properties=base, app_id="other")
        await channel.publish(b"")

    async def broker(fake):
        await open_to_publish(fake)
        await fake.expect(methods.ConfirmSelect)
        expected = [
            Properties(**{**given, "expiration": "1500"}, delivery_mode=2),
            Properties(content_type="text/plain", headers={"a": 1}, delivery_mode=2, app_id="other"),
            Properties(),
        ]
        for number, properties in enumerate(expected, 1):
            assert (await fake.published()).properties == properties
            await fake.say(ack(number, False))
        await close_all(fake)

    await play(on_a_channel(use), broker)


@on_both_backends
async def test_bodies_are_cut_into_frames():
    sizes = [0, 1, 4087, 4088, 4089, 8176, 8177, 100_000, 5, 5, 0]

    async def use(channel):
        assert await channel.publish_many([b"x" * size for size in sizes]) == len(sizes)

    async def broker(fake):
        await open_to_publish(fake)  # the codec refuses frames over the limit
        await fake.expect(methods.ConfirmSelect)
        for size in sizes:
            assert (await fake.published()).body == b"x" * size
        await fake.say(ack(len(sizes), True))
        await close_all(fake)

    await play(on_a_channel(use), broker, frame_max=4096)


@on_both_backends
async def test_what_cannot_be_sent_is_refused_and_harms_nothing():
    async def use(channel):
        too_long = "x" * 256
        await fails(leveret.InvalidValue, channel.publish, b"", routing_key=too_long)
        await fails(leveret.InvalidValue, channel.publish, b"", exchange=too_long)
        await fails(leveret.InvalidValue, channel.publish, b"", reply_to=too_long)
        await fails(leveret.InvalidValue, channel.publish, b"", headers={"large": "x" * 5000})
        await fails(leveret.InvalidValue, channel.publish_many, [b""], window=0)
        await fails(TypeError, channel.publish, "text")
        await fails(TypeError, channel.publish, b"", colour="red")
        await fails(leveret.InvalidValue, channel.declare_queue, too_long)
        await fails(leveret.InvalidValue, channel.declare_queue, "q", arguments={"x": "y" * 5000})
        await fails(leveret.InvalidValue, channel.bind_queue, "q", "x", arguments={"x": object()})
        await channel.publish(b"fine")

    async def broker(fake):
        await open_to_publish(fake)
        await fake.expect(methods.ConfirmSelect)
        assert (await fake.published()).body == b"fine"
        await fake.say(ack(1, False))
        await close_all(fake)

    await play(on_a_channel(use), broker, frame_max=4096)


# ---- waiting ----


@on_both_backends
async def test_publishers_wait_while_the_flow_is_stopped():
    async def use(channel):
        await channel.publish(b"first")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.publish, b"second")
            await channel.declare_queue("meanwhile")

    async def broker(fake):
        await open_to_publish(fake)
        await fake.expect(methods.ConfirmSelect)
        await fake.published()
        await fake.say(methods.ChannelFlow(False), ack(1, False))
        assert (await fake.expect(methods.ChannelFlowOk)).active is False
        await fake.expect(methods.QueueDeclare)
        await fake.say(methods.QueueDeclareOk(), methods.ChannelFlow(True))
        assert (await fake.expect(methods.ChannelFlowOk)).active is True
        assert (await fake.published()).body == b"second"
        await fake.say(ack(2, False))
        await close_all(fake)

    await play(on_a_channel(use), broker)


@on_both_backends
async def test_publishers_wait_while_too_many_are_unconfirmed(monkeypatch):
    monkeypatch.setattr("leveret.confirms.UNCONFIRMED_MAX", 3)

    async def use(channel):
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(channel.publish, b"")

    async def broker(fake):
        await open_to_publish(fake)
        await fake.expect(methods.ConfirmSelect)
        for number in range(1, 11):
            await fake.published()
            if number % 3 == 0:
                assert await fake.silent()
                await fake.say(ack(number, True))
        await fake.say(ack(10, False))
        await close_all(fake)

    await play(on_a_channel(use), broker)


@on_both_backends
async def test_publishers_wait_while_too_much_is_to_be_sent():
    """The broker does not read: what is waiting to be sent does not grow."""
    size = 100_000
    waiting = []
    looked = anyio.Event()

    async def client(connect):
        async with connect() as connection, connection.channel() as channel:
            outbox = connection._traffic._outbox
            async with anyio.create_task_group() as tasks:
                for _ in range(100):
                    tasks.start_soon(channel.publish, b"x" * size)
                await anyio.wait_all_tasks_blocked()
                waiting.append(outbox._size + outbox._taken)
                looked.set()

    async def broker(fake):
        await open_to_publish(fake)
        await looked.wait()
        await fake.expect(methods.ConfirmSelect)
        for number in range(1, 101):
            assert len((await fake.published()).body) == size
            await fake.say(ack(number, False))
        await close_all(fake)

    await play(client, broker)
    assert FULL < waiting[0] < FULL + 2 * size


# ---- a real broker ----


@on_both_backends
async def test_messages_of_all_sizes_arrive(url, queue):
    sizes = [0, 1, 1000, 131_063, 131_064, 131_065, 1_000_000, 16 * 1024 * 1024]
    async with leveret.connect(url) as connection, connection.channel() as channel:
        await channel.declare_queue(queue, durable=True)
        for size in sizes:
            await channel.publish(b"x" * size, routing_key=queue, persistent=True)
        async with channel.consume(queue, prefetch=1) as messages:
            for size in sizes:
                message = await anext(messages)
                assert message.body == b"x" * size
                await message.ack()
        assert await channel.delete_queue(queue) == 0


@on_both_backends
async def test_a_full_queue_refuses(url, queue):
    arguments = {"x-max-length": 2, "x-overflow": "reject-publish"}
    async with leveret.connect(url) as connection, connection.channel() as channel:
        await channel.declare_queue(queue, arguments=arguments)
        await channel.publish(b"1", routing_key=queue)
        await channel.publish(b"2", routing_key=queue)
        with pytest.raises(leveret.PublishRefused):
            await channel.publish(b"3", routing_key=queue)
        with pytest.raises(leveret.NotAllConfirmed) as caught:
            await channel.publish_many([b"4", b"5"], routing_key=queue)
        assert list(caught.value.failures) == [0, 1]
        assert await channel.delete_queue(queue) == 2


@on_both_backends
async def test_mandatory_messages_need_a_queue(url, queue):
    async with leveret.connect(url) as connection, connection.channel() as channel:
        await channel.publish(b"nobody minds", routing_key=queue)
        with pytest.raises(leveret.Unroutable) as caught:
            await channel.publish(b"back", routing_key=queue, mandatory=True, message_id="7")
        assert caught.value.message.body == b"back"
        assert caught.value.message.properties.message_id == "7"
        await channel.declare_queue(queue)
        await channel.publish(b"there", routing_key=queue, mandatory=True)
        assert await channel.delete_queue(queue) == 1


@on_both_backends
async def test_an_exchange_that_is_not_there_closes_the_channel_only(url, queue):
    async with leveret.connect(url) as connection:
        async with connection.channel() as channel:
            with pytest.raises(leveret.ChannelClosed, match="no exchange 'nowhere'") as caught:
                await channel.publish(b"", exchange="nowhere")
            assert caught.value.code == 404
            with pytest.raises(leveret.ChannelClosed, match="no exchange 'nowhere'"):
                await channel.declare_queue(queue)
        async with connection.channel() as channel:
            await channel.declare_queue(queue)
            await channel.delete_queue(queue)


@on_both_backends
async def test_each_task_publishes_in_its_order(url, queue):
    """Many tasks on two channels of a connection."""
    async with (
        leveret.connect(url) as connection,
        connection.channel() as one,
        connection.channel() as two,
    ):
        await one.declare_queue(queue, durable=True)

        async def publish(channel, task):
            for number in range(20):
                await channel.publish(b"%d %d" % (task, number), routing_key=queue, persistent=True)

        async with anyio.create_task_group() as tasks:
            for task in range(50):
                tasks.start_soon(publish, (one, two)[task % 2], task)
        came = {task: [] for task in range(50)}
        async with one.consume(queue) as messages:
            for _ in range(1000):
                message = await anext(messages)
                task, number = map(int, message.body.split())
                came[task].append(number)
                await message.ack()
        assert await two.delete_queue(queue) == 0
    assert came == {task: list(range(20)) for task in range(50)}
