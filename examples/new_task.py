"""Work queue, the sending side: put tasks into a durable queue, for whichever worker is free.

    python examples/new_task.py "resize a.png" "resize b.png..."

Each argument is a task; each dot in it is a second of work for `worker.py`.
"""

import os
import sys

import pika

url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2F")
tasks = sys.argv[1:] or ["Hello!"]

connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()

# With confirms, basic_publish returns when the broker has the task on its disk.
channel.confirm_delivery()

# Declaring is harmless if the queue is there already, so both sides do it and may start in any order.
# A durable queue survives a restart of the broker ...
channel.queue_declare("tasks", durable=True)

for task in tasks:
    channel.basic_publish(
        exchange="",  # the default exchange: the routing key is the queue's name
        routing_key="tasks",
        body=task.encode(),
        # ... and so do the persistent messages in it.
        properties=pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent),
        mandatory=True,  # raise UnroutableError if the queue is gone, instead of dropping the task
    )
    print(f"Sent {task!r}")

connection.close()
