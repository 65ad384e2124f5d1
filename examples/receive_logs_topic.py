"""Topics, the listening side: patterns, in which * is one word and # is any number of words.

python examples/receive_logs_topic.py "kern.*" "#.critical"
"""

import os
import sys

import pika

url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2F")
patterns = sys.argv[1:]
if not patterns:
    sys.exit("which ones? for instance: receive_logs_topic.py 'kern.*' '#.critical'")

connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.exchange_declare("topic_logs", exchange_type="topic")
queue = channel.queue_declare("", exclusive=True).method.queue
for pattern in patterns:
    channel.queue_bind(queue, exchange="topic_logs", routing_key=pattern)


def show(channel, method, properties, body):
    print(f"{method.routing_key}: {body.decode()}", flush=True)


channel.basic_consume(queue, on_message_callback=show, auto_ack=True)
print("Waiting for logs; Ctrl-C ends", flush=True)
try:
    channel.start_consuming()
except KeyboardInterrupt:
    connection.close()
