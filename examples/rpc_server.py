"""RPC, the answering side: each request says where its answer goes.

    python examples/rpc_server.py

Start as many as you like; they share the requests.
"""

import os

import pika

url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2F")

connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.queue_declare("rpc_queue")
channel.basic_qos(prefetch_count=1)


def fibonacci(number):
    earlier, current = 0, 1
    for _ in range(number):
        earlier, current = current, earlier + current
    return earlier


def answer(channel, method, properties, body):
    try:
        reply = str(fibonacci(int(body)))
    except ValueError as error:
        reply = f"error: {error}"
    print(f"fibonacci({body.decode()}) = {reply}", flush=True)
    channel.basic_publish(
        exchange="",
        routing_key=properties.reply_to,
        body=reply.encode(),
        # By this the client knows which of its requests was answered.
        properties=pika.BasicProperties(correlation_id=properties.correlation_id),
    )
    # If the server dies before this, another one gets the request: answering twice must do no harm.
    channel.basic_ack(method.delivery_tag)


channel.basic_consume("rpc_queue", on_message_callback=answer)
print("Waiting for requests; Ctrl-C ends", flush=True)
try:
    channel.start_consuming()
except KeyboardInterrupt:
    connection.close()
