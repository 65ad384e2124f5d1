"""Channels: their numbers, opening and closing, questions and answers; and what they declare."""

import anyio
import pytest

import leveret
from backends import on_both_backends, on_mock_clock
from broker.amqp import methods
from fake_broker import play

# ---- numbers ----


@on_both_backends
async def test_numbers_are_used_again_when_the_broker_has_answered():
    async def client(connect):
        async with connect() as connection:
            async with connection.channel() as one, connection.channel() as two:
                assert (one.number, two.number) == (1, 2)
                with pytest.raises(leveret.TooManyChannels, match="all 2 channels"):
                    async with connection.channel():
                        raise AssertionError("it opened")
            async with connection.channel() as again:
                assert again.number == 1
            async with connection.channel() as again:
                assert again.number == 2
                for _ in range(2):
                    async with connection.channel() as other:
                        assert other.number == 1

    async def broker(fake):
        await fake.open()
        await fake.open_channel(1)
        await fake.open_channel(2)
        await fake.close_channel(2)
        await fake.close_channel(1)
        await fake.open_channel(1)
        await fake.close_channel(1)
        await fake.open_channel(2)
        for _ in range(2):
            await fake.open_channel(1)
            await fake.close_channel(1)
        await fake.close_channel(2)
        await fake.close()

    await play(client, broker, channel_max=2)


@on_both_backends
async def test_a_number_is_not_used_again_before():
    """A channel that was cancelled while it opened."""

    async def client(connect):
        async with connect() as connection:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(connection.channel().__aenter__)
                    await anyio.wait_all_tasks_blocked()
                    scope.cancel()
            with pytest.raises(leveret.TooManyChannels):
                async with connection.channel():
                    raise AssertionError("it opened")
            tried.set()
            await closed.wait()
            async with connection.channel() as channel:
                assert channel.number == 1

    tried, closed = anyio.Event(), anyio.Event()

    async def broker(fake):
        await fake.open()
        await fake.expect(methods.ChannelOpen)
        await fake.expect(methods.ChannelClose)
        await tried.wait()
        await fake.say(methods.ChannelOpenOk(), methods.ChannelCloseOk())
        await anyio.wait_all_tasks_blocked()
        closed.set()
        await fake.open_channel()
        await fake.close_channel()
        await fake.close()

    await play(client, broker, channel_max=1)


# ---- closing ----


@on_both_backends
async def test_both_sides_close_at_once():
    async def client(connect):
        async with connect() as connection:
            async with connection.channel():
                pass
            async with connection.channel():
                pass

    async def broker(fake):
        await fake.open()
        await fake.open_channel(1)
        await fake.expect(methods.ChannelClose, 1)
        await fake.say(methods.ChannelClose(406, "too late", 0, 0), channel=1)
        await fake.expect(methods.ChannelCloseOk, 1)
        await fake.say(methods.ChannelCloseOk(), channel=1)
        await fake.open_channel(2)
        await fake.close_channel(2)
        await fake.close()

    await play(client, broker)


@on_mock_clock
async def test_an_answer_to_close_is_not_waited_for_long():
    async def client(connect):
        async with connect() as connection:
            async with connection.channel():
                started = anyio.current_time()
            assert anyio.current_time() - started == pytest.approx(3)

    async def broker(fake):
        await fake.open()
        await fake.open_channel()
        await fake.expect(methods.ChannelClose)
        await fake.close()

    await play(client, broker)


@on_both_backends
async def test_a_channel_is_opened_once():
    async def client(connect):
        async with connect() as connection:
            channel = connection.channel()
            with pytest.raises(leveret.ChannelClosed, match="not open yet"):
                await channel.publish(b"")
            async with channel:
                with pytest.raises(RuntimeError, match="opened once"):
                    await channel.__aenter__()

    async def broker(fake):
        await fake.open()
        await fake.open_channel()
        await fake.close_channel()
        await fake.close()

    await play(client, broker)


@on_both_backends
async def test_questions_may_be_asked_together():
    async def client(connect):
        async with connect() as connection, connection.channel() as channel:
            names = {}

            async def declare(number):
                names[number] = (await channel.declare_queue(str(number))).name

            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(declare, number)
            assert names == {number: f"answer to {number}" for number in range(20)}

    async def broker(fake):
        await fake.open()
        await fake.open_channel()
        asked = [(await fake.expect(methods.QueueDeclare)).queue for _ in range(20)]
        await fake.say(*[methods.QueueDeclareOk(f"answer to {name}") for name in asked])
        await fake.close_channel()
        await fake.close()

    await play(client, broker)


@on_both_backends
async def test_answers_about_consumers_come_when_they_like():
    """RabbitMQ's queues give them, and its channels all the others."""

    async def client(connect):
        async with (
            connect() as connection,
            connection.channel() as channel,
            anyio.create_task_group() as tasks,
        ):
            for tag in "abc":
                tasks.start_soon(come_and_go, channel, tag)
            await channel.declare_queue("q")

    async def come_and_go(channel, tag):
        async with channel.consume("q", consumer_tag=tag):
            pass

    async def broker(fake):
        await fake.open()
        await fake.open_channel()
        asked = [await fake.next(1) for _ in range(7)]
        tags = [method.consumer_tag for method in asked if isinstance(method, methods.BasicConsume)]
        assert sorted(tags) == ["a", "b", "c"]
        answers = {methods.BasicQos: methods.BasicQosOk(), methods.QueueDeclare: methods.QueueDeclareOk()}
        in_order = [answers[type(method)] for method in asked if type(method) in answers]
        await fake.say(
            methods.BasicConsumeOk(tags[2]),
            *in_order,
            methods.BasicConsumeOk(tags[0]),
            methods.BasicConsumeOk(tags[1]),
        )
        cancelled = [(await fake.expect(methods.BasicCancel)).consumer_tag for _ in range(3)]
        await fake.say(*[methods.BasicCancelOk(tag) for tag in reversed(cancelled)])
        await fake.close_channel()
        await fake.close()

    await play(client, broker)


# ---- declaring, at a real broker ----


@on_both_backends
async def test_queues(url, queue):
    async with leveret.connect(url) as connection, connection.channel() as channel:
        assert await channel.declare_queue(queue, durable=True) == leveret.DeclaredQueue(queue, 0, 0)
        await channel.publish_many([b""] * 3, routing_key=queue)
        assert await channel.declare_queue(queue, passive=True) == leveret.DeclaredQueue(queue, 3, 0)
        async with channel.consume(queue, prefetch=1) as messages:
            await anext(messages)
            assert await channel.declare_queue(queue, durable=True) == leveret.DeclaredQueue(queue, 2, 1)
        assert await channel.purge_queue(queue) == 2
        assert await channel.delete_queue(queue) == 0
        assert await channel.delete_queue(queue) == 0


@on_both_backends
async def test_the_broker_chooses_a_name(url):
    async with leveret.connect(url) as connection, connection.channel() as channel:
        first = await channel.declare_queue(exclusive=True, auto_delete=True)
        second = await channel.declare_queue(exclusive=True)
        assert first.name.startswith("amq.gen-")
        assert first.name != second.name
        await channel.publish(b"", routing_key=first.name, mandatory=True)


@on_both_backends
async def test_exchanges_and_bindings(url, queue):
    source, destination = f"{queue}.source", f"{queue}.destination"
    async with leveret.connect(url) as connection, connection.channel() as channel:
        await channel.declare_queue(queue)
        await channel.declare_exchange(source, "topic", durable=True)
        await channel.declare_exchange(source, "topic", durable=True)
        await channel.declare_exchange(source, passive=True)
        await channel.declare_exchange(destination, "headers", auto_delete=True, internal=True)
        await channel.bind_exchange(destination, source, "a.#")
        await channel.bind_queue(queue, destination, arguments={"x-match": "any", "kind": "good"})

        await channel.publish(
            b"", exchange=source, routing_key="a.b", headers={"kind": "good"}, mandatory=True
        )
        for key, kind in (("b", "good"), ("a.b", "bad")):
            with pytest.raises(leveret.Unroutable):
                await channel.publish(
                    b"", exchange=source, routing_key=key, headers={"kind": kind}, mandatory=True
                )
        await channel.unbind_queue(queue, destination, arguments={"x-match": "any", "kind": "good"})
        await channel.bind_queue(queue, source, "direct")
        await channel.publish(b"", exchange=source, routing_key="direct", mandatory=True)
        await channel.unbind_queue(queue, source, "direct")
        await channel.unbind_exchange(destination, source, "a.#")
        with pytest.raises(leveret.Unroutable):
            await channel.publish(b"", exchange=source, routing_key="a.b", mandatory=True)
        await channel.delete_exchange(source)
        await channel.delete_exchange(source)
        await channel.delete_exchange(destination)
        assert await channel.delete_queue(queue) == 2


async def refused(connection, code, text, call):
    """It closes its channel, and nothing else."""
    async with connection.channel() as channel:
        with pytest.raises(leveret.ChannelClosed, match=text) as caught:
            await call(channel)
        assert caught.value.code == code


@on_both_backends
async def test_what_the_broker_refuses(url, queue):
    async with leveret.connect(url) as connection, connection.channel() as channel:
        await channel.declare_queue(queue, durable=True)
        await channel.publish(b"", routing_key=queue)
        for code, text, call in (
            (404, "no queue", lambda channel: channel.declare_queue(f"{queue}.not", passive=True)),
            (404, "no queue", lambda channel: anext(channel.consume(f"{queue}.not"))),
            (404, "no queue", lambda channel: channel.get(f"{queue}.not")),
            (404, "no exchange", lambda channel: channel.declare_exchange("not", passive=True)),
            (404, "no exchange", lambda channel: channel.bind_queue(queue, "not")),
            (403, "default exchange", lambda channel: channel.delete_exchange("")),
            (403, "reserved prefix", lambda channel: channel.declare_queue("amq.mine")),
            (406, "inequivalent arg 'durable'", lambda channel: channel.declare_queue(queue)),
            (406, "not empty", lambda channel: channel.delete_queue(queue, if_empty=True)),
            (406, "inequivalent", lambda channel: channel.declare_exchange("amq.topic", "fanout")),
            (
                406,
                "x-max-length",
                lambda channel: channel.declare_queue("bad", arguments={"x-max-length": -1}),
            ),
        ):
            await refused(connection, code, text, call)
        await channel.delete_queue(queue)


@on_both_backends
async def test_a_queue_of_another_connection(url, queue):
    async with leveret.connect(url) as one, one.channel() as channel, leveret.connect(url) as two:
        await channel.declare_queue(queue, exclusive=True)
        await refused(two, 405, "cannot obtain exclusive access", lambda other: other.declare_queue(queue))


@on_both_backends
async def test_an_error_of_the_connection_closes_all(url):
    async with leveret.connect(url) as connection:
        async with connection.channel() as one, connection.channel() as two:
            with pytest.raises(leveret.ConnectionClosed, match="540 NOT_IMPLEMENTED") as caught:
                await one._call(methods.BasicRecover(requeue=False), methods.BasicRecoverOk)
            with pytest.raises(leveret.ConnectionClosed):
                await two.declare_queue()
        assert caught.value.code == 540


@on_both_backends
async def test_questions_over_queues_are_answered_directly(url, queue):
    """Direct reply-to: the answer comes to the channel that asked."""
    async with leveret.connect(url) as here, leveret.connect(url) as there:

        async def answer(*, task_status):
            async with there.channel() as channel:
                await channel.declare_queue(queue, exclusive=True)
                async with channel.consume(queue) as questions:
                    task_status.started()
                    question = await anext(questions)
                    properties = question.properties
                    await channel.publish(
                        question.body.upper(),
                        routing_key=properties.reply_to,
                        correlation_id=properties.correlation_id,
                    )
                    await question.ack()

        async with anyio.create_task_group() as tasks, here.channel() as channel:
            await tasks.start(answer)
            async with channel.consume("amq.rabbitmq.reply-to", no_ack=True) as answers:
                await channel.publish(
                    b"hello", routing_key=queue, correlation_id="1", reply_to="amq.rabbitmq.reply-to"
                )
                message = await anext(answers)
        assert (message.body, message.properties.correlation_id) == (b"HELLO", "1")
