"""Publisher confirms, three ways: one by one, in batches, and with messages that come back.

    python examples/publisher_confirms.py [how many]

A confirm of a persistent message in a durable queue means that it is on the broker's disk. Waiting for
each costs a sync for each; in a batch many messages share one.
"""

import os
import sys
import time

import pika
from pika.exceptions import UnroutableError

DEADLINE_S = 30
BATCH = 100

url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2F")
count = int(sys.argv[1]) if len(sys.argv) > 1 else 500
persistent = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)


def one_by_one():
    """pika's BlockingConnection waits for the confirm in basic_publish: simple, and the slowest."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare("confirmed", durable=True)
    channel.queue_purge("confirmed")
    began = time.perf_counter()
    for number in range(count):
        channel.basic_publish("", "confirmed", b"%d" % number, persistent)  # raises NackError if refused
    say("one by one", began)
    connection.close()


class InBatches:
    """SelectConnection tells of confirms as they come: up to `BATCH` messages are on their way at once."""

    def __init__(self):
        self.waiting = set()  # delivery tags that are not confirmed yet
        self.published = 0
        self.refused = 0
        self.began = 0.0
        self.connection = pika.SelectConnection(
            pika.URLParameters(url),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self.opened),
            on_open_error_callback=lambda connection, error: self.fail(error),
            on_close_callback=lambda connection, reason: connection.ioloop.stop(),
        )
        self.connection.ioloop.call_later(DEADLINE_S, lambda: self.fail("not confirmed in time"))

    def fail(self, reason):
        sys.exit(f"in batches: {reason}")

    def opened(self, channel):
        self.channel = channel
        channel.add_on_close_callback(lambda channel, reason: self.closed(reason))
        channel.queue_declare("confirmed", durable=True, callback=self.declared)

    def closed(self, reason):
        if self.waiting:
            self.fail(reason)

    def declared(self, frame):
        self.channel.confirm_delivery(self.confirmed, callback=lambda frame: self.publish())
        self.began = time.perf_counter()

    def publish(self):
        for _ in range(min(BATCH, count - self.published)):
            self.channel.basic_publish("", "confirmed", b"%d" % self.published, persistent)
            self.published += 1
            self.waiting.add(self.published)  # tags count from 1

    def confirmed(self, frame):
        tag = frame.method.delivery_tag
        # `multiple`: this tag and all before it.
        settled = {other for other in self.waiting if other <= tag} if frame.method.multiple else {tag}
        if isinstance(frame.method, pika.spec.Basic.Nack):
            self.refused += len(settled)  # the broker did not take these: publish them again
        self.waiting -= settled
        if self.waiting:
            return
        if self.published < count:
            self.publish()
        else:
            say(f"in batches of {BATCH}, {self.refused} refused", self.began)
            self.connection.close()

    def run(self):
        self.connection.ioloop.start()


def with_returns():
    """A mandatory message that no queue takes comes back; it is confirmed all the same."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    try:
        channel.basic_publish("", "no.such.queue", b"lost?", persistent, mandatory=True)
    except UnroutableError as error:
        for returned in error.messages:
            print(f"returned: {returned.body.decode()} ({returned.method.reply_text})")
    print(f"waiting in the queue: {channel.queue_declare('confirmed', durable=True).method.message_count}")
    channel.queue_delete("confirmed")
    connection.close()


def say(how, began):
    print(f"{how}: {count} confirmed, {count / (time.perf_counter() - began):,.0f} a second")


one_by_one()
InBatches().run()
with_returns()
