"""Read a stream again and again: it keeps what was published, and each reader says where it begins."""

import os

import pika

connection = pika.BlockingConnection(
    pika.URLParameters(os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2F"))
)
channel = connection.channel()
channel.confirm_delivery()
channel.queue_declare("readings", durable=True, arguments={"x-queue-type": "stream", "x-max-age": "7D"})

for number in range(5):
    channel.basic_publish("", "readings", f"reading {number}".encode())
print("Published 5 readings")

channel.basic_qos(prefetch_count=100)  # an acknowledgement is room for one more, and takes nothing away
for offset in ("first", 3, "last"):
    for method, properties, body in channel.consume(
        "readings", arguments={"x-stream-offset": offset}, inactivity_timeout=1
    ):
        if method is None:
            break
        print(f"From {offset!r}: {body.decode()} at offset {properties.headers['x-stream-offset']}")
        channel.basic_ack(method.delivery_tag)
        if properties.headers["x-stream-offset"] == 4:
            break
    channel.cancel()

channel.queue_delete("readings")
connection.close()
