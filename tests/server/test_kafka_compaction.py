"""A compacted topic over the wire: consumers read through the gaps, and producers go on."""

from __future__ import annotations

from typing import Any

import pytest

from broker.kafka import records
from broker.kafka.compression import Codec
from broker.kafka.errors import ErrorCode
from broker.kafka.records import Record
from broker_here import until
from kafka_here import KafkaHere, kafka_here
from kafka_wire import KafkaClient

NAME = "latest"
CONFIGS = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0"}
START = 1_700_000_000_000


def batch(number: int, *pairs: tuple[bytes, bytes | None], **options: Any) -> bytes:
    """Of records of the second with this number."""
    made = [Record(0, START + 1000 * number + at, *pair) for at, pair in enumerate(pairs)]
    return records.build(made, **options)


async def filled(broker: KafkaHere, codec: int) -> KafkaClient:
    """Two segments that are compacted into one, of which only offsets 3, 5, 6 and 7 are left, and one with 8."""
    wire = await broker.dial()
    await wire.create(NAME, configs=CONFIGS)
    partition = broker.node.topics.topic("/", NAME).partitions[0]
    producer = {"producer_id": 7, "producer_epoch": 0, "compression_type": codec}
    written = [
        batch(0, (b"a", b"1"), (b"b", b"1"), base_sequence=0, **producer),
        batch(1, (b"a", b"2"), (b"c", b"1"), base_sequence=2, **producer),
        batch(2, (b"a", b"3"), (b"b", None), compression_type=codec),
        batch(3, (b"d", b"1"), (b"a", b"4"), compression_type=codec),
        batch(4, (b"e", b"1")),
    ]
    for number, octets in enumerate(written):
        partition.log.roll_due = number in (2, 4)
        assert (await wire.produce(NAME, octets))["error_code"] == ErrorCode.NONE
    broker.node.topics.tidy(broker.node.clock.now_ms())
    await until(lambda: [segment.records for segment in partition.log.segments] == [4, 1])
    return wire


async def consumed(wire: KafkaClient, offset: int, **options: Any) -> list[tuple[int, bytes, bytes | None]]:
    """All that a consumer gets that begins there: offset, key and value."""
    found = []
    while octets := bytes((await wire.fetch(NAME, offset, **options))["records"]):
        at = 0
        while at < len(octets):
            header = records.read_header(octets, at)
            some = records.iterate(octets[at : at + header.size])
            found += [(each.offset, each.key, each.value) for each in some if each.offset >= offset]
            at += header.size
        assert header.base_offset + header.last_offset_delta >= offset
        offset = header.base_offset + header.last_offset_delta + 1
    return found


@pytest.mark.parametrize("codec", list(Codec))
async def test_a_consumer_reads_through_the_gaps(tmp_path, codec):
    left = [(3, b"c", b"1"), (5, b"b", None), (6, b"d", b"1"), (7, b"a", b"4"), (8, b"e", b"1")]
    async with kafka_here(tmp_path) as broker:
        wire = await filled(broker, codec)
        for offset in range(10):
            expected = [record for record in left if record[0] >= offset]
            assert await consumed(wire, offset) == expected
            assert await consumed(wire, offset, partition_max_bytes=1) == expected
        assert (await wire.fetch(NAME, 10))["error_code"] == ErrorCode.OFFSET_OUT_OF_RANGE
    async with kafka_here(tmp_path) as broker:
        assert await consumed(await broker.dial(), 0) == left


async def test_offsets_are_where_they_were_and_times_where_records_still_are(tmp_path):
    async with kafka_here(tmp_path) as broker:
        wire = await filled(broker, Codec.NONE)
        assert await wire.offsets_at(NAME, -2) == (0, -1)
        assert await wire.offsets_at(NAME, -1) == (9, -1)
        assert await wire.offsets_at(NAME, START) == (3, START + 1001)
        assert await wire.offsets_at(NAME, START + 1002) == (5, START + 2001)
        assert await wire.offsets_at(NAME, START + 4000) == (8, START + 4000)
        assert await wire.offsets_at(NAME, START + 4001) == (-1, -1)
        assert await wire.offsets_at(NAME, -3) == (8, START + 4000)


async def test_a_producer_goes_on_over_a_restart(tmp_path):
    producer = {"producer_id": 7, "producer_epoch": 0}
    async with kafka_here(tmp_path) as broker:
        await filled(broker, Codec.ZSTD)
    async with kafka_here(tmp_path) as broker:
        wire = await broker.dial()
        again = batch(1, (b"a", b"2"), (b"c", b"1"), base_sequence=2, **producer)
        assert (await wire.produce(NAME, again))["base_offset"] == 2
        late = batch(5, (b"a", b"9"), base_sequence=5, **producer)
        assert (await wire.produce(NAME, late))["error_code"] == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        following = batch(5, (b"a", b"5"), base_sequence=4, **producer)
        assert (await wire.produce(NAME, following))["base_offset"] == 9
