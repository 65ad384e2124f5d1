"""Topics behind the methods of queues: declared, published to, read and deleted over AMQP."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from amqp_client import Refused
from broker.amqp import methods
from broker.kafka import records
from broker.kafka.records import Record
from broker.node.portions import Portions
from broker_here import broker_here

STREAM = {"x-queue-type": "stream"}


async def stream(channel, name="s", **arguments):
    return await channel.declare(
        name,
        durable=True,
        arguments=STREAM | {key.replace("_", "-"): value for key, value in arguments.items()},
    )


async def filled(channel, count, name="s", **props):
    await channel.confirm_mode()
    for number in range(count):
        await channel.publish(b"%d" % number, to=name, **props)
        await channel.settle()  # so that each is a batch of its own
    await channel.confirms(count)


async def read(channel, name="s", offset="first", **options):
    await channel.qos(100)
    arguments = {"x-stream-offset": offset} | options.pop("arguments", {})
    return await channel.consume(name, arguments=arguments, **options)


def topic(broker, name="s"):
    return broker.node.topics.topic("/", name)


def append(broker, *found, name="s", partition=0):
    """As a Kafka client would."""
    octets = records.build(list(found))
    topic(broker, name).partitions[partition].append(records.read_header(octets), octets)


# ---- declaring ----


async def test_a_stream_is_a_topic_with_one_partition(broker, channel):
    declared = await stream(channel, x_max_age="2h", x_max_length_bytes=10**9)
    assert (declared.queue, declared.message_count, declared.consumer_count) == ("s", 0, 0)
    found = topic(broker)
    assert len(found.partitions) == 1
    assert (found.settings.retention_ms, found.settings.retention_bytes) == (7_200_000, 10**9)
    assert found.settings.deletes


async def test_a_stream_keeps_everything_unless_it_is_told(broker, channel):
    await stream(channel)
    assert (topic(broker).settings.retention_ms, topic(broker).settings.retention_bytes) == (-1, -1)


async def test_declaring_again_is_the_same_and_passive_finds_it(channel):
    await stream(channel, x_max_age="1D")
    await stream(channel, x_max_age="1D")
    await stream(channel)
    assert (await channel.declare("s", passive=True)).queue == "s"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"durable": False}, "invalid property 'non-durable' for queue 's' in vhost '/'"),
        ({"durable": True, "auto_delete": True}, "invalid property 'auto-delete' for queue 's' in vhost '/'"),
        (
            {"durable": True, "exclusive": True},
            "invalid property 'exclusive-owner' for queue 's' in vhost '/'",
        ),
    ],
)
async def test_flags_that_a_stream_cannot_have(channel, options, text):
    with pytest.raises(Refused, match=f"406 PRECONDITION_FAILED - {text}"):
        await channel.declare("s", arguments=STREAM, **options)


@pytest.mark.parametrize(
    "arguments",
    [
        {"x-max-age": "5 days"},
        {"x-max-age": 5},
        {"x-max-age": "9" * 5000 + "D"},
        {"x-max-length-bytes": -1},
        {"x-max-length-bytes": "many"},
        {"x-stream-max-segment-size-bytes": 4_000_000_000},
        {"x-message-ttl": 1000},
        {"x-dead-letter-exchange": "d"},
    ],
)
async def test_arguments_that_a_stream_cannot_have(broker, channel, arguments):
    name = next(iter(arguments))
    with pytest.raises(Refused, match=f"406 PRECONDITION_FAILED - invalid arg '{name}' for queue 's'"):
        await channel.declare("s", durable=True, arguments=STREAM | arguments)
    assert broker.node.topics.find("/", "s") is None


async def test_a_stream_needs_a_name(channel):
    with pytest.raises(Refused, match="Cannot declare a server-named queue for type rabbit_stream_queue"):
        await channel.declare("", durable=True, arguments=STREAM)


async def test_a_stream_is_no_queue_of_another_type(channel):
    await stream(channel)
    with pytest.raises(Refused, match="inequivalent arg 'x-queue-type' for queue 's' in vhost '/'"):
        await channel.declare("s", durable=True)


async def test_a_queue_is_no_stream(channel):
    await channel.declare("s", durable=True)
    with pytest.raises(Refused, match="inequivalent arg 'x-queue-type' for queue 's' in vhost '/'"):
        await stream(channel)


async def test_another_age_is_another_stream(channel):
    await stream(channel, x_max_age="1D")
    with pytest.raises(Refused, match="inequivalent arg 'x-max-age'"):
        await stream(channel, x_max_age="2D")


async def test_what_streams_do_not_do(client, channel):
    await stream(channel)
    for number, method in ((2, methods.BasicGet(queue="s")), (3, methods.QueuePurge(queue="s"))):
        other = await client.channel(number)
        await other.send(method)
        assert (await client.refused()).reply_code == 540
        break


async def test_a_deleted_stream_ends_its_consumers(broker, client, channel):
    await stream(channel)
    await filled(channel, 3)
    other = await client.channel(2)
    tag = await read(other)
    await other.messages(3)
    deleted = await channel.call(methods.QueueDelete(queue="s"), methods.QueueDeleteOk)
    assert deleted.message_count == 3
    assert await other.next() == methods.BasicCancel(tag, True)
    assert broker.node.topics.find("/", "s") is None


# ---- publishing ----


async def test_a_confirm_comes_when_the_record_is_safe(broker, channel):
    await stream(channel)
    await filled(channel, 5)
    assert topic(broker).partitions[0].high_watermark == 5


async def test_transient_messages_are_kept_too(tmp_path):
    async with broker_here(tmp_path) as broker:
        channel = await (await broker.connect()).channel(1)
        await stream(channel)
        await filled(channel, 3, delivery_mode=1)
    async with broker_here(tmp_path) as broker:
        channel = await (await broker.connect()).channel(1)
        await read(channel)
        assert await channel.bodies(3) == [b"0", b"1", b"2"]


async def test_a_message_that_is_too_large_is_not_confirmed(broker, channel):
    broker.node.topics.create("/", "t", 1, configs={"max.message.bytes": "2000"})
    await channel.confirm_mode()
    await channel.publish(b"x" * 3000, to="t")
    await channel.publish(b"small", to="t")
    assert await channel.confirms(2) == {1: False, 2: True}
    assert topic(broker, "t").partitions[0].high_watermark == 1


async def test_bindings_lead_to_topics_and_outlast_a_restart(tmp_path):
    async with broker_here(tmp_path) as broker:
        channel = await (await broker.connect()).channel(1)
        await channel.exchange("x", "topic", durable=True)
        await channel.exchange("before", "fanout", durable=True)
        await channel.call(methods.ExchangeBind(destination="x", source="before"), methods.ExchangeBindOk)
        await stream(channel)
        await channel.bind("s", "x", "a.*")
    async with broker_here(tmp_path) as broker:
        channel = await (await broker.connect()).channel(1)
        await channel.confirm_mode()
        await channel.publish(b"one", exchange="x", to="a.b")
        await channel.publish(b"elsewhere", exchange="x", to="b")
        await channel.publish(b"two", exchange="before", to="a.c")
        await channel.confirms(3)
        await read(channel)
        found = await channel.messages(2)
        assert [(one.method.exchange, one.method.routing_key) for one in found] == [
            ("x", "a.b"),
            ("before", "a.c"),
        ]
        await channel.call(
            methods.QueueUnbind(queue="s", exchange="x", routing_key="a.*"), methods.QueueUnbindOk
        )
        assert not broker.node.topology.vhost("/").exchanges["x"].bindings


async def test_bindings_go_with_the_topic(broker, channel):
    await channel.exchange("x", "fanout", durable=True)
    await stream(channel)
    await channel.bind("s", "x", "")
    await channel.call(methods.QueueDelete(queue="s"), methods.QueueDeleteOk)
    assert not list(broker.node.topology.vhost("/").bindings())
    await channel.publish(b"lost", exchange="x", mandatory=True)
    assert (await channel.message()).method.reply_code == 312


async def test_a_message_reaches_a_topic_and_a_queue_once_each(broker, channel):
    await channel.exchange("x", "fanout", durable=True)
    await stream(channel)
    await channel.declare("q")
    for name in ("s", "q"):
        await channel.bind(name, "x", "")
    await channel.confirm_mode()
    await channel.publish(b"both", exchange="x")
    await channel.confirms(1)
    assert topic(broker).partitions[0].high_watermark == 1
    assert (await channel.get("q")).body == b"both"


async def test_the_partition_key_selects_the_partition_as_kafka_does(broker, channel):
    broker.node.topics.create("/", "t", 6)
    await channel.confirm_mode()
    await channel.publish(b"by header", to="t", headers={"x-partition-key": "alice"})
    await channel.publish(b"by header again", to="t", headers={"x-partition-key": "alice"})
    await channel.confirms(2)
    ends = [partition.high_watermark for partition in topic(broker, "t").partitions]
    assert sorted(ends) == [0, 0, 0, 0, 0, 2]


async def test_a_transaction_publishes_to_a_stream_whole(broker, channel):
    await stream(channel)
    await channel.call(methods.TxSelect(), methods.TxSelectOk)
    await channel.publish(b"one", to="s")
    await channel.publish(b"two", to="s")
    await channel.settle()
    assert topic(broker).partitions[0].next_offset == 0
    await channel.call(methods.TxCommit(), methods.TxCommitOk)
    assert topic(broker).partitions[0].high_watermark == 2


async def test_dead_letters_go_to_a_stream(broker, channel):
    await stream(channel)
    dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "s"}
    await channel.declare("q", arguments=dead)
    await channel.publish(b"bad", to="q")
    await channel.reject((await channel.get("q")).tag, requeue=False)
    await read(channel)
    found = await channel.message()
    assert found.body == b"bad"
    assert found.headers["x-death"][0]["reason"] == "rejected"


# ---- reading ----


async def test_messages_come_back_as_they_were_with_their_offset(channel):
    await stream(channel)
    sent = {"content_type": "text/plain", "headers": {"n": 5, "deep": {"list": [1, "a"]}}, "message_id": "m"}
    await filled(channel, 2, delivery_mode=2, **sent)
    await read(channel)
    first, second = await channel.messages(2)
    assert (first.body, second.body) == (b"0", b"1")
    assert (second.properties.content_type, second.properties.message_id) == ("text/plain", "m")
    assert second.headers == {**sent["headers"], "x-stream-offset": 1}
    assert (second.method.exchange, second.method.routing_key) == ("", "s")


async def test_records_of_kafka_are_messages(broker, channel):
    await stream(channel)
    headers = [
        ("text", b"words"),
        ("octets", b"\xff\x00"),
        ("nothing", None),
        ("", b"no name"),
        ("n" * 300, b"long"),
    ]
    append(broker, Record(0, 1_700_000_000_500, b"key", b"value", headers), Record(0, -1, None, None, []))
    await read(channel)
    first, second = await channel.messages(2)
    assert first.body == b"value"
    assert first.headers == {
        "text": "words",
        "octets": b"\xff\x00",
        "nothing": None,
        "": "no name",
        "x-partition-key": "key",
        "x-stream-offset": 0,
    }
    assert first.properties.timestamp == datetime.fromtimestamp(1_700_000_000, UTC)
    assert (second.body, second.headers, second.properties.timestamp) == (b"", {"x-stream-offset": 1}, None)
    assert (first.method.exchange, first.method.routing_key) == ("", "s")


@pytest.mark.parametrize(
    ("offset", "expected"),
    [("first", 0), ("last", 4), (2, 2), (0, 0), ("1h", 0), (datetime(2000, 1, 1, tzinfo=UTC), 0)],
)
async def test_where_a_reader_begins(channel, offset, expected):
    await stream(channel)
    await filled(channel, 5)
    await read(channel, offset=offset)
    assert (await channel.message()).headers["x-stream-offset"] == expected


@pytest.mark.parametrize("offset", ["next", 99, datetime(2100, 1, 1, tzinfo=UTC)])
async def test_a_reader_that_begins_at_the_end_gets_what_comes(client, channel, offset):
    await stream(channel)
    await filled(channel, 3)
    other = await client.channel(2)
    await read(other, offset=offset)
    assert await other.came() == []
    await channel.publish(b"new", to="s")
    assert (await other.message()).body == b"new"


@pytest.mark.parametrize("offset", ["tomorrow", "5 m", "9" * 5000 + "m", -1, True, 1.5, [1]])
async def test_offsets_that_cannot_be(channel, offset):
    await stream(channel)
    await channel.qos(10)
    with pytest.raises(Refused, match="406 PRECONDITION_FAILED - invalid arg 'x-stream-offset'"):
        await channel.consume("s", arguments={"x-stream-offset": offset})


async def test_a_reader_that_acknowledges_needs_a_prefetch_count(channel):
    await stream(channel)
    with pytest.raises(
        Refused, match="406 PRECONDITION_FAILED - consumer prefetch count is not set for stream"
    ):
        await channel.consume("s")


async def test_acknowledgements_are_credit(channel):
    await stream(channel)
    await filled(channel, 10)
    await channel.qos(3)
    await channel.consume("s", arguments={"x-stream-offset": "first"})
    found = await channel.messages(3)
    assert await channel.came() == []
    await channel.ack(found[1].tag, multiple=True)
    assert await channel.bodies(2) == [b"3", b"4"]
    await channel.nack(found[2].tag)  # credit as well: it stays where it is
    assert await channel.bodies(1) == [b"5"]
    assert await channel.came() == []


async def test_readers_do_not_take_anything_from_each_other(client, channel):
    await stream(channel)
    await filled(channel, 5)
    for number in (2, 3):
        other = await client.channel(number)
        await read(other)
        assert await other.bodies(5) == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize(("unfiltered", "expected"), [(False, [b"a", b"b"]), (True, [b"a", b"none", b"b"])])
async def test_a_filter_lets_through_what_it_names(channel, unfiltered, expected):
    await stream(channel)
    await channel.confirm_mode()
    for body, value in ((b"a", "x"), (b"none", None), (b"other", "z"), (b"b", "y")):
        headers = {} if value is None else {"x-stream-filter-value": value}
        await channel.publish(body, to="s", headers=headers)
    await channel.confirms(4)
    arguments = {"x-stream-filter": ["x", "y"], "x-stream-match-unfiltered": unfiltered}
    await read(channel, arguments=arguments)
    assert await channel.bodies(len(expected)) == expected
    assert await channel.came() == []


async def test_all_partitions_of_a_topic_are_read_and_those_that_come(broker, channel):
    broker.node.topics.create("/", "t", 2)
    append(broker, Record(0, 0, None, b"zero", []), name="t", partition=0)
    append(broker, Record(0, 0, None, b"one", []), name="t", partition=1)
    await broker.node.settled()
    await read(channel, "t")
    found = {(one.headers["x-stream-partition"], one.body) for one in await channel.messages(2)}
    assert found == {(0, b"zero"), (1, b"one")}
    await broker.node.topics.add_partitions(Portions(1), topic(broker, "t"), 3)
    append(broker, Record(0, 0, None, b"two", []), name="t", partition=2)
    await broker.node.settled()
    later = await channel.message()
    assert (later.headers["x-stream-partition"], later.body) == (2, b"two")


async def test_a_reader_leaves_nothing_behind(broker, client, channel):
    await stream(channel)
    tag = await read(channel)
    other = await broker.connect()
    await read(await other.channel(1))
    found = topic(broker)
    assert (len(found.readers), len(found.partitions[0].bells)) == (2, 2)
    assert (await stream(channel)).consumer_count == 2
    await channel.call(methods.BasicCancel(tag), methods.BasicCancelOk)
    await other.close()
    assert (len(found.readers), len(found.partitions[0].bells)) == (0, 0)


async def test_large_bodies_and_small_frames(broker):
    channel = await (await broker.connect(frame_max=4096)).channel(1)
    await stream(channel)
    await channel.confirm_mode()
    await channel.publish(bytes(range(256)) * 2000, to="s")
    await channel.confirms(1)
    await read(channel)
    assert (await channel.message()).body == bytes(range(256)) * 2000


async def test_retention_moves_a_reader_on(broker, channel):
    await stream(channel)
    await filled(channel, 5)
    broker.node.topics.topic("/", "s").partitions[0].move_start(3)
    await read(channel, offset=1)
    assert (await channel.message()).headers["x-stream-offset"] == 3


# ---- rights and names ----


async def test_rights_are_those_of_queues(broker, channel):
    await stream(channel)
    await filled(channel, 1)
    broker.add_user("reader", configure="", write="", read="^s$")
    other = await (await broker.connect(user="reader", password="secret")).channel(1)
    await read(other)
    assert (await other.message()).body == b"0"
    with pytest.raises(Refused, match="403 ACCESS_REFUSED - configure access to queue 't'"):
        await stream(other, "t")


async def test_a_topic_cannot_have_the_name_of_a_queue(broker, channel):
    await channel.declare("q")
    with pytest.raises(Exception, match="there is a queue 'q' in vhost '/'"):
        broker.node.topics.create("/", "q", 1)
