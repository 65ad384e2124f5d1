"""A client for partitioned logs: Leveret's, Kafka's, and others with Kafka's protocol; for trio and asyncio alike.

    import anyio
    import leveret.log

    async def main():
        async with leveret.log.connect("kafka://localhost:9092?name=tea-house") as log:
            async with log.producer(compression="lz4") as producer:
                sent = await producer.send("orders", b"one tea", key=b"table 7", headers={"by": b"Ada"})
                print(f"{sent.topic}[{sent.partition}] has it at offset {sent.offset}")

            async with log.consumer("orders", group="kitchen", offset="earliest") as consumer:
                async for record in consumer:
                    print(record.key, record.value, record.header("by"))
                    break  # there is no other order

    anyio.run(main)  # trio.run(main) and asyncio.run(main()) do as well

Connecting
    The URL is kafka://user:password@host:port,host:port?options; without a user there is no login. Options
    are `name`, `connection_timeout` and `request_timeout` in milliseconds, and `create_topics=false` if a
    topic that is missing is not to be made by asking for it. Connections are opened when they are needed,
    and again, after a pause, when they were lost. The login is with the strongest mechanism that the broker
    has, of SCRAM-SHA-512, SCRAM-SHA-256 and PLAIN, or with the one of the option `mechanism`. There is no
    TLS yet: PLAIN shows the password to whoever listens, SCRAM to nobody, not even to the broker.

Producing
    `producer.send` returns when the record is safe: all replicas have it, and Leveret has it on its disk.
    `producer.send_soon` waits only for room in memory; `flush`, or leaving the block, waits for all. Records
    with the same key go to the same partition, and those of one partition keep their order. A producer is
    idempotent: what must be sent again, because an answer was lost, is in the log once. Records share
    batches while others are on their way, so that many tasks, or `send_soon`, are the fastest way.

Consuming
    `log.consumer` is an asynchronous iterator inside its `async with`. Alone it reads all partitions; with a
    `group` it shares them with the other members, and goes on where the group has committed. A record counts
    as read when the next one is asked for. What was read is committed every few seconds and at the end, or
    by `await consumer.commit()` if `auto_commit` is off. When members come and go, partitions move, but a
    record that is being worked on is waited for. Delivery is at least once: who dies before a commit has its
    last records read again by another one. A member with a `group_instance_id` keeps its partitions while it
    is away, if that is not longer than its `session_timeout`: a restart moves nothing.

Errors
    All are LeveretErrors. BrokerError and its kinds have Kafka's code. A record that could not be sent in
    `timeout` seconds raises SendFailed, with `maybe_sent` if nobody knows. What may pass is tried again: by
    a producer until its records' time is over, by a consumer for ever, with a warning in the log of the name
    "leveret". Cancelling is safe anywhere; a record whose `send` was cancelled may be sent or not.

Memory
    A producer holds `memory_max` octets and then waits; a consumer reads `prefetch` octets ahead.
"""

from leveret.errors import (
    AuthenticationFailed,
    ConnectionClosed,
    ConnectionFailed,
    InvalidURL,
    InvalidValue,
    LeveretError,
)
from leveret.log.batch import Sending
from leveret.log.cluster import Topic
from leveret.log.consumer import Consumer
from leveret.log.errors import (
    BrokerError,
    CommitFailed,
    InstanceFenced,
    MalformedRecords,
    NotAllSent,
    NotAuthorized,
    OffsetOutOfRange,
    ProducerFailed,
    SendFailed,
    TopicExists,
    UnknownTopic,
)
from leveret.log.log import Log, connect
from leveret.log.producer import Producer
from leveret.log.record import Appended, LogRecord, TopicPartition
from leveret.log.url import URL, Address

__all__ = [
    "connect",
    "URL",
    "Address",
    "Log",
    "Topic",
    "Producer",
    "Sending",
    "Appended",
    "Consumer",
    "LogRecord",
    "TopicPartition",
    "LeveretError",
    "InvalidURL",
    "InvalidValue",
    "ConnectionFailed",
    "AuthenticationFailed",
    "ConnectionClosed",
    "BrokerError",
    "UnknownTopic",
    "TopicExists",
    "NotAuthorized",
    "OffsetOutOfRange",
    "CommitFailed",
    "InstanceFenced",
    "SendFailed",
    "ProducerFailed",
    "NotAllSent",
    "MalformedRecords",
]
