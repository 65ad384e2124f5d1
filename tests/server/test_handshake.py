"""From the protocol header to connection.open-ok, and everybody who does not get that far."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
import trio

from amqp_client import CAPABILITIES, Client, Ended, Refused
from broker.amqp import content, methods, wire
from broker.amqp.frames import FrameReader
from broker.amqp.spec import PROTOCOL_HEADER
from broker.server.amqp.options import AmqpOptions
from broker_here import BrokerHere, broker_here, until
from patience import WAIT_S

REFUSED = "ACCESS_REFUSED - Login was refused using authentication mechanism {}. For details see the broker logfile."


async def answer_to(broker: BrokerHere, octets: bytes) -> bytes:
    """All that the broker sends until it closes the socket."""
    client = await broker.dial()
    await client.write(octets)
    return await everything(client)


async def everything(client: Client) -> bytes:
    """All octets until the end of the socket."""
    received = b""
    with trio.fail_after(WAIT_S):
        while data := await client.stream.receive_some(4096):
            received += data
    return received


def start_ok(
    mechanism: str, response: bytes, capabilities: object = CAPABILITIES
) -> methods.ConnectionStartOk:
    return methods.ConnectionStartOk({"capabilities": capabilities}, mechanism, response)


def amqplain(**fields: str) -> bytes:
    """A field table without its length."""
    return wire.table(fields)[4:]


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(b"AMQP\x00\x01\x00\x00", id="AMQP 1.0"),
        pytest.param(b"AMQP\x03\x01\x00\x00", id="AMQP 1.0 with SASL"),
        pytest.param(b"AMQP\x00\x00\x08\x00", id="AMQP 0-8"),
        pytest.param(b"AMQP\x00\x00\x09\x02", id="another revision"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", id="HTTP"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
        pytest.param(bytes(range(256)), id="octets"),
        pytest.param(b"X", id="one octet"),
    ],
)
async def test_another_protocol_is_answered_with_ours_and_closed(broker, octets):
    assert await answer_to(broker, octets) == PROTOCOL_HEADER


@pytest.mark.parametrize("header", [PROTOCOL_HEADER, b"AMQP\x01\x01\x00\x09"])
async def test_the_header_may_come_octet_by_octet(broker, header):
    client = await broker.dial()
    for octet in header:
        await client.write(bytes([octet]))
    start = await client.expect(methods.ConnectionStart)
    assert (start.version_major, start.version_minor) == (0, 9)


async def test_start_says_what_clients_decide_by(broker):
    client = await broker.dial()
    await client.write(PROTOCOL_HEADER)
    start = await client.expect(methods.ConnectionStart)
    assert start.mechanisms == b"PLAIN AMQPLAIN"
    assert start.locales == b"en_US"
    properties = start.server_properties
    assert properties["product"] == "RabbitMQ"
    assert properties["version"].startswith("3.13.")
    assert properties["broker"] == "Leveret"
    assert properties["capabilities"] == {
        "publisher_confirms": True,
        "exchange_exchange_bindings": True,
        "basic.nack": True,
        "consumer_cancel_notify": True,
        "connection.blocked": True,
        "consumer_priorities": True,
        "authentication_failure_close": True,
        "per_consumer_qos": True,
        "direct_reply_to": True,
    }


async def test_product_and_version_are_settings(tmp_path):
    async with broker_here(tmp_path, product="Other", version="4.2.0") as broker:
        client = await broker.dial()
        await client.start()
        assert client.server_properties["product"] == "Other"
        assert client.server_properties["version"] == "4.2.0"


# ---- logging in ----


async def log_in(
    client: Client, mechanism: str, response: bytes, capabilities: object = CAPABILITIES
) -> None:
    await client.start()
    await client.say(start_ok(mechanism, response, capabilities))


@pytest.mark.parametrize(
    ("mechanism", "response"),
    [
        ("PLAIN", b"\0guest\0guest"),
        ("PLAIN", b"somebody\0guest\0guest"),
        ("AMQPLAIN", amqplain(LOGIN="guest", PASSWORD="guest")),
        ("AMQPLAIN", amqplain(PASSWORD="guest", LOGIN="guest")),
    ],
)
async def test_login(broker, mechanism, response):
    client = await broker.dial()
    await log_in(client, mechanism, response)
    tune = await client.expect(methods.ConnectionTune)
    assert (tune.channel_max, tune.frame_max, tune.heartbeat) == (2047, 131_072, 60)


@pytest.mark.parametrize(
    ("mechanism", "response"),
    [
        ("PLAIN", b"\0guest\0wrong"),
        ("PLAIN", b"\0nobody\0guest"),
        ("PLAIN", b"\0guest\0"),
        ("PLAIN", b"\0gu\xff\0guest"),
        ("AMQPLAIN", amqplain(LOGIN="guest", PASSWORD="wrong")),
    ],
)
async def test_a_refused_login_says_so_to_those_who_can_hear(broker, mechanism, response):
    client = await broker.dial()
    await log_in(client, mechanism, response)
    closed = await client.refused()
    assert (closed.reply_code, closed.reply_text) == (403, REFUSED.format(mechanism))
    assert (closed.class_id, closed.method_id) == (0, 0)


@pytest.mark.parametrize("capabilities", [{}, {"authentication_failure_close": False}, "nonsense"])
async def test_a_refused_login_is_only_closed_for_others(broker, capabilities):
    client = await broker.dial()
    await log_in(client, "PLAIN", b"\0guest\0wrong", capabilities)
    with pytest.raises(Ended):
        await client.next()


async def test_a_refused_login_is_not_closed_at_once(tmp_path, mock_clock):
    async with broker_here(tmp_path, refused_delay_s=3.0) as broker:
        client = await broker.dial()
        await log_in(client, "PLAIN", b"\0guest\0wrong", {})
        await until(lambda: broker.node.metrics.logins_failed)
        mock_clock.jump(2.9)
        await trio.testing.wait_all_tasks_blocked()
        assert broker.server.connection_count == 1
        mock_clock.jump(0.2)
        with pytest.raises(Ended):
            await client.next()


@pytest.mark.parametrize(
    ("mechanism", "response", "code", "text"),
    [
        ("EXTERNAL", b"", 503, "COMMAND_INVALID - unknown authentication mechanism 'EXTERNAL'"),
        ("plain", b"\0guest\0guest", 503, "COMMAND_INVALID - unknown authentication mechanism 'plain'"),
        ("PLAIN", b"guest", 502, "SYNTAX_ERROR - the response is not one of mechanism PLAIN"),
        ("PLAIN", b"\0a\0b\0c", 502, "SYNTAX_ERROR - the response is not one of mechanism PLAIN"),
        (
            "AMQPLAIN",
            amqplain(LOGIN="guest"),
            502,
            "SYNTAX_ERROR - the response is not one of mechanism AMQPLAIN",
        ),
        ("AMQPLAIN", b"\xff", 502, "SYNTAX_ERROR - a short string is longer than the arguments that hold it"),
    ],
)
async def test_a_login_that_nobody_understands(broker, mechanism, response, code, text):
    client = await broker.dial()
    await log_in(client, mechanism, response)
    closed = await client.refused()
    assert (closed.reply_code, closed.reply_text) == (code, text)
    assert (closed.class_id, closed.method_id) == methods.ConnectionStartOk.id


@pytest.mark.parametrize(
    ("peer", "allowed"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("192.0.2.1", False),
        ("::1:2", False),
        ("::ffff:192.0.2.1", False),
        ("fe80::1%eth0", False),
    ],
)
async def test_guest_comes_from_this_machine_only(broker, peer, allowed):
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    # A pair of sockets knows no TCP_NODELAY, and so is served as `accept` would, without it.
    from broker.server.amqp.connection import AmqpConnection

    connection = AmqpConnection(broker.server, ours, (peer, 50_000), ("192.0.2.9", 5672))
    broker.server._connections[connection] = None
    broker.server.pump.add(connection)
    client = Client(trio.SocketStream(trio.socket.from_stdlib_socket(theirs)))
    broker.clients.append(client)
    if allowed:
        await client.log_in("guest", "guest")
    else:
        with pytest.raises(Refused, match="403 ACCESS_REFUSED - Login was refused"):
            await client.log_in("guest", "guest")


async def test_others_come_from_anywhere(broker):
    broker.add_user("worker")
    client = await broker.connect(user="worker", password="secret")
    await client.close()


# ---- tuning ----


@pytest.mark.parametrize(
    ("tune_ok", "text"),
    [
        (
            {"frame_max": 4095},
            "negotiated frame_max = 4095 is lower than the minimum allowed value (4096)",
        ),
        (
            {"frame_max": 131_073},
            "negotiated frame_max = 131073 is higher than the maximum allowed value (131072)",
        ),
        (
            {"frame_max": 0},
            "negotiated frame_max = 0 (no limit) is higher than the maximum allowed value (131072)",
        ),
        (
            {"channel_max": 2048},
            "negotiated channel_max = 2048 is higher than the maximum allowed value (2047)",
        ),
        (
            {"channel_max": 0},
            "negotiated channel_max = 0 (no limit) is higher than the maximum allowed value (2047)",
        ),
    ],
)
async def test_tuning_beyond_the_limits(broker, tune_ok, text):
    client = await broker.dial()
    await client.log_in("guest", "guest")
    await client.tune_ok(**tune_ok)
    closed = await client.refused()
    assert (closed.reply_code, closed.reply_text) == (530, f"NOT_ALLOWED - {text}")
    assert (closed.class_id, closed.method_id) == methods.ConnectionTuneOk.id


@pytest.mark.parametrize("tuned", [{"frame_max": 4096}, {"channel_max": 1}, {"heartbeat": 65_535}])
async def test_tuning_within_the_limits(broker, tuned):
    client = await broker.connect(**tuned)
    channel = await client.channel(1)
    await channel.declare("q")
    await client.close()


async def test_a_broker_without_limits_takes_none(tmp_path):
    async with broker_here(tmp_path, frame_max=0, channel_max=0) as broker:
        client = await broker.connect(frame_max=0, channel_max=0)
        channel = await client.channel(65_535)
        await channel.declare("q")
        await channel.publish(bytes(200_000), to="q")
        message = await channel.get("q")
        assert message is not None
        assert len(message.body) == 200_000
        await client.close()


# ---- opening ----


async def test_an_unknown_virtual_host(broker):
    with pytest.raises(Refused) as refused:
        await broker.connect(vhost="nowhere")
    closed = refused.value.method
    assert (closed.reply_code, closed.reply_text) == (530, "NOT_ALLOWED - vhost nowhere not found")
    assert (closed.class_id, closed.method_id) == methods.ConnectionOpen.id


async def test_a_virtual_host_without_permission(broker):
    broker.node.topology.put_vhost("private")
    with pytest.raises(Refused) as refused:
        await broker.connect(vhost="private")
    text = "NOT_ALLOWED - access to vhost 'private' refused for user 'guest'"
    assert (refused.value.method.reply_code, refused.value.method.reply_text) == (530, text)


async def test_too_many_connections(tmp_path):
    async with broker_here(tmp_path, connection_max=1) as broker:
        first = await broker.connect()
        with pytest.raises(Refused) as refused:
            await broker.connect()
        text = "NOT_ALLOWED - connection refused: node connection limit (1) is reached"
        assert refused.value.method.reply_text == text
        await first.close()


async def test_a_deleted_virtual_host_closes_its_connections(broker):
    broker.node.topology.put_vhost("short-lived")
    broker.node.accounts.put_permission("short-lived", "guest", ".*", ".*", ".*")
    client = await broker.connect(vhost="short-lived")
    broker.node.topology.delete_vhost("short-lived")
    broker.node.end_pass()
    closed = await client.refused()
    text = "CONNECTION_FORCED - vhost 'short-lived' is deleted"
    assert (closed.reply_code, closed.reply_text) == (320, text)


# ---- in the wrong order ----

HEARTBEAT = b"\x08\0\0\0\0\0\0\xce"
PUBLISH = methods.encode(1, methods.BasicPublish()) + content.build(1, b"\0\0", b"x", 0)


@pytest.mark.parametrize(
    ("octets", "ids"),
    [
        (methods.encode(0, methods.ConnectionTuneOk(2047, 131_072, 0)), (10, 31)),
        (methods.encode(0, methods.ConnectionOpen("/")), (10, 40)),
        (methods.encode(1, methods.ChannelOpen()), (20, 10)),
        (PUBLISH, (60, 40)),
    ],
)
async def test_a_method_before_its_time(broker, octets, ids):
    client = await broker.dial()
    await client.start()
    await client.write(octets)
    closed = await client.refused()
    text = "CHANNEL_ERROR - unexpected method in connection state starting"
    assert (closed.reply_code, closed.reply_text) == (504, text)


async def test_parts_of_messages_are_not_kept_for_strangers(broker):
    client = await broker.dial()
    await client.start()
    await client.write(methods.encode(1, methods.BasicPublish()))
    closed = await client.refused()
    assert closed.reply_text == "CHANNEL_ERROR - unexpected method in connection state starting"


@pytest.mark.parametrize(("size", "refused"), [(4096, False), (4097, True), (65_536, True)])
async def test_a_frame_before_tuning_has_up_to_4096_octets(broker, size, refused):
    """And the eight around them, as RabbitMQ lets them pass."""
    client = await broker.dial()
    await client.start()
    properties = {"capabilities": CAPABILITIES, "padding": ""}
    given = methods.ConnectionStartOk(properties, "PLAIN", b"\0guest\0guest")
    properties["padding"] = "x" * (size + 8 - len(methods.encode(0, given)))
    frame = client.codec.send(given)
    assert len(frame) == size + 8
    await client.write(frame)
    if not refused:
        await client.expect(methods.ConnectionTune)
        return
    closed = await client.refused()
    assert closed.reply_code == 501
    assert f"frame_too_large,{size},4088" in closed.reply_text


async def test_two_logins_in_one_write(broker):
    broker.add_user("other")
    client = await broker.dial()
    await client.start()
    first = methods.encode(0, start_ok("PLAIN", b"\0guest\0guest"))
    second = methods.encode(0, start_ok("PLAIN", b"\0other\0secret"))
    await client.write(first + second)
    client.codec.state = client.codec.state.TUNE
    assert isinstance(await client.next(), methods.ConnectionTune)
    closed = await client.refused()
    assert closed.reply_text == "CHANNEL_ERROR - unexpected method in connection state tuning"


async def test_open_twice_in_one_write(broker):
    client = await broker.dial()
    await client.log_in("guest", "guest")
    await client.tune_ok()
    await client.write(methods.encode(0, methods.ConnectionOpen("/")) * 2)
    client.codec.state = client.codec.state.OPEN_OK
    await client.expect(methods.ConnectionOpenOk)
    closed = await client.refused()
    assert closed.reply_text == "CHANNEL_ERROR - unexpected method in connection state running"
    assert broker.node.metrics.connections_opened == 1


@pytest.mark.parametrize("stage", ["start", "login", "tune"])
async def test_close_is_answered_at_any_stage(broker, stage):
    client = await broker.dial()
    await client.start()
    if stage != "start":
        await client.say(start_ok("PLAIN", b"\0guest\0guest"))
    if stage == "tune":
        client.tune = await client.expect(methods.ConnectionTune)
        await client.tune_ok()
    await client.say(methods.ConnectionClose(200, "never mind", 0, 0))
    while not isinstance(await client.next(), methods.ConnectionCloseOk):
        pass
    await client.ended()
    assert broker.server.connection_count == 0


async def test_a_client_may_say_everything_at_once(broker):
    client = await broker.dial()
    said = [
        methods.encode(0, start_ok("PLAIN", b"\0guest\0guest")),
        TUNE_OK,
        methods.encode(0, methods.ConnectionOpen("/")),
        methods.encode(1, methods.ChannelOpen()),
        methods.encode(1, methods.QueueDeclare(queue="q")),
        methods.encode(0, methods.ConnectionClose(200, "bye", 0, 0)),
    ]
    await client.write(PROTOCOL_HEADER + b"".join(said))
    events = FrameReader(1 << 20).read(await everything(client))
    assert [event.method.name for event in events] == [
        "connection.start",
        "connection.tune",
        "connection.open-ok",
        "channel.open-ok",
        "queue.declare-ok",
        "connection.close-ok",
    ]


# ---- too slowly ----

TUNE_OK = methods.encode(0, methods.ConnectionTuneOk(2047, 131_072, 0))


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"AMQ",
        PROTOCOL_HEADER,
        PROTOCOL_HEADER + b"\x01\0\0",
        PROTOCOL_HEADER + methods.encode(0, start_ok("PLAIN", b"\0guest\0guest")),
        PROTOCOL_HEADER + methods.encode(0, start_ok("PLAIN", b"\0guest\0guest")) + TUNE_OK,
        PROTOCOL_HEADER + HEARTBEAT,
    ],
)
async def test_a_slow_handshake_is_closed_at_its_deadline(tmp_path, mock_clock, said):
    async with broker_here(tmp_path, handshake_timeout_s=10.0) as broker:
        client = await broker.dial()
        await client.write(said)
        await until(lambda: broker.server.connection_count)
        mock_clock.jump(9.9)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert broker.server.connection_count == 1
        mock_clock.jump(0.2)
        await everything(client)
        assert broker.server.connection_count == 0


async def test_an_open_connection_has_no_deadline(tmp_path, mock_clock):
    async with broker_here(tmp_path, handshake_timeout_s=10.0) as broker:
        client = await broker.connect()
        mock_clock.jump(1000)
        channel = await client.channel(1)
        assert await channel.came() == []
        await client.close()


def test_options_have_rabbitmqs_defaults():
    options = AmqpOptions()
    assert replace(options) == options
    assert (options.channel_max, options.frame_max, options.heartbeat_s) == (2047, 131_072, 60)
    assert options.handshake_timeout_s == 10
    assert options.message_size_max == 128 * 1024 * 1024
    assert options.loopback_users == {"guest"}
