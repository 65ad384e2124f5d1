"""kombu on py-amqp, what Celery stands on, against a real broker."""

from __future__ import annotations

import pytest
from amqp.exceptions import AccessRefused, ConsumerCancelled, NotFound, PreconditionFailed
from kombu import Connection, Consumer, Exchange, Producer, Queue

from patience import WAIT_S


@pytest.fixture
def connection(broker):
    with Connection(broker.url, transport_options={"confirm_publish": True}) as connection:
        yield connection


@pytest.fixture
def channel(connection):
    return connection.channel()


def received(connection, channel, queue, count, **options):
    """Consume so many, each acknowledged: what was in them."""
    found = []

    def note(body, message):
        found.append(body)
        message.ack()

    with Consumer(channel, [queue], callbacks=[note], **options):
        while len(found) < count:
            connection.drain_events(timeout=WAIT_S)
    return found


def test_it_takes_the_broker_for_one_whose_prefetch_it_may_change(connection):
    connection.connect()
    assert connection.qos_semantics_matches_spec is False
    properties = connection.connection.server_properties
    assert properties["product"] == "RabbitMQ"


@pytest.mark.parametrize("serializer", ["json", "pickle"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_publish_and_consume(connection, channel, queue, serializer, compression):
    exchange = Exchange(queue, "topic", channel=channel, auto_delete=True)
    bound = Queue(queue, exchange, routing_key="a.#", channel=channel, exclusive=True)
    producer = Producer(channel, exchange, serializer=serializer, compression=compression)
    bound.declare()
    sent = [{"number": number, "text": "ü" * 100} for number in range(20)]
    for body in sent:
        producer.publish(body, routing_key="a.b.c")
    assert received(connection, channel, bound, 20, accept=[serializer], prefetch_count=5) == sent


def test_a_simple_queue(connection, queue):
    simple = connection.SimpleQueue(queue)
    for number in range(3):
        simple.put({"number": number})
    for number in range(3):
        message = simple.get(timeout=WAIT_S)
        assert message.payload == {"number": number}
        message.ack()
    with pytest.raises(simple.Empty):
        simple.get(block=False)
    simple.close()
    connection.channel().queue_delete(queue)


def test_a_requeued_message_comes_again_and_says_so(channel, queue):
    simple = Queue(queue, channel=channel, exclusive=True)
    simple.declare()
    Producer(channel).publish("again", routing_key=queue)
    first = simple.get()
    first.requeue()
    second = simple.get()
    assert [message.delivery_info["redelivered"] for message in (first, second)] == [False, True]
    second.reject()
    assert simple.get() is None


def test_a_mandatory_message_without_a_queue_is_returned(connection, channel):
    returned = []
    producer = Producer(channel, on_return=lambda *what: returned.append(what))
    producer.publish("lost", routing_key="nowhere", mandatory=True)
    ((exception, exchange, key, message),) = returned
    assert (exception.reply_code, exception.reply_text, exchange, key) == (312, "NO_ROUTE", "", "nowhere")
    assert message.body == "lost"


def test_a_fanout_reaches_all_its_queues(connection, channel, queue):
    exchange = Exchange(queue, "fanout", auto_delete=True)
    queues = [Queue(f"{queue}.{number}", exchange, channel=channel, exclusive=True) for number in range(3)]
    for one in queues:
        one.declare()
    Producer(channel, exchange).publish("all")
    assert [one.get(no_ack=True).payload for one in queues] == ["all", "all", "all"]


def test_errors_have_their_classes(connection, queue):
    with pytest.raises(NotFound, match=f"NOT_FOUND - no queue '{queue}' in vhost '/'"):
        connection.channel().queue_declare(queue, passive=True)
    channel = connection.channel()
    channel.queue_declare(queue, exclusive=True, auto_delete=False)
    with pytest.raises(PreconditionFailed, match="inequivalent arg 'x-message-ttl'"):
        connection.channel().queue_declare(
            queue, exclusive=True, auto_delete=False, arguments={"x-message-ttl": 1}
        )
    with pytest.raises(AccessRefused, match=r"ACCESS_REFUSED - exchange name 'amq\.mine' contains reserved"):
        connection.channel().exchange_declare("amq.mine", "direct")


def test_a_consumer_is_told_when_its_queue_is_deleted(broker, connection, channel, queue):
    declared = Queue(queue, channel=channel)
    declared.declare()
    with Consumer(channel, [declared], callbacks=[lambda *_: None]):
        with Connection(broker.url) as other:
            other.channel().queue_delete(queue)
        with pytest.raises(ConsumerCancelled):
            connection.drain_events(timeout=WAIT_S)


@pytest.mark.parametrize("mechanism", ["PLAIN", "AMQPLAIN"])
def test_logins(broker, mechanism):
    with Connection(broker.url, login_method=mechanism) as connection:
        connection.connect()
        assert connection.connected
    wrong = broker.url.replace("guest:guest", "guest:wrong")
    with (
        Connection(wrong, login_method=mechanism) as connection,
        pytest.raises(AccessRefused, match=f"using authentication mechanism {mechanism}"),
    ):
        connection.connect()


def test_publishing_goes_on_after_a_crash_of_the_broker(returning_broker):
    options = {"confirm_publish": True}
    with Connection(returning_broker.url, transport_options=options) as connection:
        kept = Queue("kept", durable=True)
        producer = connection.Producer()
        retry = {"interval_start": 0.1, "interval_step": 0, "max_retries": 100}
        for number in range(10):
            if number == 5:
                returning_broker.kill()
                returning_broker.start()
            producer.publish(number, routing_key="kept", declare=[kept], retry=True, retry_policy=retry)
        numbers = received(connection, connection.channel(), kept, 10)
    assert sorted(set(numbers)) == list(range(10))
