"""Leveret's own client: publish with confirms, and consume, on trio or asyncio.

    python examples/leveret_client.py [trio | asyncio]

It comes with the broker (`import leveret`); its docstring is its manual.
"""

import os
import sys

import anyio

import leveret

url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2F")
backend = sys.argv[1] if len(sys.argv) > 1 else "trio"
ORDERS = [b"one tea", b"two coffees", b"water"]


async def publish(connection):
    async with connection.channel() as channel:
        # Returns when the broker has the message on its disk; raises if nobody takes it.
        await channel.publish(
            ORDERS[0], routing_key="orders", mandatory=True, persistent=True, headers={"table": 7}
        )
        # Many at once, with a window of unconfirmed ones: the fastest way.
        confirmed = await channel.publish_many(ORDERS[1:], routing_key="orders", persistent=True)
        print(f"confirmed: {1 + confirmed}")
        try:
            await channel.publish(b"?", routing_key="no.such.queue", mandatory=True)
        except leveret.Unroutable as error:
            print(f"returned: {error}")


async def consume(connection):
    async with connection.channel() as channel, channel.consume("orders", prefetch=10) as messages:
        served = 0
        async for message in messages:
            print(f"serving {message.body.decode()}, {message.headers or {}}")
            await message.ack()
            served += 1
            if served == len(ORDERS):
                break


async def main():
    with anyio.fail_after(30):
        async with leveret.connect(url) as connection:
            async with connection.channel() as channel:
                await channel.declare_queue("orders", durable=True)
            # Both at the same time, each with its own channel.
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(consume, connection)
                tasks.start_soon(publish, connection)
            async with connection.channel() as channel:
                await channel.delete_queue("orders")


anyio.run(main, backend=backend)
