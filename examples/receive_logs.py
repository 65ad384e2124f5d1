"""Publish/subscribe, the listening side: a queue of its own, as long as it listens.

python examples/receive_logs.py
"""

import os

import pika

url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2F")

connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.exchange_declare("logs", exchange_type="fanout")

# Without a name the broker picks one. An exclusive queue goes with this connection.
queue = channel.queue_declare("", exclusive=True).method.queue
channel.queue_bind(queue, exchange="logs")


def show(channel, method, properties, body):
    print(body.decode(), flush=True)


# auto_ack: a line is forgotten as it is sent; losing one here does no harm.
channel.basic_consume(queue, on_message_callback=show, auto_ack=True)
print("Waiting for logs; Ctrl-C ends", flush=True)
try:
    channel.start_consuming()
except KeyboardInterrupt:
    connection.close()
