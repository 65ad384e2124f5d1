"""How connections live and end: heartbeats, closing from both sides, and what happens to those who wait."""

import anyio
import pytest

import leveret
from backends import on_both_backends, on_mock_clock
from broker.amqp import content, methods
from broker.amqp.frames import HEARTBEAT_FRAME
from broker.amqp.spec import FRAME_END
from fake_broker import play
from process import BrokerProcess


async def closed(call, *arguments, match, code=None):
    """It ends with ConnectionClosed."""
    with pytest.raises(leveret.ConnectionClosed, match=match) as caught:
        await call(*arguments)
    assert caught.value.code == code


# ---- heartbeats ----


@on_mock_clock
async def test_silence_of_ours_is_filled_with_heartbeats():
    async def client(connect):
        async with connect():
            await anyio.sleep(24)

    async def broker(fake):
        await fake.open()
        for seconds in (10, 5, 5):
            started = anyio.current_time()
            assert await fake.stream.receive() == HEARTBEAT_FRAME
            assert anyio.current_time() - started == pytest.approx(seconds)
        await fake.close()

    await play(client, broker, heartbeat=10)


@on_mock_clock
async def test_the_silence_of_the_broker_ends_the_connection():
    async def client(connect):
        async with connect() as connection, connection.channel() as channel:
            started = anyio.current_time()
            await closed(channel.declare_queue, match="said nothing for more than two heartbeats of 10 s")
            assert 20 < anyio.current_time() - started <= 30

    async def broker(fake):
        await fake.open()
        await fake.open_channel()
        with pytest.raises(anyio.EndOfStream):
            await swallow(fake.stream)

    await play(client, broker, heartbeat=10)


async def swallow(stream):
    while True:
        await stream.receive()


@on_mock_clock
async def test_heartbeats_of_the_broker_keep_the_connection():
    async def client(connect):
        async with connect() as connection, connection.channel() as channel:
            await anyio.sleep(205)
            assert (await channel.declare_queue("q")).name == "q"

    async def broker(fake):
        await fake.open()
        await fake.open_channel()
        async with anyio.create_task_group() as tasks:

            async def beat():
                while True:
                    await anyio.sleep(20)
                    await fake.write(HEARTBEAT_FRAME)

            tasks.start_soon(beat)
            await fake.expect(methods.QueueDeclare)
            await fake.say(methods.QueueDeclareOk("q", 0, 0))
            await fake.close_channel()
            await fake.close()
            tasks.cancel_scope.cancel()

    await play(client, broker, heartbeat=10)


@on_mock_clock
async def test_without_heartbeats_silence_is_nothing():
    async def client(connect):
        async with connect("amqp://fake?heartbeat=0") as connection:
            await anyio.sleep(80_000)
            async with connection.channel():
                pass

    async def broker(fake):
        await fake.open()
        await fake.open_channel()
        await fake.close_channel()
        await fake.close()

    await play(client, broker, heartbeat=10)


# ---- closing ----


@on_both_backends
async def test_goodbye_is_said_and_answered():
    async def client(connect):
        async with connect():
            pass

    async def broker(fake):
        await fake.open()
        method = await fake.expect(methods.ConnectionClose, 0)
        assert (method.reply_code, method.reply_text) == (200, "goodbye")
        await fake.say_own(methods.ConnectionCloseOk())
        with pytest.raises(anyio.EndOfStream):
            await fake.stream.receive()

    await play(client, broker)


@on_mock_clock
async def test_a_goodbye_that_is_not_answered_is_waited_for_not_long():
    async def client(connect):
        async with connect():
            started = anyio.current_time()
        assert anyio.current_time() - started == pytest.approx(3)

    async def broker(fake):
        await fake.open()
        await fake.expect(methods.ConnectionClose, 0)

    await play(client, broker)


@on_mock_clock
async def test_a_broker_that_does_not_read_cannot_hold_us():
    async def client(connect):
        async with connect() as connection, connection.channel() as channel:
            async with anyio.create_task_group() as tasks:
                for _ in range(30):
                    tasks.start_soon(publish_in_vain, channel)
                await anyio.sleep(1)
                tasks.cancel_scope.cancel()
            started = anyio.current_time()
        assert anyio.current_time() - started <= 6

    async def publish_in_vain(channel):
        await channel.publish(b"x" * 100_000, routing_key="q")

    async def broker(fake):
        await fake.open()
        await fake.open_channel()

    await play(client, broker)


@on_both_backends
async def test_an_error_in_the_block_goes_on_as_it_is():
    async def client(connect):
        error = ValueError("mine")
        with pytest.raises(ValueError, match="mine") as caught:
            async with connect() as connection, connection.channel():
                raise error from KeyError("cause")
        assert caught.value is error
        assert isinstance(caught.value.__cause__, KeyError)

    async def broker(fake):
        await fake.open()
        await fake.open_channel()
        await fake.close_channel()
        await fake.close()

    await play(client, broker)


@on_both_backends
async def test_a_group_of_errors_in_the_block_goes_on_as_it_is():
    async def client(connect):
        with pytest.RaisesGroup(ValueError, KeyError, match="mine"):
            async with connect():
                raise ExceptionGroup("mine", [ValueError("a"), KeyError("b")])

    async def broker(fake):
        await fake.open()
        await fake.close()

    await play(client, broker)


@on_both_backends
async def test_a_block_that_is_cancelled_still_says_goodbye():
    async def client(connect):
        with anyio.CancelScope() as scope:
            async with connect() as connection, connection.channel():
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught

    async def broker(fake):
        await fake.open()
        await fake.open_channel()
        await fake.close_channel()
        await fake.close()

    await play(client, broker)


@on_both_backends
async def test_a_connection_is_opened_once():
    async def client(connect):
        connection = connect()
        with pytest.raises(RuntimeError, match="not open"):
            connection.channel()
        async with connection:
            with pytest.raises(RuntimeError, match="opened once"):
                await connection.__aenter__()
        with pytest.raises(RuntimeError, match="opened once"):
            await connection.__aenter__()

    async def broker(fake):
        await fake.open()
        await fake.close()

    await play(client, broker)


@on_both_backends
async def test_after_the_end_nothing_works():
    kept = []

    async def client(connect):
        async with connect() as connection, connection.channel() as channel:
            kept.append(channel)
        text = "closed by this side"
        with pytest.raises(leveret.ChannelClosed, match=text):
            await channel.declare_queue()
        with pytest.raises(leveret.ChannelClosed, match=text):
            await channel.publish(b"")
        with pytest.raises(leveret.ChannelClosed, match=text):
            await anext(channel.consume("q"))
        with pytest.raises(leveret.ConnectionClosed, match=text):
            async with connection.channel():
                pass

    async def broker(fake):
        await fake.open()
        await fake.open_channel()
        await fake.close_channel()
        await fake.close()

    await play(client, broker)


# ---- the broker ends it, or the network does ----


async def wait_in_every_way(connection, match, code):
    """Somebody waits for each thing that can be waited for; all hear the same."""
    async with connection.channel() as channel, connection.channel() as other:
        await channel.publish(b"first")
        async with other.consume("q") as messages, anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: closed(channel.declare_queue, match=match, code=code))
            tasks.start_soon(lambda: closed(channel.get, "q", match=match, code=code))
            tasks.start_soon(lambda: closed(channel.publish, b"", match=match, code=code))
            tasks.start_soon(lambda: closed(other.publish_many, [b""] * 10, match=match, code=code))
            tasks.start_soon(lambda: closed(connection.channel().__aenter__, match=match, code=code))
            tasks.start_soon(lambda: closed(anext, channel.consume("q"), match=match, code=code))
            tasks.start_soon(lambda: closed(anext, messages, match=match, code=code))
    await closed(channel.declare_queue, match=match, code=code)
    await closed(connection.channel().__aenter__, match=match, code=code)
    await closed(anext, messages, match=match, code=code)


async def open_for_those_who_wait(fake):
    """Up to the point where all of them wait."""
    await fake.open()
    await fake.open_channel(1)
    await fake.open_channel(2)
    await fake.expect(methods.ConfirmSelect)
    await fake.published()
    await fake.say(methods.BasicAck(1, False))
    await fake.expect(methods.BasicQos, 2)
    await fake.expect(methods.BasicConsume, 2)
    await fake.say(methods.BasicQosOk(), methods.BasicConsumeOk("leveret-2-1"), channel=2)
    waiting = []
    while not {"queue.declare", "basic.get", "basic.consume", "channel.open"} <= set(waiting):
        came = await fake.next()
        waiting.append(getattr(came, "name", ""))


@on_both_backends
async def test_the_broker_closes_the_connection():
    async def client(connect):
        async with connect() as connection:
            await wait_in_every_way(connection, "^320 CONNECTION_FORCED - shutdown$", 320)

    async def broker(fake):
        await open_for_those_who_wait(fake)
        await fake.say_own(methods.ConnectionClose(320, "CONNECTION_FORCED - shutdown", 0, 0))
        while not isinstance(await fake.next(), methods.ConnectionCloseOk):
            pass

    await play(client, broker)


@on_both_backends
async def test_the_socket_is_closed():
    async def client(connect):
        async with connect() as connection:
            await wait_in_every_way(connection, "closed the socket without saying why", None)

    async def broker(fake):
        await open_for_those_who_wait(fake)
        await fake.stream.aclose()

    await play(client, broker)


@on_both_backends
async def test_the_broker_process_is_killed(tmp_path):
    with BrokerProcess(tmp_path) as process:
        async with leveret.connect(process.url) as connection, connection.channel() as channel:
            await channel.declare_queue("q")
            async with channel.consume("q") as messages:
                process.kill()
                await closed(anext, messages, match="closed the socket|was lost")
            await closed(channel.publish, b"", match="closed the socket|was lost")


@on_both_backends
async def test_the_broker_process_is_stopped(tmp_path):
    with BrokerProcess(tmp_path) as process:
        async with leveret.connect(process.url) as connection, connection.channel() as channel:
            stopped = anyio.Event()

            async def stop():
                assert await anyio.to_thread.run_sync(process.stop) == 0
                stopped.set()

            async with anyio.create_task_group() as tasks:
                await channel.declare_queue("q")
                messages = channel.consume("q")
                tasks.start_soon(stop)
                await closed(anext, messages, match="320 CONNECTION_FORCED", code=320)
                await stopped.wait()


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (b"\x09\0\0\0\0\0\0\xce", 501),
        (b"HTTP/1.1 200 OK\r\n\r\n", 501),
        (b"\x01\0\x01\xff\xff\xff\xff\0", 501),
        (methods.encode(1, methods.QueueDeclareOk("q", 0, 0)), 505),
        (methods.encode(1, methods.BasicCancelOk("leveret-1-1")), 505),
        (methods.encode(7, methods.QueueDeclareOk("q", 0, 0)), 504),
        (methods.encode(0, methods.ConnectionOpenOk()), 504),
        (methods.encode(1, methods.QueueDeclareOk("q", 0, 0))[:-1] + b"\0", 501),
        (b"\x02\0\x01\0\0\0\x0e\0\x3c\0\0\0\0\0\0\0\0\0\0\0\0\xce", 505),
        (methods.encode(1, methods.BasicDeliver("ghost", 1)) + content.build(1, b"\0\0", b"", 4096), 504),
        (methods.encode(1, methods.BasicGetOk(1)) + content.build(1, b"\0\0", b"", 4096), 505),
        (
            methods.encode(1, methods.BasicReturn())
            + b"\x02\0\x01\0\0\0\x0e\0\x3c\0\0\0\0\0\x7f\0\0\0\0\0\0"
            + bytes([FRAME_END]),
            506,
        ),
    ],
    ids=[
        "unknown frame",
        "not AMQP",
        "oversize frame",
        "answer to nothing",
        "answer about a consumer",
        "closed channel",
        "wrong state",
        "frame end",
        "header alone",
        "unknown consumer",
        "message to nobody",
        "too large",
    ],
)
@on_both_backends
async def test_what_breaks_the_rules_ends_the_connection(octets, code):
    async def client(connect):
        async with connect() as connection, connection.channel() as channel:
            await closed(anext, channel.consume("q"), match="the broker broke a rule", code=code)

    async def broker(fake):
        await fake.open()
        await fake.open_channel()
        await fake.expect(methods.BasicQos)
        await fake.expect(methods.BasicConsume)
        await fake.say(methods.BasicQosOk(), methods.BasicConsumeOk("leveret-1-1"))
        await fake.write(octets)
        assert (await fake.expect(methods.ConnectionClose, 0)).reply_code == code
        await fake.say_own(methods.ConnectionCloseOk())

    await play(client, broker)


# ---- blocked ----


@on_both_backends
async def test_publishing_waits_while_the_connection_is_blocked():
    async def client(connect):
        async with connect() as connection, connection.channel() as channel:
            await channel.publish(b"first")
            assert connection.blocked == "low on memory"
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(channel.publish, b"second")
                await channel.declare_queue("not held up")
                await channel.declare_queue("and not sent before")
            assert connection.blocked is None

    async def broker(fake):
        await fake.open()
        await fake.open_channel()
        await fake.expect(methods.ConfirmSelect)
        await fake.published()
        await fake.say_own(methods.ConnectionBlocked("low on memory"))
        await fake.say(methods.BasicAck(1, False))
        await fake.expect(methods.QueueDeclare)
        await fake.say(methods.QueueDeclareOk())
        await fake.expect(methods.QueueDeclare)
        await fake.say(methods.QueueDeclareOk())
        await fake.say_own(methods.ConnectionUnblocked())
        assert (await fake.published()).body == b"second"
        await fake.say(methods.BasicAck(2, False))
        await fake.close_channel()
        await fake.close()

    await play(client, broker)


@on_both_backends
async def test_publishing_many_waits_while_the_connection_is_blocked():
    async def client(connect):
        async with connect() as connection, connection.channel() as channel:
            assert await channel.publish_many([b"%d" % number for number in range(6)], window=2) == 6

    async def broker(fake):
        await fake.open()
        await fake.open_channel()
        await fake.expect(methods.ConfirmSelect)
        await fake.published()
        await fake.published()
        await fake.say_own(methods.ConnectionBlocked("low on disk"))
        await fake.say(methods.BasicAck(2, True))
        assert await fake.silent()
        await fake.say_own(methods.ConnectionUnblocked())
        for number in range(3, 7):
            assert (await fake.published()).body == b"%d" % (number - 1)
            await fake.say(methods.BasicAck(number, False))
        await fake.close_channel()
        await fake.close()

    await play(client, broker)


@on_both_backends
async def test_a_blocked_publisher_hears_that_the_connection_is_closed():
    async def client(connect):
        async with connect() as connection, connection.channel() as channel:
            while connection.blocked is None:
                await anyio.lowlevel.checkpoint()
            await closed(channel.publish, b"", match="320 over", code=320)

    async def broker(fake):
        await fake.open()
        await fake.open_channel()
        await fake.say_own(methods.ConnectionBlocked("low on memory"))
        await anyio.wait_all_tasks_blocked()
        await fake.say_own(methods.ConnectionClose(320, "over", 0, 0))
        await fake.expect(methods.ConnectionCloseOk, 0)

    await play(client, broker)
