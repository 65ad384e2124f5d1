"""RPC, the asking side: requests with a correlation id, answers in a queue of its own.

python examples/rpc_client.py 10 30
"""

import os
import sys
import uuid

import pika

ANSWER_S = 10

url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2F")
numbers = sys.argv[1:] or ["30"]

connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.queue_declare("rpc_queue")

# The queue of the answers. (The name amq.rabbitmq.reply-to, with auto_ack, does without declaring one.)
replies = channel.queue_declare("", exclusive=True).method.queue

# All requests go out at once; their answers may come in any order.
asked = {}
for number in numbers:
    request = str(uuid.uuid4())
    asked[request] = number
    channel.basic_publish(
        exchange="",
        routing_key="rpc_queue",
        body=number.encode(),
        properties=pika.BasicProperties(reply_to=replies, correlation_id=request),
    )

for method, properties, body in channel.consume(replies, auto_ack=True, inactivity_timeout=ANSWER_S):
    if method is None:
        sys.exit(f"no answer for {ANSWER_S} seconds: is rpc_server.py running?")
    number = asked.pop(properties.correlation_id, None)
    if number is not None:  # else somebody's late answer to a request that is not ours
        print(f"fibonacci({number}) = {body.decode()}")
    if not asked:
        break

connection.close()
