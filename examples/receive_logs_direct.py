"""Routing, the listening side: only the severities that were asked for.

python examples/receive_logs_direct.py warning error
"""

import os
import sys

import pika

url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2F")
severities = sys.argv[1:]
if not severities:
    sys.exit("which ones? for instance: receive_logs_direct.py warning error")

connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.exchange_declare("direct_logs", exchange_type="direct")
queue = channel.queue_declare("", exclusive=True).method.queue

# One binding for each; a message comes once, even if several match.
for severity in severities:
    channel.queue_bind(queue, exchange="direct_logs", routing_key=severity)


def show(channel, method, properties, body):
    print(f"{method.routing_key}: {body.decode()}", flush=True)


channel.basic_consume(queue, on_message_callback=show, auto_ack=True)
print("Waiting for logs; Ctrl-C ends", flush=True)
try:
    channel.start_consuming()
except KeyboardInterrupt:
    connection.close()
