"""Work queue, the working side: take tasks one by one, and say when each is done.

    python examples/worker.py

Start as many as you like; Ctrl-C ends one. A task whose worker dies goes to another one.
"""

import os
import time

import pika

url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2F")

connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.queue_declare("tasks", durable=True)

# At most one task that is not done: the next one goes to a worker that is free.
channel.basic_qos(prefetch_count=1)


def work(channel, method, properties, body):
    task = body.decode()
    # A task may come again if its worker died before the ack: then it says so, and may be half done.
    print(f"Received {task!r}{' again' if method.redelivered else ''}", flush=True)
    time.sleep(task.count("."))
    print(f"Done with {task!r}", flush=True)
    # Only now may the broker forget it.
    channel.basic_ack(method.delivery_tag)


channel.basic_consume("tasks", on_message_callback=work)
print("Waiting for tasks; Ctrl-C ends", flush=True)
try:
    channel.start_consuming()
except KeyboardInterrupt:
    connection.close()
