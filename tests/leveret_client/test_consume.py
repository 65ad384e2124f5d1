"""Consuming: what goes over the wire, settling, bounded buffers, and the ways in which it ends."""

import anyio
import pytest

import leveret
from backends import on_both_backends
from broker.amqp import methods
from fake_broker import Acked, play


def on_a_channel(use):
    async def client(connect):
        async with connect() as connection, connection.channel() as channel:
            await use(channel)

    return client


TAG = "leveret-1-1"


async def take_all(messages, *, ack=False):
    """Until the iteration ends by itself: the bodies, and what ended it."""
    bodies = []
    try:
        async for message in messages:
            bodies.append(message.body)
            if ack:
                await message.ack()
    except leveret.LeveretError as error:
        return bodies, error
    return bodies, None


async def open_to_consume(fake, tag=TAG, **expected):
    """Up to consume-ok."""
    await fake.open()
    await fake.open_channel()
    await expect_consume(fake, tag, **expected)


async def expect_consume(fake, tag=TAG, *, prefetch=100, no_ack=False, **expected):
    if not no_ack:
        qos = await fake.expect(methods.BasicQos)
        assert qos == methods.BasicQos(prefetch_count=prefetch)
    consume = await fake.expect(methods.BasicConsume)
    assert consume == methods.BasicConsume(
        **{"queue": "q", "consumer_tag": tag, "no_ack": no_ack, **expected}
    )
    await fake.say(*([] if no_ack else [methods.BasicQosOk()]), methods.BasicConsumeOk(tag))


async def close_all(fake):
    await fake.close_channel()
    await fake.close()


async def expect_cancel(fake, tag=TAG):
    assert await fake.expect(methods.BasicCancel) == methods.BasicCancel(tag)


def requeued(tag):
    return methods.BasicNack(delivery_tag=tag, multiple=False, requeue=True)


# ---- the usual ----


@on_both_backends
async def test_messages_come_and_are_acknowledged():
    async def use(channel):
        async with channel.consume("q", prefetch=7) as messages:
            bodies = []
            async for message in messages:
                bodies.append(message.body)
                assert message.consumer_tag == TAG
                assert message.routing_key == "q"
                await message.ack()
                if len(bodies) == 3:
                    break
        assert bodies == [b"a", b"b", b"c"]

    async def broker(fake):
        await open_to_consume(fake, prefetch=7)
        await fake.write(fake.deliveries(TAG, 1, b"a", b"b", b"c"))
        assert await fake.acked() == Acked(3, True)  # one frame for all
        await expect_cancel(fake)
        await fake.say(methods.BasicCancelOk(TAG))
        await close_all(fake)

    await play(on_a_channel(use), broker)


@on_both_backends
async def test_everything_that_is_asked_for_is_said():
    async def use(channel):
        consumer = channel.consume(
            "q", prefetch=3, exclusive=True, consumer_tag="mine", arguments={"x-priority": 5}
        )
        assert (consumer.queue, consumer.tag, consumer.prefetch) == ("q", "mine", 3)
        async with consumer:
            pass

    async def broker(fake):
        await open_to_consume(fake, "mine", prefetch=3, exclusive=True, arguments={"x-priority": 5})
        await expect_cancel(fake, "mine")
        await fake.say(methods.BasicCancelOk("mine"))
        await close_all(fake)

    await play(on_a_channel(use), broker)


@on_both_backends
async def test_a_message_shows_what_it_has():
    raw = leveret.properties.encode(None, True, {"headers": {"a": [1]}, "correlation_id": "c"})

    async def use(channel):
        message = await anext(channel.consume("q"))
        assert (message.exchange, message.routing_key, message.redelivered) == ("x", "k", True)
        assert (message.delivery_tag, message.body, message.message_count) == (9, b"body", None)
        assert message.headers == {"a": [1]}
        assert message.properties == leveret.Properties(
            headers={"a": [1]}, correlation_id="c", delivery_mode=2
        )
        assert repr(message) == "<Message 9 exchange='x' routing_key='k' 4 octets>"

    async def broker(fake):
        await open_to_consume(fake)
        method = methods.BasicDeliver(TAG, 9, True, "x", "k")
        await fake.write(fake.with_content(method, b"body", raw=raw))
        await close_all(fake)

    await play(on_a_channel(use), broker)


@on_both_backends
async def test_malformed_properties_leave_the_body():
    async def use(channel):
        message = await anext(channel.consume("q"))
        assert message.body == b"body"
        with pytest.raises(leveret.MalformedMessage, match="do not fill"):
            _ = message.properties
        with pytest.raises(leveret.MalformedMessage):
            _ = message.headers
        await message.ack()

    async def broker(fake):
        await open_to_consume(fake)
        method = methods.BasicDeliver(TAG, 1)
        await fake.write(fake.with_content(method, b"body", raw=b"\x20\x00\0\0"))
        assert await fake.acked() == Acked(1, False)
        await close_all(fake)

    await play(on_a_channel(use), broker)


# ---- settling ----


@on_both_backends
async def test_each_way_to_settle():
    async def use(channel):
        messages = channel.consume("q")
        for settle in (
            lambda message: message.ack(),
            lambda message: message.nack(),
            lambda message: message.nack(requeue=False),
            lambda message: message.reject(),
            lambda message: message.reject(requeue=True),
        ):
            message = await anext(messages)
            await settle(message)
            for again in (message.ack, message.nack, message.reject):
                with pytest.raises(leveret.AlreadySettled, match="settled before"):
                    await again()

    async def broker(fake):
        await open_to_consume(fake)
        await fake.write(fake.deliveries(TAG, 1, *[b""] * 5))
        assert await fake.acked() == Acked(1, False)
        for tag, requeue in ((2, True), (3, False), (4, False), (5, True)):
            assert await fake.expect(methods.BasicNack) == methods.BasicNack(tag, False, requeue)
        await close_all(fake)

    await play(on_a_channel(use), broker)


@on_both_backends
async def test_an_older_message_is_not_acknowledged_by_the_way():
    """Also if it is another consumer's, or came from `get`."""

    async def use(channel):
        first, second = channel.consume("q"), channel.consume("q")
        kept = await anext(first)
        got = await channel.get("q")
        for _ in range(3):
            await (await anext(second)).ack()
        await channel.declare_queue("now the others")
        await got.ack()
        await kept.ack()
        await channel.declare_queue("and the rest")
        await (await anext(second)).ack()
        await (await anext(second)).ack()

    async def broker(fake):
        await open_to_consume(fake)
        await fake.write(fake.deliveries(TAG, 1, b"kept"))
        await fake.expect(methods.BasicGet)
        await fake.write(fake.with_content(methods.BasicGetOk(2), b"got"))
        await expect_consume(fake, "leveret-1-2")
        await fake.write(fake.deliveries("leveret-1-2", 3, b"", b"", b"", b"", b""))
        assert [await fake.acked() for _ in range(3)] == [Acked(3, False), Acked(4, False), Acked(5, False)]
        await fake.expect(methods.QueueDeclare)
        await fake.say(methods.QueueDeclareOk())
        assert [await fake.acked() for _ in range(2)] == [Acked(2, False), Acked(1, False)]
        await fake.expect(methods.QueueDeclare)
        await fake.say(methods.QueueDeclareOk())
        assert await fake.acked() == Acked(7, True)
        await close_all(fake)

    await play(on_a_channel(use), broker)


@pytest.mark.parametrize("requeue", [True, False])
@on_both_backends
async def test_an_older_message_that_is_refused_next_is_not_acknowledged_before(requeue):
    async def use(channel):
        messages = channel.consume("q")
        first, second, third = [await anext(messages) for _ in range(3)]
        await second.ack()
        await third.ack()
        await first.nack(requeue=requeue)

    async def broker(fake):
        await open_to_consume(fake)
        await fake.write(fake.deliveries(TAG, 1, b"", b"", b""))
        assert [await fake.acked() for _ in range(2)] == [Acked(2, False), Acked(3, False)]
        assert await fake.expect(methods.BasicNack) == methods.BasicNack(1, False, requeue)
        await close_all(fake)

    await play(on_a_channel(use), broker)


@on_both_backends
async def test_without_acknowledgement_nothing_is_settled():
    async def use(channel):
        message = await anext(channel.consume("q", no_ack=True))
        with pytest.raises(leveret.AlreadySettled, match="without acknowledgement"):
            await message.ack()

    async def broker(fake):
        await open_to_consume(fake, no_ack=True)
        await fake.write(fake.deliveries(TAG, 1, b""))
        await close_all(fake)

    await play(on_a_channel(use), broker)


@on_both_backends
async def test_a_message_of_a_closed_channel_cannot_be_settled(url, queue):
    async with leveret.connect(url) as connection:
        async with connection.channel() as channel:
            await channel.declare_queue(queue)
            await channel.publish(b"body", routing_key=queue)
            message = await anext(channel.consume(queue))
        with pytest.raises(leveret.ChannelClosed, match="closed by this side"):
            await message.ack()
        async with connection.channel() as channel:
            again = await channel.get(queue)
            assert (again.body, again.redelivered) == (b"body", True)
            await again.ack()
            await channel.delete_queue(queue)


# ---- ending ----


@on_both_backends
async def test_what_was_not_taken_goes_back():
    async def use(channel):
        async with channel.consume("q") as messages:
            assert (await anext(messages)).body == b"taken"
        with pytest.raises(StopAsyncIteration):
            await anext(messages)

    async def broker(fake):
        await open_to_consume(fake)
        await fake.write(fake.deliveries(TAG, 1, b"taken", b"left", b"left"))
        await expect_cancel(fake)
        assert await fake.expect(methods.BasicNack) == requeued(2)
        assert await fake.expect(methods.BasicNack) == requeued(3)
        # What was on its way when it was cancelled, in a run and as one.
        await fake.write(fake.deliveries(TAG, 4, b"late", b"late"))
        assert await fake.expect(methods.BasicNack) == requeued(4)
        assert await fake.expect(methods.BasicNack) == requeued(5)
        await fake.say(methods.BasicCancelOk(TAG))
        await close_all(fake)

    await play(on_a_channel(use), broker)


@on_both_backends
async def test_whoever_waits_hears_that_it_is_closed():
    async def use(channel):
        messages = channel.consume("q")
        came = []

        async def iterate():
            came.append(await take_all(messages))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(iterate)
            tasks.start_soon(iterate)
            await anyio.wait_all_tasks_blocked()
            await messages.aclose()
            await messages.aclose()
        assert sorted(came) == [([], None), ([b"a"], None)]

    async def broker(fake):
        await open_to_consume(fake)
        await fake.write(fake.deliveries(TAG, 1, b"a"))
        await expect_cancel(fake)
        await fake.say(methods.BasicCancelOk(TAG))
        await close_all(fake)

    await play(on_a_channel(use), broker)


@on_both_backends
async def test_nothing_is_cancelled_before_the_broker_has_agreed():
    """RabbitMQ's channels crash on that."""

    async def use(channel):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(channel.consume("q").__aenter__)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        await channel.declare_queue("not cancelled yet")
        messages = channel.consume("q")
        with anyio.move_on_after(0):
            await anext(messages)
        await messages.aclose()

    async def broker(fake):
        await fake.open()
        await fake.open_channel()
        await fake.expect(methods.BasicQos)
        await fake.expect(methods.BasicConsume)
        await fake.expect(methods.QueueDeclare)
        await fake.say(methods.BasicQosOk(), methods.BasicConsumeOk(TAG))
        await expect_cancel(fake)
        await fake.write(fake.deliveries(TAG, 1, b""))
        assert await fake.expect(methods.BasicNack) == requeued(1)
        await fake.say(methods.BasicCancelOk(TAG), methods.QueueDeclareOk())
        await expect_consume(fake, "leveret-1-2")
        await expect_cancel(fake, "leveret-1-2")
        await fake.say(methods.BasicCancelOk("leveret-1-2"))
        await close_all(fake)

    await play(on_a_channel(use), broker)


@on_both_backends
async def test_a_consumer_that_is_cancelled_while_the_broker_refuses_it():
    async def use(channel):
        messages = channel.consume("q")
        with anyio.move_on_after(0):
            await anext(messages)
        await messages.aclose()
        with pytest.raises(leveret.ChannelClosed, match="404"):
            await channel.declare_queue()

    async def broker(fake):
        await fake.open()
        await fake.open_channel()
        await fake.expect(methods.BasicQos)
        await fake.expect(methods.BasicConsume)
        await fake.say(methods.BasicQosOk(), methods.ChannelClose(404, "NOT_FOUND", 60, 20))
        await fake.expect(methods.ChannelCloseOk)
        await fake.close()

    await play(on_a_channel(use), broker)


@on_both_backends
async def test_a_consumer_that_was_never_started_is_closed_without_a_word():
    async def use(channel):
        await channel.consume("q").aclose()

    async def broker(fake):
        await fake.open()
        await fake.open_channel()
        await close_all(fake)

    await play(on_a_channel(use), broker)


@pytest.mark.parametrize("nowait", [True, False])
@on_both_backends
async def test_the_broker_cancels_the_consumer(nowait):
    async def use(channel):
        messages = channel.consume("q")
        bodies, error = await take_all(messages, ack=True)
        assert bodies == [b"a", b"b"]
        assert isinstance(error, leveret.ConsumerCancelled)
        assert "cancelled the consumer of queue 'q'" in str(error)
        with pytest.raises(leveret.ConsumerCancelled):
            await anext(messages)
        await messages.aclose()
        await channel.declare_queue("the channel lives")

    async def broker(fake):
        await open_to_consume(fake)
        cancel = methods.encode(1, methods.BasicCancel(TAG, nowait=nowait))
        await fake.write(fake.deliveries(TAG, 1, b"a", b"b") + cancel)
        if not nowait:
            await fake.expect(methods.BasicCancelOk)
        assert await fake.acked() == Acked(2, True)
        await fake.expect(methods.QueueDeclare)
        await fake.say(methods.QueueDeclareOk())
        await close_all(fake)

    await play(on_a_channel(use), broker)


@on_both_backends
async def test_both_sides_cancel_at_once():
    async def use(channel):
        async with channel.consume("q") as messages:
            await anext(messages)

    async def broker(fake):
        await open_to_consume(fake)
        await fake.write(fake.deliveries(TAG, 1, b"a"))
        await expect_cancel(fake)
        await fake.say(methods.BasicCancel(TAG, nowait=True), methods.BasicCancelOk(TAG))
        await close_all(fake)

    await play(on_a_channel(use), broker)


@on_both_backends
async def test_a_closed_channel_ends_the_iteration_at_once():
    """What is in the buffer goes back into the queue by itself; to work on it would be in vain."""

    async def use(channel):
        messages = channel.consume("q")
        await anext(messages)
        with pytest.raises(leveret.ChannelClosed, match="404"):
            await channel.declare_queue("gone", passive=True)
        with pytest.raises(leveret.ChannelClosed, match="404 NOT_FOUND - no queue 'gone'"):
            await anext(messages)

    async def broker(fake):
        await open_to_consume(fake)
        await fake.write(fake.deliveries(TAG, 1, b"a", b"b", b"c"))
        await fake.expect(methods.QueueDeclare)
        await fake.say(methods.ChannelClose(404, "NOT_FOUND - no queue 'gone'", 50, 10))
        await fake.expect(methods.ChannelCloseOk)
        await fake.close()

    await play(on_a_channel(use), broker)


@on_both_backends
async def test_what_came_without_acknowledgement_is_not_lost_with_the_channel():
    async def use(channel):
        bodies, error = await take_all(channel.consume("q", no_ack=True))
        assert bodies == [b"a", b"b"]
        assert isinstance(error, leveret.ChannelClosed)

    async def broker(fake):
        await open_to_consume(fake, no_ack=True)
        close = methods.encode(1, methods.ChannelClose(320, "", 0, 0))
        await fake.write(fake.deliveries(TAG, 1, b"a", b"b") + close)
        await fake.expect(methods.ChannelCloseOk)
        await fake.close()

    await play(on_a_channel(use), broker)


@on_both_backends
async def test_a_queue_that_is_not_there():
    async def use(channel):
        with pytest.raises(leveret.ChannelClosed, match="404 NOT_FOUND"):
            async with channel.consume("q"):
                raise AssertionError("it began")

    async def broker(fake):
        await fake.open()
        await fake.open_channel()
        await fake.expect(methods.BasicQos)
        await fake.expect(methods.BasicConsume)
        await fake.say(methods.BasicQosOk(), methods.ChannelClose(404, "NOT_FOUND - no queue", 60, 20))
        await fake.expect(methods.ChannelCloseOk)
        await fake.close()

    await play(on_a_channel(use), broker)


@on_both_backends
async def test_what_is_wrong_is_said_at_once():
    async def use(channel):
        for prefetch in (0, -1, 65_536):
            with pytest.raises(leveret.InvalidValue, match="from 1 to 65535"):
                channel.consume("q", prefetch=prefetch)
        with pytest.raises(leveret.InvalidValue, match="at most 255"):
            await anext(channel.consume("q" * 256))
        async with channel.consume("q", consumer_tag="c") as messages:
            with pytest.raises(leveret.InvalidValue, match="a consumer with the tag 'c'"):
                await anext(channel.consume("q", consumer_tag="c"))
            with pytest.raises(RuntimeError, match="started once"):
                await messages.__aenter__()

    async def broker(fake):
        await open_to_consume(fake, "c")
        await expect_cancel(fake, "c")
        await fake.say(methods.BasicCancelOk("c"))
        await close_all(fake)

    await play(on_a_channel(use), broker)


# ---- without acknowledgement: not reading is what holds the broker back ----


@on_both_backends
async def test_nothing_is_read_while_the_buffer_is_full():
    chunks = 40
    written = []
    blocked = anyio.Event()

    async def use(channel):
        async with channel.consume("q", prefetch=10, no_ack=True) as messages:
            await blocked.wait()
            seen = 0
            async for message in messages:
                assert message.body == b"%d" % seen
                seen += 1
                if seen == 4:  # more than half of the buffer is still there
                    await anyio.wait_all_tasks_blocked()
                    assert len(written) == before[0]
                if seen == 10 * chunks:
                    break

    before = []

    async def broker(fake):
        await open_to_consume(fake, no_ack=True)

        async def write():
            for chunk in range(chunks):
                bodies = [b"%d" % number for number in range(10 * chunk, 10 * chunk + 10)]
                await fake.write(fake.deliveries(TAG, 10 * chunk + 1, *bodies))
                written.append(chunk)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await anyio.wait_all_tasks_blocked()
            before.append(len(written))
            assert len(written) < chunks // 2 + 5
            blocked.set()
        assert len(written) == chunks
        await expect_cancel(fake)
        await fake.say(methods.BasicCancelOk(TAG))
        await close_all(fake)

    await play(on_a_channel(use), broker)


@on_both_backends
async def test_answers_behind_a_full_buffer_are_read():
    """Whoever consumes may also ask and publish; that must not wait for itself."""

    async def use(channel):
        seen = 0
        async for message in channel.consume("q", prefetch=2, no_ack=True):
            await channel.publish(message.body)
            await channel.declare_queue("q")
            seen += 1
            if seen == 100:
                break

    async def broker(fake):
        await open_to_consume(fake, no_ack=True)
        await fake.write(fake.deliveries(TAG, 1, *[b""] * 100))
        await fake.expect(methods.ConfirmSelect)
        for number in range(1, 101):
            await fake.published()
            await fake.write(fake.deliveries(TAG, 98 + 3 * number, b"", b"", b""))
            await fake.say(methods.BasicAck(number, False))
            await fake.expect(methods.QueueDeclare)
            await fake.say(methods.QueueDeclareOk())
        await close_all(fake)

    await play(on_a_channel(use), broker)


@on_both_backends
async def test_a_consumer_that_is_overrun_is_cancelled(monkeypatch):
    monkeypatch.setattr("leveret.traffic.OVERRUN", 1000)

    async def use(channel):
        async with channel.consume("q", prefetch=2, no_ack=True) as messages:
            await anext(messages)
            await channel.declare_queue("slow")
            bodies, error = await take_all(messages)
            assert len(bodies) == 23  # nothing of what came is lost
            assert isinstance(error, leveret.ConsumerOverrun)
        await channel.declare_queue("the channel lives")

    async def broker(fake):
        await open_to_consume(fake, no_ack=True)
        await fake.write(fake.deliveries(TAG, 1, b"", b"", b""))
        await fake.expect(methods.QueueDeclare)
        for number in range(20):
            await fake.write(fake.deliveries(TAG, 4 + number, b"x" * 100))
        await expect_cancel(fake)
        await fake.write(fake.deliveries(TAG, 24, b"before the cancel came"))
        await fake.say(methods.QueueDeclareOk(), methods.BasicCancelOk(TAG))
        await fake.expect(methods.QueueDeclare)
        await fake.say(methods.QueueDeclareOk())
        await close_all(fake)

    await play(on_a_channel(use), broker)


@on_both_backends
async def test_a_channel_with_a_full_buffer_can_be_left():
    async def use(channel):
        async with channel.consume("q", prefetch=1, no_ack=True) as messages:
            await anext(messages)

    async def broker(fake):
        await open_to_consume(fake, no_ack=True)
        await fake.write(fake.deliveries(TAG, 1, *[b""] * 100))
        await expect_cancel(fake)
        await fake.write(fake.deliveries(TAG, 101, *[b""] * 100))
        await fake.say(methods.BasicCancelOk(TAG))
        await close_all(fake)

    await play(on_a_channel(use), broker)


@on_both_backends
async def test_a_connection_with_a_full_buffer_can_be_left():
    async def client(connect):
        async with connect() as connection, connection.channel() as channel:
            messages = channel.consume("q", prefetch=1, no_ack=True)
            await anext(messages)
            await anyio.wait_all_tasks_blocked()

    async def broker(fake):
        await open_to_consume(fake, no_ack=True)
        await fake.write(fake.deliveries(TAG, 1, *[b""] * 100))
        await fake.expect(methods.ChannelClose)
        await fake.write(fake.deliveries(TAG, 101, *[b""] * 100))
        await fake.say(methods.ChannelCloseOk())
        await fake.close()

    await play(client, broker)


# ---- get ----


@on_both_backends
async def test_get_one_or_none(url, queue):
    async with leveret.connect(url) as connection, connection.channel() as channel:
        await channel.declare_queue(queue)
        assert await channel.get(queue) is None
        await channel.publish_many([b"a", b"b", b"c"], routing_key=queue)
        first = await channel.get(queue)
        assert (first.body, first.message_count, first.routing_key, first.redelivered) == (
            b"a",
            2,
            queue,
            False,
        )
        assert first.consumer_tag == ""
        second = await channel.get(queue, no_ack=True)
        assert second.body == b"b"
        with pytest.raises(leveret.AlreadySettled):
            await second.ack()
        await first.nack()
        again = await channel.get(queue)
        assert (again.body, again.redelivered) == (b"a", True)
        await again.ack()
        await (await channel.get(queue)).reject()
        assert await channel.get(queue) is None
        await channel.delete_queue(queue)


# ---- a real broker ----


@on_both_backends
async def test_no_more_than_the_prefetch_are_here(url, queue):
    async with leveret.connect(url) as connection, connection.channel() as channel:
        await channel.declare_queue(queue)
        await channel.publish_many([b""] * 20, routing_key=queue)
        async with channel.consume(queue, prefetch=5) as messages:
            held = [await anext(messages) for _ in range(5)]
            with anyio.move_on_after(0.05) as scope:
                await anext(messages)
            assert scope.cancelled_caught
            assert (await channel.declare_queue(queue, passive=True)).message_count == 15
            await held[2].ack()
            assert (await anext(messages)).delivery_tag == 6
        assert await channel.delete_queue(queue) == 14 + 0


@on_both_backends
async def test_a_deleted_queue_cancels_its_consumers(url, queue):
    async with leveret.connect(url) as connection, connection.channel() as channel:
        await channel.declare_queue(queue)
        await channel.publish(b"a", routing_key=queue)
        messages = channel.consume(queue)
        message = await anext(messages)
        await channel.delete_queue(queue)
        with pytest.raises(leveret.ConsumerCancelled, match=queue.replace("[", r"\[")):
            await anext(messages)
        await message.ack()
        await channel.declare_queue(queue)
        await channel.delete_queue(queue)


@on_both_backends
async def test_many_messages_of_several_consumers_come_once_each(url, queue):
    total = 3000
    async with (
        leveret.connect(url) as connection,
        connection.channel() as one,
        connection.channel() as two,
        leveret.connect(url) as other,
        other.channel() as three,
    ):
        await one.declare_queue(queue)
        bodies = []
        done = anyio.Event()

        async def consume(channel):
            async with channel.consume(queue, prefetch=20) as messages:
                async for message in messages:
                    bodies.append(int(message.body))
                    await message.ack()
                    if len(bodies) == total:
                        done.set()

        async with anyio.create_task_group() as tasks:
            for channel in (one, one, two, three):
                tasks.start_soon(consume, channel)
            await one.publish_many((b"%d" % number for number in range(total)), routing_key=queue)
            await done.wait()
            tasks.cancel_scope.cancel()
        assert sorted(bodies) == list(range(total))
    async with leveret.connect(url) as connection, connection.channel() as channel:
        assert await channel.delete_queue(queue) == 0


@on_both_backends
async def test_rejected_messages_are_dead_letters(url, queue):
    async with leveret.connect(url) as connection, connection.channel() as channel:
        dead = await channel.declare_queue(exclusive=True)
        assert dead.name.startswith("amq.gen-")
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead.name}
        await channel.declare_queue(queue, arguments=arguments)
        await channel.publish(b"bad", routing_key=queue)
        await (await anext(channel.consume(queue))).reject()
        message = await anext(channel.consume(dead.name))
        assert message.body == b"bad"
        assert message.headers["x-death"][0]["reason"] == "rejected"
        await message.ack()
        await channel.delete_queue(queue)


@on_both_backends
async def test_a_flood_without_acknowledgement_comes_whole(url, queue):
    total = 20_000
    async with leveret.connect(url) as connection, connection.channel() as channel:
        await channel.declare_queue(queue)
        await channel.publish_many((b"%d" % number for number in range(total)), routing_key=queue)
        expected = 0
        async with channel.consume(queue, prefetch=50, no_ack=True) as messages:
            async for message in messages:
                assert int(message.body) == expected
                expected += 1
                if expected == total:
                    break
        await channel.delete_queue(queue)
