"""A batch with less in it keeps all else, whoever reads it; and what it asks of records is what they have."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.kafka.compression import Codec, deflate, inflate
from broker.kafka.outlines import outlines, timestamps
from broker.kafka.rebuild import rebuild
from broker.kafka.records import (
    LOG_APPEND_TIME,
    BatchHeader,
    Record,
    RecordProblem,
    build,
    iterate,
    read_header,
    read_varint,
    with_log_append_time,
)
from kafka_batches import MIB, NOW, SOME, batch_of, changed, codecs, lists_of_records
from kafka_python import MemoryRecords


def keys(batch, **limits):
    return [(offset, key) for offset, key, *_ in outlines(batch, **limits)]


def everything(offset, key, has_value):
    return True


def nothing(offset, key, has_value):
    return False


stored_batches = st.builds(
    lambda some, codec, base, append_time: (
        some,
        with_log_append_time(batch, NOW)
        if append_time
        and (
            batch := build(
                some,
                base_offset=base,
                compression_type=codec,
                producer_id=4,
                producer_epoch=2,
                base_sequence=8,
            )
        )
        else build(
            some, base_offset=base, compression_type=codec, producer_id=4, producer_epoch=2, base_sequence=8
        ),
    ),
    lists_of_records,
    codecs,
    st.integers(0, 1 << 60),
    st.booleans(),
)


@given(stored_batches, st.sets(st.integers(0, 7)), st.none() | st.integers(0, 1 << 42), st.booleans())
def test_only_what_is_kept_is_left(stored, kept, horizon, keep_empty):
    _, batch = stored
    before = read_header(batch)
    records_before = list(iterate(batch))
    left = [each for each in records_before if each.offset - before.base_offset in kept]
    rebuilt = rebuild(
        batch,
        lambda offset, key, has_value: offset - before.base_offset in kept,
        delete_horizon_ms=horizon,
        keep_empty=keep_empty,
    )
    if not left and not keep_empty:
        assert rebuilt is None
        return
    assert rebuilt is not None
    after = read_header(rebuilt)
    (theirs,) = MemoryRecords(rebuilt)
    assert theirs.validate_crc()
    assert list(iterate(rebuilt)) == left
    assert after.size == len(rebuilt)
    assert after.count == len(left)
    same = (
        "base_offset",
        "leader_epoch",
        "last_offset_delta",
        "producer_id",
        "producer_epoch",
        "base_sequence",
    )
    assert [getattr(after, name) for name in same] == [getattr(before, name) for name in same]
    assert after.attributes & LOG_APPEND_TIME == before.attributes & LOG_APPEND_TIME
    if left:
        assert after.codec == before.codec
        assert after.max_timestamp == max(each.timestamp for each in left)
        stamped = horizon is not None and any(each.value is None for each in left)
        assert after.delete_horizon_ms == (horizon if stamped else None)
        if len(left) == len(records_before) and not stamped:
            assert rebuilt == batch
    else:
        assert after.max_timestamp == before.max_timestamp


def test_a_delete_horizon_is_set_once():
    first = rebuild(build(SOME), everything, delete_horizon_ms=NOW + 1000)
    assert read_header(first).delete_horizon_ms == NOW + 1000
    assert list(iterate(first)) == SOME
    assert rebuild(first, everything, delete_horizon_ms=NOW + 2000) == first
    less = rebuild(first, lambda offset, key, has_value: offset != 0, delete_horizon_ms=NOW + 2000)
    assert read_header(less).delete_horizon_ms == NOW + 1000
    assert list(iterate(less)) == SOME[1:]


def test_a_delete_horizon_far_from_the_records_times():
    some = [Record(0, -(1 << 63), b"k"), Record(1, (1 << 63) - 1, b"k")]
    assert list(iterate(rebuild(build(some), everything, delete_horizon_ms=NOW))) == some


def test_what_the_records_are_not_asked_for_is_kept_as_it_is():
    """Header keys that are not UTF-8, and the attributes that a log has for itself."""
    batch = build([Record(0, NOW, b"k", None, [("?", b"x")]), Record(1, NOW, b"l", b"v")]).replace(
        b"?", b"\xff"
    )
    batch = changed(batch, 21, ">h", 1 << 9)
    less = rebuild(batch, lambda offset, key, has_value: offset == 0)
    assert b"\xff" in less[61:]
    assert read_header(less).attributes == 1 << 9


@pytest.mark.parametrize("codec", list(Codec))
def test_an_empty_batch_stays_empty(codec):
    empty = rebuild(build(SOME, base_offset=5, compression_type=codec), nothing, keep_empty=True)
    assert len(empty) == 61
    assert list(iterate(empty)) == []
    assert rebuild(empty, everything, keep_empty=True) == empty
    assert rebuild(empty, everything) is None
    assert read_header(empty) == BatchHeader(5, 61, -1, 0, 2, -1, NOW + 5, -1, -1, -1, 0)


def test_what_is_no_batch_is_not_rebuilt():
    for garbage in (b"", bytes(100), build(SOME)[:-1]):
        with pytest.raises(RecordProblem):
            rebuild(garbage, everything)


# ---- what is asked ----


@given(lists_of_records, codecs, st.integers(0, 1 << 60))
def test_what_is_asked_of_a_record_is_what_it_has(some, codec, base_offset):
    batch = build(some, base_offset=base_offset, compression_type=codec)
    asked = []
    rebuild(batch, lambda *outline: asked.append(outline))
    assert asked == [(each.offset, each.key, each.value is not None) for each in iterate(batch)]
    assert keys(batch) == [(each.offset, each.key) for each in iterate(batch)]


plain = st.builds(
    Record,
    st.just(0),
    st.integers(NOW, NOW + 20_000) | st.integers(-(1 << 63), (1 << 63) - 1),
    st.none() | st.binary(max_size=70) | st.just(bytes(9000)),
    st.none() | st.binary(max_size=70) | st.just(bytes(9000)),
    st.lists(st.tuples(st.text(max_size=3), st.none() | st.binary(max_size=3)), max_size=2),
)


@given(st.lists(plain, min_size=1, max_size=70), st.integers(0, 1 << 60), codecs)
def test_outlines_are_those_of_the_records(some, base_offset, codec):
    """The plain form is to decode them."""
    batch = build(some, base_offset=base_offset, compression_type=codec)
    payload = inflate(codec, batch[61:], MIB)
    decoded = list(iterate(batch))
    found = list(outlines(batch))
    assert [(offset, key) for offset, key, *_ in found] == [(each.offset, each.key) for each in decoded]
    ends = [0, *[end for *_, end in found]]
    assert ends[-1] == len(payload)
    for each, begins, (_, _, value_at, start, end) in zip(decoded, ends, found, strict=False):
        assert begins < start < value_at < end
        assert payload[start] == 0
        size, at = read_varint(payload, value_at)
        assert (None if size < 0 else payload[at : at + size]) == each.value


@given(st.data())
def test_where_records_can_be_decoded_their_outlines_can_be_seen(data):
    """And where they cannot, an outline says what is wrong, or what is wrong lies behind it."""
    payload = bytearray(build(SOME)[61:])
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    batch = batch_of(bytes(payload), data.draw(st.integers(1, 4)))
    decoded = []
    with suppress(RecordProblem):
        decoded.extend((each.offset, each.key) for each in iterate(batch))
    found = []
    with suppress(RecordProblem):
        found.extend((offset, key) for offset, key, *_ in outlines(batch))
    assert found[: len(decoded)] == decoded


@pytest.mark.parametrize("size", [62, 63, 64, 8191, 8192, 8193, 70_000])
def test_numbers_of_one_octet_two_and_more(size):
    """Of sizes of records, keys and values, and of offsets."""
    some = [Record(0, NOW, bytes(size - 10), b"v"), Record(0, NOW, b"k", bytes(size))]
    batch = changed(build(some), 23, ">i", size + 1)
    assert keys(batch) == [(0, bytes(size - 10)), (1, b"k")]
    many = build([Record(0, NOW, b"%d" % number) for number in range(size)])
    assert keys(many) == [(number, b"%d" % number) for number in range(size)]


@given(st.data(), codecs)
def test_garbage_is_told_or_kept_as_it_is(data, codec):
    payload = bytearray(build(SOME)[61:])
    for _ in range(data.draw(st.integers(0, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    payload += data.draw(st.binary(max_size=3))
    deflated = bytearray(deflate(codec, bytes(payload)))
    if data.draw(st.booleans()):
        deflated[data.draw(st.integers(0, len(deflated) - 1))] ^= data.draw(st.integers(1, 255))
    batch = batch_of(bytes(deflated), data.draw(st.integers(1, 4)), codec=codec)
    with suppress(RecordProblem):
        assert rebuild(batch, everything) == batch


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        ("0c 00 00 00 01 01", "a record of 6 octets where 5 are left"),
        ("01 00 00 00 01 01 00", "a record of -1 octets where 6 are left"),
        ("fe ff ff ff 0f 00 00 00 01 01 00", "a record of 2147483647 octets where 6 are left"),
        ("0c 00 00 02 01 01 00", "offset 1 where one from 0 to 0 comes"),
        ("0c 00 00 01 01 01 00", "offset -1 where one from 0 to 0 comes"),
        ("0c 00 00 00 03 01 00", "a size of -2"),
        ("0c 00 00 00 0c 01 00", "a record ends before its value"),
        ("0c 00 00 00 04 01 00", "a record ends before its value"),
        ("08 00 00 00 01", "a record ends before its value"),
        ("0c 00 00 00 01 01 00 00", "1 octets behind the last record"),
        ("ff ff ff ff ff ff ff ff ff 02", "a number of more than 64 bits"),
        ("ff ff", "1 records in 2 octets"),
    ],
)
def test_records_that_are_none(payload, problem):
    with pytest.raises(RecordProblem, match=problem):
        rebuild(batch_of(bytes.fromhex(payload), 1), everything)


def test_offsets_rise():
    twice = bytes.fromhex("0c 00 00 00 01 01 00") * 2
    with pytest.raises(RecordProblem, match="offset 0 where one from 1 to 1 comes"):
        keys(batch_of(twice, 2))


@pytest.mark.parametrize("codec", list(Codec))
def test_a_batch_is_opened_up_to_the_limit(codec):
    batch = build([Record(0, NOW, None, bytes(100_000))], compression_type=codec)
    size = len(inflate(codec, batch[61:], MIB))
    assert rebuild(batch, everything, inflated_size_max=size) == batch
    for ask in (
        lambda limit: rebuild(batch, everything, inflated_size_max=limit),
        lambda limit: keys(batch, inflated_size_max=limit),
    ):
        with pytest.raises(RecordProblem, match=f"more than {size - 1} octets"):
            ask(size - 1)


@given(stored_batches)
def test_timestamps_are_those_of_the_records(stored):
    _, batch = stored
    assert list(timestamps(batch)) == [(one.offset, one.timestamp) for one in iterate(batch)]
