"""pika's BlockingConnection against a real broker.

Limits: a call that blocks for ever is ended by the module's timeout.
"""

from __future__ import annotations

import signal

import pika
import pytest
from pika.exceptions import (
    AMQPConnectionError,
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    NackError,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
    UnroutableError,
)

from patience import WAIT_S

PERSISTENT = pika.BasicProperties(delivery_mode=2)


def connect(broker, **options):
    host, port = broker.amqp
    return pika.BlockingConnection(pika.ConnectionParameters(host, port, **options))


@pytest.fixture
def connection(broker):
    connection = connect(broker)
    yield connection
    if connection.is_open:
        connection.close()


@pytest.fixture
def channel(connection):
    return connection.channel()


def deliveries(channel, queue, count, **options):
    """The next `count` messages: (method, properties, body) of each."""
    found = []
    for method, properties, body in channel.consume(queue, inactivity_timeout=WAIT_S, **options):
        assert method is not None, f"{len(found)} of {count} messages came"
        found.append((method, properties, body))
        if len(found) == count:
            return found
    raise AssertionError("the consumer was cancelled")


def refusal(channel, call, *arguments, **options):
    """The code and text with which the broker closes the channel."""
    with pytest.raises(ChannelClosedByBroker) as caught:
        getattr(channel, call)(*arguments, **options)
    return caught.value.reply_code, caught.value.reply_text


# ---- publishing ----


def test_a_message_comes_back_as_it_went(channel, queue):
    sent = pika.BasicProperties(
        content_type="application/json",
        content_encoding="utf-8",
        headers={
            "number": 1,
            "text": "ü",
            "list": [1, "a", None, True],
            "table": {"x": b"\0\xff", "big": 1 << 40},
        },
        delivery_mode=2,
        priority=5,
        correlation_id="c",
        reply_to="r",
        message_id="m",
        timestamp=1_700_000_000,
        type="t",
        user_id="guest",
        app_id="a",
    )
    channel.queue_declare(queue, durable=True)
    channel.basic_publish("", queue, b"{}", sent)
    method, properties, body = channel.basic_get(queue, auto_ack=True)
    assert (method.exchange, method.routing_key, method.redelivered) == ("", queue, False)
    assert properties == sent
    assert body == b"{}"


@pytest.mark.parametrize("size", [0, 1, 131_064, 131_065, 1_000_000])
def test_bodies_of_any_size(channel, queue, size):
    body = bytes(range(256)) * (size // 256 + 1)
    channel.queue_declare(queue, exclusive=True)
    channel.basic_publish("", queue, body[:size])
    assert channel.basic_get(queue, auto_ack=True)[2] == body[:size]


def test_a_confirm_comes_when_the_message_is_there(channel, queue):
    channel.confirm_delivery()
    channel.queue_declare(queue, durable=True)
    for number in range(20):
        channel.basic_publish("", queue, b"%d" % number, PERSISTENT)
    assert channel.queue_declare(queue, passive=True).method.message_count == 20


def test_a_mandatory_message_without_a_queue_is_returned(channel):
    channel.confirm_delivery()
    with pytest.raises(UnroutableError) as caught:
        channel.basic_publish("", "nowhere", b"lost", mandatory=True)
    (returned,) = caught.value.messages
    assert (returned.method.reply_code, returned.method.reply_text) == (312, "NO_ROUTE")
    assert (returned.method.exchange, returned.method.routing_key) == ("", "nowhere")
    assert returned.body == b"lost"


def test_a_message_for_a_full_queue_is_refused(channel, queue):
    channel.confirm_delivery()
    channel.queue_declare(queue, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    channel.basic_publish("", queue, b"first")
    with pytest.raises(NackError):
        channel.basic_publish("", queue, b"second")
    assert channel.basic_get(queue, auto_ack=True)[2] == b"first"
    channel.queue_delete(queue)


def test_a_transaction_is_all_or_nothing(channel, queue):
    channel.queue_declare(queue, durable=True)
    channel.tx_select()
    channel.basic_publish("", queue, b"rolled back", PERSISTENT)
    channel.tx_rollback()
    channel.basic_publish("", queue, b"committed", PERSISTENT)
    assert channel.basic_get(queue)[0] is None
    channel.tx_commit()
    assert channel.basic_get(queue)[2] == b"committed"


# ---- consuming ----


def test_at_most_prefetch_messages_are_on_their_way(channel, queue):
    channel.queue_declare(queue)
    for number in range(5):
        channel.basic_publish("", queue, b"%d" % number)
    channel.basic_qos(prefetch_count=2)
    came = []
    channel.basic_consume(queue, lambda channel, method, properties, body: came.append((method, body)))
    while len(came) < 2:
        channel.connection.process_data_events(time_limit=WAIT_S)
    # The answer to this comes behind all that the broker sent: no third one was among it.
    assert channel.queue_declare(queue, passive=True).method.message_count == 3
    channel.connection.process_data_events(time_limit=0)
    assert [body for _, body in came] == [b"0", b"1"]
    channel.basic_ack(came[1][0].delivery_tag, multiple=True)
    while len(came) < 4:
        channel.connection.process_data_events(time_limit=WAIT_S)
    assert [body for _, body in came] == [b"0", b"1", b"2", b"3"]
    channel.queue_delete(queue)


@pytest.mark.parametrize("refuse", ["basic_nack", "basic_reject"])
def test_what_is_given_back_comes_again_and_says_so(channel, queue, refuse):
    channel.queue_declare(queue)
    for body in (b"first", b"second"):
        channel.basic_publish("", queue, body)
    method, _, body = channel.basic_get(queue)
    assert (body, method.redelivered) == (b"first", False)
    getattr(channel, refuse)(method.delivery_tag, requeue=True)
    method, _, body = channel.basic_get(queue)
    assert (body, method.redelivered) == (b"first", True)
    getattr(channel, refuse)(method.delivery_tag, requeue=False)
    method, _, body = channel.basic_get(queue, auto_ack=True)
    assert (body, method.redelivered) == (b"second", False)
    assert channel.basic_get(queue)[0] is None
    channel.queue_delete(queue)


def test_many_are_given_back_at_once(channel, queue):
    channel.queue_declare(queue)
    for number in range(10):
        channel.basic_publish("", queue, b"%d" % number)
    found = deliveries(channel, queue, 10)
    channel.basic_nack(found[-1][0].delivery_tag, multiple=True, requeue=True)
    again = deliveries(channel, queue, 10)
    assert [body for _, _, body in again] == [body for _, _, body in found]
    assert all(method.redelivered for method, _, _ in again)
    channel.cancel()
    channel.queue_delete(queue)


def test_what_a_closed_channel_did_not_acknowledge_comes_again(connection, channel, queue):
    channel.queue_declare(queue)
    channel.basic_publish("", queue, b"kept")
    assert channel.basic_get(queue)[2] == b"kept"
    channel.close()
    other = connection.channel()
    method, _, body = other.basic_get(queue)
    assert (body, method.redelivered) == (b"kept", True)
    other.queue_delete(queue)


def test_a_consumer_is_told_when_its_queue_is_deleted(broker, channel, queue):
    channel.queue_declare(queue)
    cancelled = []
    channel.add_on_cancel_callback(cancelled.append)
    tag = channel.basic_consume(queue, lambda *message: None)
    other = connect(broker)
    other.channel().queue_delete(queue)
    other.close()
    channel.start_consuming()  # returns when no consumer is left
    assert [frame.method.consumer_tag for frame in cancelled] == [tag]


def test_exclusive_queues_are_their_connections_and_go_with_it(broker, queue):
    owner, other = connect(broker), connect(broker)
    owner.channel().queue_declare(queue, exclusive=True)
    text = (
        f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}' in vhost '/'. It could "
        "be originally declared on another connection or the exclusive property value does not match that "
        "of the original declaration."
    )
    assert refusal(other.channel(), "queue_declare", queue, exclusive=True) == (405, text[:255])
    owner.close()
    assert other.channel().queue_declare(queue, exclusive=True).method.message_count == 0
    other.close()


def test_an_exclusive_consumer_is_the_only_one(connection, channel, queue):
    channel.queue_declare(queue)
    channel.basic_consume(queue, lambda *message: None, exclusive=True)
    code, text = refusal(connection.channel(), "basic_consume", queue, lambda *message: None)
    assert code == 403
    assert text == f"ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use"
    channel.queue_delete(queue)


def test_a_consumer_that_its_own_publisher_feeds(channel, queue):
    channel.queue_declare(queue)
    channel.basic_qos(prefetch_count=10)
    channel.basic_publish("", queue, b"0")
    for method, _, body in channel.consume(queue, inactivity_timeout=WAIT_S):
        assert method is not None
        channel.basic_ack(method.delivery_tag)
        if body == b"200":
            break
        channel.basic_publish("", queue, b"%d" % (int(body) + 1))
    assert channel.cancel() == 0
    channel.queue_delete(queue)


def test_direct_reply_to(broker, queue):
    server, client = connect(broker), connect(broker)
    serving = server.channel()
    serving.queue_declare(queue, exclusive=False, auto_delete=True)
    asking = client.channel()
    answers = []
    asking.basic_consume("amq.rabbitmq.reply-to", lambda *message: answers.append(message[3]), auto_ack=True)
    properties = pika.BasicProperties(reply_to="amq.rabbitmq.reply-to")
    asking.basic_publish("", queue, b"question", properties)
    ((_, properties, body),) = deliveries(serving, queue, 1, auto_ack=True)
    assert properties.reply_to.startswith("amq.rabbitmq.reply-to.")
    serving.basic_publish("", properties.reply_to, b"answer to " + body)
    while not answers:
        client.process_data_events(time_limit=WAIT_S)
    assert answers == [b"answer to question"]
    server.close()
    client.close()


# ---- errors ----


@pytest.mark.parametrize(
    ("call", "arguments", "code", "text"),
    [
        ("queue_declare", {"passive": True}, 404, "NOT_FOUND - no queue '{queue}' in vhost '/'"),
        ("basic_get", {}, 404, "NOT_FOUND - no queue '{queue}' in vhost '/'"),
        ("queue_purge", {}, 404, "NOT_FOUND - no queue '{queue}' in vhost '/'"),
        ("queue_bind", {"exchange": "amq.direct"}, 404, "NOT_FOUND - no queue '{queue}' in vhost '/'"),
        ("exchange_declare", {"passive": True}, 404, "NOT_FOUND - no exchange '{queue}' in vhost '/'"),
    ],
)
def test_what_is_not_there(channel, queue, call, arguments, code, text):
    assert refusal(channel, call, queue, **arguments) == (code, text.format(queue=queue))


def test_publishing_to_an_exchange_that_is_not_there(channel):
    channel.confirm_delivery()
    expected = (404, "NOT_FOUND - no exchange 'absent' in vhost '/'")
    assert refusal(channel, "basic_publish", "absent", "key", b"") == expected


def test_a_queue_is_declared_again_as_it_is_or_not_at_all(connection, channel, queue):
    channel.queue_declare(queue, durable=True)
    assert refusal(channel, "queue_declare", queue, durable=False) == (
        406,
        f"PRECONDITION_FAILED - inequivalent arg 'durable' for queue '{queue}' in vhost '/': "
        "received 'false' but current is 'true'",
    )
    code, text = refusal(
        connection.channel(), "queue_declare", queue, durable=True, arguments={"x-message-ttl": 5}
    )
    assert code == 406
    assert text == (
        f"PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue '{queue}' in vhost '/': "
        "received the value '5' of type 'signedint' but current is none"
    )
    connection.channel().queue_delete(queue)


def test_a_delivery_tag_is_acknowledged_once(channel, queue):
    channel.queue_declare(queue, exclusive=True)
    channel.basic_ack(7)
    code, text = refusal(channel, "queue_declare", queue, passive=True)
    assert (code, text) == (406, "PRECONDITION_FAILED - unknown delivery tag 7")


def test_the_other_channels_outlive_an_error(connection, channel, queue):
    other = connection.channel()
    refusal(channel, "queue_declare", queue, passive=True)
    other.queue_declare(queue, exclusive=True)
    other.basic_publish("", queue, b"alive")
    assert other.basic_get(queue, auto_ack=True)[2] == b"alive"


def test_a_wrong_password(broker):
    with pytest.raises(ProbableAuthenticationError) as caught:
        connect(broker, credentials=pika.PlainCredentials("guest", "wrong"))
    assert "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN" in str(caught.value)


def test_a_virtual_host_that_is_not_there(broker):
    with pytest.raises(ProbableAccessDeniedError) as caught:
        connect(broker, virtual_host="absent")
    assert "(530) 'NOT_ALLOWED - vhost absent not found'" in str(caught.value)


# ---- the broker ends ----


def test_confirmed_messages_are_there_after_a_crash(own_broker):
    connection = connect(own_broker)
    channel = connection.channel()
    channel.confirm_delivery()
    channel.exchange_declare("events", exchange_type="topic", durable=True)
    channel.queue_declare("kept", durable=True)
    channel.queue_bind("kept", "events", "a.*")
    channel.queue_declare("transient")
    for number in range(50):
        channel.basic_publish("events", "a.b", b"%d" % number, PERSISTENT, mandatory=True)
    own_broker.kill()
    with pytest.raises(AMQPConnectionError):
        connection.process_data_events(time_limit=WAIT_S)
    own_broker.start()

    with connect(own_broker) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("events", "a.c", b"50", PERSISTENT, mandatory=True)
        found = deliveries(channel, "kept", 51)
        assert [int(body) for _, _, body in found] == list(range(51))
        expected = (404, "NOT_FOUND - no queue 'transient' in vhost '/'")
        assert refusal(channel, "queue_declare", "transient", passive=True) == expected


def test_an_orderly_stop_keeps_durable_messages_and_tells_clients(own_broker):
    connection = connect(own_broker)
    channel = connection.channel()
    channel.queue_declare("kept", durable=True)
    channel.basic_publish("", "kept", b"persistent", PERSISTENT)
    channel.basic_publish("", "kept", b"transient")
    channel.basic_consume("kept", lambda *message: None)
    own_broker.process.send_signal(signal.SIGTERM)
    with pytest.raises(ConnectionClosedByBroker) as caught:
        channel.start_consuming()
    assert caught.value.reply_code == 320
    assert (
        caught.value.reply_text
        == "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'"
    )
    assert own_broker.wait() == 0
    own_broker.start()

    with connect(own_broker) as connection:
        channel = connection.channel()
        method, _, body = channel.basic_get("kept", auto_ack=True)
        assert (body, method.redelivered) == (b"persistent", True)
        assert channel.basic_get("kept")[0] is None
