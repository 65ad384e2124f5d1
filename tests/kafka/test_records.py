"""Record batches: other implementations agree, and garbage is told."""

import struct
from dataclasses import replace

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kio.records.readers import read_batch

from broker.kafka.compression import Codec, deflate, inflate
from broker.kafka.errors import ErrorCode
from broker.kafka.records import (
    CONTROL,
    DELETE_HORIZON,
    LOG_APPEND_TIME,
    TRANSACTIONAL,
    Record,
    RecordProblem,
    build,
    check,
    iterate,
    read_header,
    with_log_append_time,
)
from kafka_batches import MIB, NOW, SOME, batch_of, changed, codecs, lists_of_records, numbered
from kafka_python import MemoryRecords, MemoryRecordsBuilder


def raises(code, batch, size_max=MIB):
    with pytest.raises(RecordProblem) as problem:
        check(batch, size_max)
    assert problem.value.code == code
    assert problem.value.text == str(problem.value)


# ---- beside other implementations ----


@given(lists_of_records, codecs, st.integers(0, 1 << 60))
def test_kafka_python_reads_ours(some, codec, base_offset):
    batch = build(some, base_offset=base_offset, compression_type=codec)
    (theirs,) = MemoryRecords(batch)
    assert theirs.validate_crc()
    assert (theirs.base_offset, theirs.next_offset) == (base_offset, base_offset + len(some))
    assert theirs.max_timestamp == max(record.timestamp for record in some)
    found = [Record(each.offset, each.timestamp, each.key, each.value, list(each.headers)) for each in theirs]
    assert found == numbered(some, base_offset)


@given(lists_of_records)
def test_kio_reads_ours(some):
    batch = build(some, base_offset=7, producer_id=1 << 40, producer_epoch=3, base_sequence=9)
    theirs, size = read_batch(batch, 0)
    assert size == len(batch)
    assert (theirs.producer_id, theirs.producer_epoch, theirs.base_sequence) == (1 << 40, 3, 9)
    found = [
        (each.offset, each.key, each.value, [(header.key.decode(), header.value) for header in each.headers])
        for each in theirs.records
    ]
    assert found == [(each.offset, each.key, each.value, each.headers) for each in numbered(some, 7)]


@given(lists_of_records, codecs, st.booleans())
def test_we_take_and_read_what_kafka_python_builds(some, codec, idempotent):
    ids = {"producer_id": 5, "producer_epoch": 0, "base_sequence": 2} if idempotent else {}
    builder = MemoryRecordsBuilder(2, int(codec), MIB, **ids)
    for record in some:
        builder.append(record.timestamp, record.key, record.value, record.headers)
    builder.close()
    batch = bytes(builder.buffer())
    header = check(batch, MIB)
    assert header == read_header(b"before" + batch, 6)
    assert header.codec in (codec, Codec.NONE)  # it does not compress what would not become smaller
    assert header.size == len(batch)
    assert header.count == header.last_offset_delta + 1 == len(some)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == tuple(
        ids.values() or (-1, -1, -1)
    )
    assert header.max_timestamp == max(record.timestamp for record in some)
    assert list(iterate(batch)) == numbered(some)


@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), min_size=1, max_size=5))
def test_any_time_comes_back(timestamps):
    some = numbered([Record(0, timestamp) for timestamp in timestamps])
    batch = build(some)
    assert list(iterate(batch)) == some


def test_the_octets_of_a_batch():
    batch = build(
        [Record(0, NOW, b"k", None, [("h", b"")])], producer_id=1, producer_epoch=2, base_sequence=3
    )
    record = bytes.fromhex("14 00 00 00 02 6b 01 02 02 68 00")
    assert batch[61:] == record
    assert batch[:17] == bytes(8) + (49 + len(record)).to_bytes(4) + b"\xff\xff\xff\xff\2"
    assert int.from_bytes(batch[17:21]) == google_crc32c.value(batch[21:])
    assert batch[21:61] == struct.pack(">hiqqqhii", 0, 0, NOW, NOW, 1, 2, 3, 1)


# ---- what a producer may send ----


def test_a_view_into_a_frame_is_taken_as_it_is():
    batch = build(SOME)
    frame = b"before" + batch + b"behind"
    view = memoryview(frame)[6:-6]
    assert check(view, len(batch)) == check(batch, len(batch)) == read_header(view)
    assert list(iterate(view)) == SOME


def test_the_crc_of_a_large_batch_is_that_of_the_whole():
    large = build([Record(0, NOW, None, bytes(range(256)) * 1000)])
    assert check(large, MIB).size == len(large)
    for at in (21, 64 * 1024, 200_000, len(large) - 1):
        raises(ErrorCode.CORRUPT_MESSAGE, large[:at] + bytes([large[at] ^ 1]) + large[at + 1 :])


@pytest.mark.parametrize(
    ("code", "batch"),
    [
        (ErrorCode.INVALID_RECORD, b""),
        (ErrorCode.CORRUPT_MESSAGE, build(SOME)[:16]),
        (ErrorCode.CORRUPT_MESSAGE, build(SOME)[:60]),
        (ErrorCode.CORRUPT_MESSAGE, build(SOME)[:-1]),
        (ErrorCode.CORRUPT_MESSAGE, build(SOME)[:-1] + b"?"),
        (ErrorCode.CORRUPT_MESSAGE, changed(build(SOME), 8, ">i", -1)),
        (ErrorCode.CORRUPT_MESSAGE, changed(build(SOME), 8, ">i", 48)),
        (ErrorCode.INVALID_RECORD, build(SOME) * 2),
        (ErrorCode.INVALID_RECORD, build(SOME) + b"?"),
        (ErrorCode.INVALID_RECORD, changed(build(SOME), 16, ">b", 1)),
        (ErrorCode.INVALID_RECORD, bytes(34)),  # the shortest message of format 0
        (ErrorCode.INVALID_RECORD, changed(build(SOME), 0, ">q", 1)),
        (ErrorCode.INVALID_RECORD, changed(build(SOME), 0, ">q", -1)),
        (ErrorCode.INVALID_RECORD, changed(build(SOME), 57, ">i", 0)),
        (ErrorCode.INVALID_RECORD, changed(build(SOME), 57, ">i", -3)),
        (ErrorCode.INVALID_RECORD, changed(build(SOME), 57, ">i", 4)),
        (ErrorCode.INVALID_RECORD, changed(build(SOME), 23, ">i", 1)),
        (ErrorCode.INVALID_RECORD, batch_of(bytes(20), 3)),
        (ErrorCode.INVALID_RECORD, changed(build(SOME), 21, ">h", CONTROL)),
        (ErrorCode.INVALID_RECORD, changed(build(SOME), 21, ">h", CONTROL | TRANSACTIONAL)),
        (ErrorCode.UNSUPPORTED_FOR_MESSAGE_FORMAT, changed(build(SOME), 21, ">h", TRANSACTIONAL)),
        (ErrorCode.INVALID_TIMESTAMP, changed(build(SOME), 21, ">h", LOG_APPEND_TIME)),
        (ErrorCode.INVALID_RECORD, changed(build(SOME), 21, ">h", DELETE_HORIZON)),
        (ErrorCode.INVALID_RECORD, changed(build(SOME), 21, ">h", 1 << 8)),
        (ErrorCode.INVALID_RECORD, changed(build(SOME), 21, ">h", 1 << 9)),
        (ErrorCode.INVALID_RECORD, changed(build(SOME), 21, ">h", -(1 << 15))),
        (ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, changed(build(SOME), 21, ">h", 5)),
        (ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, changed(build(SOME), 21, ">h", 7)),
        (ErrorCode.INVALID_RECORD, changed(build(SOME), 43, ">qhi", 0, -1, 0)),
        (ErrorCode.INVALID_RECORD, changed(build(SOME), 43, ">qhi", 0, 0, -1)),
    ],
)
def test_what_a_producer_may_not_send(code, batch):
    raises(code, batch)
    raises(code, memoryview(batch))


def test_a_batch_may_have_as_many_octets_as_it_may():
    batch = build(SOME)
    assert check(batch, len(batch)).count == 3
    raises(ErrorCode.MESSAGE_TOO_LARGE, batch, len(batch) - 1)


@pytest.mark.parametrize("producer", [(0, 0, 0), (1 << 62, 32767, (1 << 31) - 1), (-1, -1, -1)])
def test_producers_that_may_be(producer):
    header = check(changed(build(SOME), 43, ">qhi", *producer), MIB)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == producer


@given(st.data(), codecs)
def test_changed_octets_are_told(data, codec):
    batch = bytearray(build(SOME, compression_type=codec))
    at = data.draw(st.integers(0, len(batch) - 1))
    batch[at] ^= data.draw(st.integers(1, 255))
    if 12 <= at < 16:  # the leader epoch is the broker's
        assert check(bytes(batch), MIB).count == 3
    else:
        with pytest.raises(RecordProblem):
            check(bytes(batch), MIB)


# ---- opening ----


@given(st.data(), codecs)
def test_garbage_in_records_is_told_or_is_records(data, codec):
    payload = bytearray(build(SOME)[61:])
    for _ in range(data.draw(st.integers(0, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    payload += data.draw(st.binary(max_size=3))
    count = data.draw(st.integers(-1, 4))
    deflated = bytearray(deflate(codec, bytes(payload)))
    if data.draw(st.booleans()):
        deflated[data.draw(st.integers(0, len(deflated) - 1))] ^= data.draw(st.integers(1, 255))
    batch = batch_of(bytes(deflated), count, codec=codec)
    found, code = [], None
    try:
        found = list(iterate(batch))
    except RecordProblem as problem:
        code = problem.code
    if code is None:
        assert [record.offset for record in found] == list(range(max(count, 0)))
    else:
        assert code == ErrorCode.INVALID_RECORD


@given(st.binary(max_size=200))
def test_garbage_is_no_batch(garbage):
    with pytest.raises(RecordProblem):
        check(garbage, MIB)
    with pytest.raises(RecordProblem):
        list(iterate(garbage))


@pytest.mark.parametrize(
    "payload",
    [
        "0c 00 00 00 01 01",  # cut short
        "0e 00 00 00 01 01 00",  # the size goes beyond the end
        "0a 00 00 00 01 01 00",  # the record goes beyond its size
        "0e 00 00 00 01 01 00 00",  # the size goes beyond the record
        "01 00 00 00 01 01 00",  # a size below zero
        "0c 00 00 02 01 01 00",  # an offset that the header does not cover
        "0c 00 00 01 01 01 00",  # an offset below the base offset
        "0c 00 00 00 03 01 00",  # a key of -2 octets
        "0c 00 00 00 04 01 00",  # a key beyond the record
        "0c 00 00 00 01 01 01",  # -1 headers
        "0c 00 00 00 01 01 02",  # a header that is not there
        "10 00 00 00 01 01 02 01 01",  # a header without a key
        "14 00 00 00 01 01 ff ff ff ff 0f",  # 2^31 headers
        "0c 00 00 00 01 01 00 00",  # something behind the last record
        "ff ff ff ff ff ff ff ff ff 02",  # more than 64 bits
        "1e 00 ff ff ff ff ff ff ff ff ff 02 00 01 01 00",  # the same in the middle
        "ff ff ff ff ff ff ff ff ff ff ff 01",  # a number that does not end
    ],
)
def test_records_that_are_none(payload):
    with pytest.raises(RecordProblem) as problem:
        list(iterate(batch_of(bytes.fromhex(payload), 1)))
    assert problem.value.code == ErrorCode.INVALID_RECORD


def test_the_record_that_those_are_made_of_is_one():
    assert list(iterate(batch_of(bytes.fromhex("0c 00 00 00 01 01 00"), 1))) == [Record(0, 0)]


def test_a_number_of_64_bits_is_read():
    payload = bytes.fromhex("1e 00 ff ff ff ff ff ff ff ff ff 01 00 01 01 00")
    assert list(iterate(batch_of(payload, 1))) == [Record(0, -(1 << 63))]


def test_offsets_rise():
    twice = bytes.fromhex("0c 00 00 00 01 01 00") * 2
    with pytest.raises(RecordProblem, match="offset 0 where one from 1 to 1 comes"):
        list(iterate(batch_of(twice, 2)))


def test_records_come_before_the_one_that_is_none():
    walk = iterate(batch_of(bytes.fromhex("0c 00 00 00 01 01 00"), 2))
    assert next(walk) == Record(0, 0)
    with pytest.raises(RecordProblem):
        next(walk)


def test_a_header_key_that_is_not_utf_8_is_replaced():
    batch = build([Record(0, NOW, None, None, [("?", b"x")])]).replace(b"?", b"\xff")
    assert list(iterate(batch)) == [Record(0, NOW, None, None, [("�", b"x")])]


@pytest.mark.parametrize("codec", list(Codec))
def test_a_batch_is_opened_up_to_the_limit(codec):
    batch = build([Record(0, NOW, None, bytes(100_000))], compression_type=codec)
    size = len(inflate(codec, batch[61:], MIB))
    assert len(list(iterate(batch, inflated_size_max=size))) == 1
    with pytest.raises(RecordProblem, match=f"more than {size - 1} octets"):
        iterate(batch, inflated_size_max=size - 1)


# ---- the log's own time ----


@given(lists_of_records, codecs)
def test_log_append_time_is_every_records_time(some, codec):
    batch = build(some, compression_type=codec, producer_id=1, producer_epoch=1, base_sequence=1)
    stamped = with_log_append_time(memoryview(batch), NOW)
    header = read_header(stamped)
    assert header == replace(read_header(batch), attributes=codec | LOG_APPEND_TIME, max_timestamp=NOW)
    (theirs,) = MemoryRecords(stamped)
    assert theirs.validate_crc()
    assert [(each.timestamp, each.timestamp_type) for each in theirs] == [(NOW, 1)] * len(some)
    assert list(iterate(stamped)) == [replace(each, timestamp=NOW) for each in numbered(some)]
    assert stamped[61:] == batch[61:]
