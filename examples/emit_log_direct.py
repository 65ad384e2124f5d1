"""Routing, the sending side: the routing key says how bad it is.

python examples/emit_log_direct.py error "the disk is full"
"""

import os
import sys

import pika

url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2F")
severity = sys.argv[1] if len(sys.argv) > 1 else "info"
text = " ".join(sys.argv[2:]) or "Hello!"

connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()

# A direct exchange gives a message to the queues that are bound with exactly its routing key.
channel.exchange_declare("direct_logs", exchange_type="direct")
channel.basic_publish(exchange="direct_logs", routing_key=severity, body=text.encode())
print(f"Sent {severity}: {text!r}")

connection.close()
