"""Send page views to a topic with Leveret's own client; who has read them, the topic does not care.

    python examples/log_producer.py [COUNT] [trio | asyncio]

KAFKA_URL=kafka://user:password@host:port in the environment names another broker, or Kafka.
"""

import os
import sys
from collections import Counter

import anyio

import leveret
import leveret.log

url = os.environ.get("KAFKA_URL", "kafka://127.0.0.1:9092")
count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
backend = sys.argv[2] if len(sys.argv) > 2 else "trio"
PEOPLE = ["alice", "bob", "carol", "dave", "erin"]


async def main():
    async with leveret.log.connect(url) as log:
        try:
            await log.create_topic("views", partitions=4)
        except leveret.log.TopicExists:
            pass
        async with log.producer(compression="lz4", linger_ms=5) as producer:
            # Returns when the record is on the broker's disk.
            first = await producer.send("views", b"/welcome", key=b"alice", headers={"browser": b"lynx"})
            print(f"the first one is in partition {first.partition}, at offset {first.offset}")
            # Does not wait; the records share batches, and a person's stay in their order.
            sendings = [
                await producer.send_soon("views", b"/page/%d" % number, key=PEOPLE[number % 5].encode())
                for number in range(count)
            ]
            partitions = Counter([(await sending.appended()).partition for sending in sendings])
        print(f"sent: {sum(partitions.values())}, to partitions {sorted(partitions)}")


try:
    anyio.run(main, backend=backend)
except leveret.LeveretError as error:
    sys.exit(f"Not all was sent: {error}")
except (
    KeyboardInterrupt,
    BaseExceptionGroup,
) as stop:  # trio may find it in a task of the client, and then in a group
    if isinstance(stop, BaseExceptionGroup) and stop.split(KeyboardInterrupt)[1] is not None:
        raise
    sys.exit("Stopped; what came last may not be sent")
