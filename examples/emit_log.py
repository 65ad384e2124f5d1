"""Publish/subscribe, the sending side: everybody who listens gets a copy.

python examples/emit_log.py "the disk is full"
"""

import os
import sys

import pika

url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2F")
text = " ".join(sys.argv[1:]) or "Hello!"

connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()

# A fanout exchange gives a copy to every queue that is bound to it, whatever the routing key.
# If nobody listens, the message is dropped.
channel.exchange_declare("logs", exchange_type="fanout")
channel.basic_publish(exchange="logs", routing_key="", body=text.encode())
print(f"Sent {text!r}")

connection.close()
