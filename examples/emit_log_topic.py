"""Topics, the sending side: the routing key is words with dots between them.

python examples/emit_log_topic.py kern.critical "out of memory"
"""

import os
import sys

import pika

url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2F")
topic = sys.argv[1] if len(sys.argv) > 1 else "anonymous.info"
text = " ".join(sys.argv[2:]) or "Hello!"

connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.exchange_declare("topic_logs", exchange_type="topic")
channel.basic_publish(exchange="topic_logs", routing_key=topic, body=text.encode())
print(f"Sent {topic}: {text!r}")

connection.close()
