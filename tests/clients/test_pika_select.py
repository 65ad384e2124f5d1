"""pika's SelectConnection against a real broker: everything by callbacks.

Flow:   a `Scenario` runs pika's loop until a callback calls `done`, or `PROGRAM_S` are over.
"""

from __future__ import annotations

import signal

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker, ConnectionClosedByBroker

from patience import PROGRAM_S

PERSISTENT = pika.BasicProperties(delivery_mode=2)


class Scenario:
    """A connection and its channel; `closed` is why the connection has ended, None while it has not."""

    def __init__(self, broker, **options):
        host, port = broker.amqp
        self.closed = None
        self.channel = None
        self._opened = None
        self._late = False
        self.connection = pika.SelectConnection(
            pika.ConnectionParameters(host, port, **options),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self._open),
            on_open_error_callback=self._ended,
            on_close_callback=self._ended,
        )
        self.loop = self.connection.ioloop

    def _open(self, channel):
        self.channel = channel
        self._opened(channel)

    def _ended(self, connection, reason):
        self.closed = reason
        self.loop.stop()

    def done(self, *_):
        self.loop.stop()

    def _give_up(self):
        self._late = True
        self.loop.stop()

    def run(self, opened=None):
        """Until `done`, or the connection has ended; `opened` gets the new channel."""
        self._opened = opened
        deadline = self.loop.call_later(PROGRAM_S, self._give_up)
        self.loop.start()
        self.loop.remove_timeout(deadline)
        assert not self._late, "nothing more happened"

    def close(self):
        if self.connection.is_open:
            self.connection.close()
            self.run()
        self.loop.close()


@pytest.fixture
def scenario(broker):
    scenario = Scenario(broker)
    yield scenario
    scenario.close()


def test_confirms_come_for_all_that_was_published(scenario, queue):
    waiting = set(range(1, 1001))
    kinds = set()

    def confirmed(frame):
        kinds.add(type(frame.method))
        tag = frame.method.delivery_tag
        assert tag in waiting
        waiting.difference_update(set(range(tag + 1)) if frame.method.multiple else {tag})
        if not waiting:
            scenario.done()

    def publish(_):
        scenario.channel.confirm_delivery(confirmed)
        for number in range(1000):
            scenario.channel.basic_publish("", queue, b"%d" % number, PERSISTENT)

    scenario.run(lambda channel: channel.queue_declare(queue, durable=True, callback=publish))
    assert kinds == {pika.spec.Basic.Ack}


def test_what_is_returned_comes_before_its_confirm(scenario, queue):
    events = []

    def confirmed(frame):
        events.append(f"ack {frame.method.delivery_tag}")
        if frame.method.delivery_tag == 3:
            scenario.done()

    def publish(_):
        channel = scenario.channel
        channel.confirm_delivery(confirmed)
        for key in (queue, "nowhere", queue):
            channel.basic_publish("", key, key.encode(), mandatory=True)

    def opened(channel):
        channel.add_on_return_callback(
            lambda channel, method, properties, body: events.append(f"{method.reply_text} {body.decode()}")
        )
        channel.queue_declare(queue, exclusive=True, callback=publish)

    scenario.run(opened)
    assert "ack 3" in events
    returned = events.index("NO_ROUTE nowhere")
    assert not [event for event in events[:returned] if event in ("ack 2", "ack 3")]
    assert sum(event.startswith("NO_ROUTE") for event in events) == 1


def test_messages_that_are_nacked_come_again_until_they_are_acked(scenario, queue):
    came = []

    def consumed(channel, method, properties, body):
        came.append((body, method.redelivered))
        if method.redelivered:
            channel.basic_ack(method.delivery_tag)
        else:
            channel.basic_nack(method.delivery_tag, requeue=True)
        if len(came) == 20:
            scenario.done()

    def declared(_):
        for number in range(10):
            scenario.channel.basic_publish("", queue, b"%d" % number)
        scenario.channel.basic_consume(queue, consumed)

    def opened(channel):
        channel.basic_qos(prefetch_count=1)
        channel.queue_declare(queue, exclusive=True, callback=declared)

    scenario.run(opened)
    # One at a time, and what is given back is the queue's first again.
    assert came == [(b"%d" % number, again) for number in range(10) for again in (False, True)]


def test_no_more_than_prefetch_are_unacknowledged(scenario, queue):
    held = []
    most = 0
    count = 0

    def consumed(channel, method, properties, body):
        nonlocal most, count
        held.append(method.delivery_tag)
        most = max(most, len(held))
        count += 1
        if len(held) == 10:
            held.clear()
            channel.basic_ack(method.delivery_tag, multiple=True)
        if count == 500:
            scenario.done()

    def declared(_):
        for _number in range(500):
            scenario.channel.basic_publish("", queue, b"")
        scenario.channel.basic_qos(
            prefetch_count=10, callback=lambda _: scenario.channel.basic_consume(queue, consumed)
        )

    scenario.run(lambda channel: channel.queue_declare(queue, exclusive=True, callback=declared))
    assert most == 10


def test_a_consumer_is_told_when_its_queue_is_deleted(scenario, queue):
    cancelled = []

    def told(frame):
        cancelled.append(frame.method.consumer_tag)
        scenario.done()

    def declared(_):
        scenario.channel.basic_consume(
            queue,
            lambda *message: None,
            consumer_tag="mine",
            callback=lambda _: scenario.channel.queue_delete(queue),
        )

    def opened(channel):
        channel.add_on_cancel_callback(told)
        channel.queue_declare(queue, callback=declared)

    scenario.run(opened)
    assert cancelled == ["mine"]


def test_a_channel_that_the_broker_closes_leaves_the_connection_open(scenario, queue):
    reasons = []

    def closed(channel, reason):
        reasons.append(reason)
        scenario.connection.channel(on_open_callback=scenario.done)

    def opened(channel):
        channel.add_on_close_callback(closed)
        channel.queue_declare(queue, passive=True)

    scenario.run(opened)
    (reason,) = reasons
    assert isinstance(reason, ChannelClosedByBroker)
    assert (reason.reply_code, reason.reply_text) == (404, f"NOT_FOUND - no queue '{queue}' in vhost '/'")
    assert scenario.closed is None


def test_many_channels_work_beside_each_other(scenario, queue):
    count = 200
    came = {}

    def opened(channel):
        name = f"{queue}.{channel.channel_number}"
        channel.queue_declare(name, exclusive=True)
        channel.basic_consume(name, consumed, auto_ack=True)
        channel.basic_publish("", name, name.encode())

    def consumed(channel, method, properties, body):
        came[channel.channel_number] = body.decode()
        if len(came) == count:
            scenario.done()

    def first(channel):
        for _ in range(count - 1):
            scenario.connection.channel(on_open_callback=opened)
        opened(channel)

    scenario.run(first)
    assert came == {number: f"{queue}.{number}" for number in range(1, count + 1)}


# ---- the connection ends ----


def test_heartbeats_keep_an_idle_connection(broker):
    scenario = Scenario(broker, heartbeat=1)
    scenario.run(scenario.done)
    # Longer than two intervals, after which either side gives up a peer that is silent.
    scenario.loop.call_later(3.5, scenario.done)
    scenario.run()
    assert scenario.closed is None
    scenario.close()


def test_a_client_that_hangs_loses_its_connection(broker, queue):
    silent, other = Scenario(broker, heartbeat=1), Scenario(broker)
    silent.run(lambda channel: channel.queue_declare(queue, callback=silent.done))
    silent.channel.basic_publish("", queue, b"held")
    silent.channel.basic_consume(queue, silent.done)
    silent.run()
    # Its loop stands still now; the message that it holds goes to the other one.
    came = []

    def consumed(channel, method, properties, body):
        came.append((body, method.redelivered))
        channel.basic_ack(method.delivery_tag)
        other.done()

    other.run(lambda channel: channel.basic_consume(queue, consumed))
    assert came == [(b"held", True)]
    silent.run()
    assert silent.closed is not None
    silent.close()
    other.channel.queue_delete(queue, callback=other.done)
    other.run()
    other.close()


def test_a_broker_that_stops_tells_its_clients(own_broker):
    scenario = Scenario(own_broker)
    scenario.run(scenario.done)
    own_broker.process.send_signal(signal.SIGTERM)
    scenario.run()
    assert isinstance(scenario.closed, ConnectionClosedByBroker)
    assert scenario.closed.reply_code == 320
    assert scenario.closed.reply_text.startswith("CONNECTION_FORCED - broker forced connection closure")
    assert own_broker.wait() == 0
    scenario.close()
