import socket

import anyio
import pytest

import leveret
from backends import on_both_backends, on_mock_clock
from broker.amqp import methods, wire
from broker.amqp.connection import HeaderReceived
from fake_broker import FakeBroker, Pipe, pipes, play


async def come_and_go(connect):
    async with connect():
        pass


async def open_and_close(fake):
    await fake.open()
    await fake.close()


def refused(kind, match, url="amqp://fake"):
    """A client that is refused."""

    async def client(connect):
        with pytest.raises(kind, match=match) as caught:
            async with connect(url):
                raise AssertionError("it opened")
        # The one and not the other.
        assert type(caught.value) is kind

    return client


@on_both_backends
async def test_who_we_are_is_said():
    async def client(connect):
        async with connect("amqp://us%40er:p%3Aw@fake/my%2Fhost?name=worker+7") as connection:
            assert connection.server_properties == {"product": "fake"}

    async def broker(fake):
        opened = await fake.open()
        assert fake.start_ok.mechanism == "PLAIN"
        assert fake.start_ok.response == b"\0us@er\0p:w"
        properties = fake.start_ok.client_properties
        assert properties["product"] == "leveret"
        assert properties["connection_name"] == "worker 7"
        assert properties["capabilities"] == {
            "publisher_confirms": True,
            "exchange_exchange_bindings": True,
            "basic.nack": True,
            "consumer_cancel_notify": True,
            "connection.blocked": True,
            "authentication_failure_close": True,
        }
        assert opened.virtual_host == "my/host"
        await fake.close()

    await play(client, broker)


@on_both_backends
async def test_without_a_name_none_is_said():
    async def broker(fake):
        await fake.open()
        assert "connection_name" not in fake.start_ok.client_properties
        await fake.close()

    await play(come_and_go, broker)


@on_both_backends
async def test_amqplain_where_there_is_no_plain():
    async def broker(fake):
        await fake.start(mechanisms=b"EXTERNAL AMQPLAIN")
        assert fake.start_ok.mechanism == "AMQPLAIN"
        response = fake.start_ok.response
        fields, _ = wire.read_table(len(response).to_bytes(4) + response, 0)
        assert fields == {"LOGIN": "guest", "PASSWORD": "guest"}
        await fake.tune()
        await fake.expect(methods.ConnectionOpen, 0)
        await fake.say_own(methods.ConnectionOpenOk())
        await fake.close()

    await play(come_and_go, broker)


@on_both_backends
async def test_a_mechanism_that_we_do_not_know():
    async def broker(fake):
        assert isinstance(await fake.next(0), HeaderReceived)
        await fake.say_own(methods.ConnectionStart(0, 9, {}, b"EXTERNAL GSSAPI", b"en_US"))

    await play(refused(leveret.AuthenticationFailed, "EXTERNAL GSSAPI"), broker)


@pytest.mark.parametrize(
    ("query", "offered", "agreed"),
    [
        ("", (2047, 131_072, 60), (2047, 131_072, 60)),
        ("", (0, 0, 0), (2047, 131_072, 0)),
        ("", (10, 4096, 5), (10, 4096, 5)),
        ("?channel_max=5&frame_max=8192&heartbeat=30", (2047, 131_072, 60), (5, 8192, 30)),
        ("?channel_max=5&frame_max=8192&heartbeat=30", (0, 0, 0), (5, 8192, 30)),
        ("?channel_max=5000&frame_max=200000&heartbeat=90", (2047, 131_072, 60), (2047, 131_072, 90)),
        ("?heartbeat=0", (2047, 131_072, 60), (2047, 131_072, 0)),
    ],
)
@on_both_backends
async def test_the_smaller_limit_is_agreed_on(query, offered, agreed):
    async def client(connect):
        async with connect(f"amqp://fake/{query}"):
            pass

    async def broker(fake):
        fake.channel_max, fake.frame_max, fake.heartbeat = offered
        await open_and_close(fake)
        tuned = fake.tune_ok
        assert (tuned.channel_max, tuned.frame_max, tuned.heartbeat) == agreed

    await play(client, broker)


@on_both_backends
async def test_a_frame_max_that_amqp_does_not_allow():
    async def broker(fake):
        await fake.start()
        await fake.say_own(methods.ConnectionTune(1, 1000, 0))

    await play(refused(leveret.ConnectionFailed, "frame_max of 1000"), broker)


@on_both_backends
async def test_a_wrong_password():
    async def broker(fake):
        await fake.start()
        await fake.say_own(methods.ConnectionClose(403, "ACCESS_REFUSED - Login was refused", 0, 0))
        await fake.expect(methods.ConnectionCloseOk, 0)

    await play(refused(leveret.AuthenticationFailed, "fake:5672: 403 ACCESS_REFUSED - Login"), broker)


@on_both_backends
async def test_a_broker_that_does_not_say_that_the_password_is_wrong():
    async def broker(fake):
        await fake.start()
        await fake.stream.aclose()

    await play(refused(leveret.AuthenticationFailed, "closed the socket during the handshake"), broker)


@on_both_backends
async def test_a_vhost_that_is_not_there():
    async def client(connect):
        with pytest.raises(leveret.ConnectionFailed, match="530 NOT_ALLOWED - vhost x not found") as caught:
            async with connect("amqp://fake/x"):
                raise AssertionError("it opened")
        assert caught.value.code == 530
        assert not isinstance(caught.value, leveret.AuthenticationFailed)

    async def broker(fake):
        await fake.start()
        await fake.tune()
        await fake.expect(methods.ConnectionOpen, 0)
        await fake.say_own(methods.ConnectionClose(530, "NOT_ALLOWED - vhost x not found", 10, 40))
        await fake.expect(methods.ConnectionCloseOk, 0)

    await play(client, broker)


@pytest.mark.parametrize(
    "octets",
    [b"AMQP\0\0\x09\x01", b"HTTP/1.1 400 Bad Request\r\n\r\n", methods.encode(0, methods.ConnectionOpenOk())],
    ids=["another AMQP", "HTTP", "not start"],
)
@on_both_backends
async def test_a_peer_that_speaks_something_else(octets):
    async def broker(fake):
        await fake.next(0)
        await fake.write(octets)

    await play(refused(leveret.ConnectionFailed, "does not speak AMQP 0-9-1 as we do"), broker)


@on_both_backends
async def test_a_peer_that_hangs_up_at_once():
    async def broker(fake):
        await fake.stream.aclose()

    await play(refused(leveret.ConnectionFailed, "closed the socket during the handshake"), broker)


@on_mock_clock
async def test_a_broker_that_never_answers():
    """The deadline is for the handshake as a whole."""

    async def client(connect):
        started = anyio.current_time()
        with pytest.raises(leveret.ConnectionFailed, match=r"did not finish the handshake within 2\.5 s"):
            async with connect("amqp://fake?connection_timeout=2500"):
                raise AssertionError("it opened")
        assert anyio.current_time() - started == pytest.approx(2.5)

    async def broker(fake):
        await anyio.sleep(2)
        await fake.start()

    await play(client, broker)


@on_mock_clock
async def test_a_host_that_never_answers():
    async def dial(url):
        await anyio.sleep_forever()

    with pytest.raises(leveret.ConnectionFailed, match="no connection within 10 s"):
        async with leveret.connect("amqp://far", dial=dial):
            raise AssertionError("it opened")


@on_both_backends
async def test_nobody_listens():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]

        with pytest.raises(leveret.ConnectionFailed, match=f"127.0.0.1:{port}: ") as caught:
            async with leveret.connect(f"amqp://127.0.0.1:{port}"):
                raise AssertionError("it opened")

    assert not isinstance(caught.value, OSError)


@on_both_backends
async def test_a_handshake_that_is_cancelled_leaves_no_socket():
    here, there = pipes()

    async def dial(url):
        return here

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:

            async def connect():
                async with leveret.connect("amqp://fake", dial=dial):
                    raise AssertionError("it opened")

            tasks.start_soon(connect)
            await FakeBroker(there).start()
            scope.cancel()  # while it waits for connection.tune

    with pytest.raises(anyio.EndOfStream):
        await there.receive()
    await there.aclose()


@on_both_backends
async def test_what_comes_in_one_chunk_with_the_end_of_the_handshake_counts():
    async def client(connect):
        async with connect() as connection:
            while connection.blocked is None:
                await anyio.lowlevel.checkpoint()
            assert connection.blocked == "low on disk"

    async def broker(fake):
        await fake.start()
        await fake.tune()
        await fake.expect(methods.ConnectionOpen, 0)
        blocked = methods.encode(0, methods.ConnectionBlocked("low on disk"))
        await fake.write(fake.codec.send(methods.ConnectionOpenOk()) + blocked)
        await fake.close()

    await play(client, broker)


@on_both_backends
async def test_a_handshake_in_single_octets():
    class Slow(Pipe):
        async def receive(self, max_bytes=65_536):
            return await super().receive(1)

    here, there = pipes()
    here.__class__ = Slow
    fake = FakeBroker(there)

    async def dial(url):
        return here

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(open_and_close, fake)
        async with leveret.connect("amqp://fake", dial=dial):
            pass
    await there.aclose()
