"""A batch that stays open: piece by piece the same records, and never one that is too large."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.kafka.compression import Codec, inflate_part
from broker.kafka.open_batch import OpenBatch, OversizedRecord
from broker.kafka.records import HEADER_SIZE, Record, RecordProblem, build, iterate, read_header
from kafka_batches import NOW, codecs, lists_of_records

NO_LIMIT = 1 << 30


class Source:
    """What `read` gives: pieces of this size at least, and how large they were."""

    def __init__(self, octets: bytes, piece_size: int) -> None:
        self.octets = octets
        self.header = read_header(octets)
        self.piece_size = piece_size
        self.sizes: list[int] = []

    def read(self, start: int, size: int) -> bytes:
        deflated = self.octets[HEADER_SIZE : self.header.size]
        piece = inflate_part(self.header.codec, deflated, start, max(size, self.piece_size))
        self.sizes.append(len(piece))
        return piece

    def open(self, size_max: int = NO_LIMIT) -> OpenBatch:
        return OpenBatch(self.header, self.read, size_max)


def all_of(next: Callable[[], Record | OversizedRecord | None]) -> list[Record | OversizedRecord]:
    return list(iter(next, None))


@given(lists_of_records, codecs, st.integers(1, 300), st.integers(0, 1 << 60))
def test_the_same_records_whatever_the_pieces(some, codec, piece_size, base_offset):
    octets = build(some, base_offset=base_offset, compression_type=codec)
    source = Source(octets, piece_size)
    batch = source.open()
    assert all_of(batch.next) == list(iterate(octets))
    assert batch.piece == b""


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=8), codecs, st.integers(1, 2000))
def test_records_above_the_limit_are_passed_over_and_never_read_whole(sizes, codec, size_max):
    records = [Record(0, NOW, b"k", bytes(size), [("h", b"v")]) for size in sizes]
    octets = build(records, base_offset=5, compression_type=codec)
    source = Source(octets, 64)
    found = all_of(source.open(size_max).next)
    assert [each.offset for each in found] == list(range(5, 5 + len(sizes)))
    for each, plain in zip(found, iterate(octets), strict=True):
        if isinstance(each, OversizedRecord):
            assert len(plain.value) <= each.size <= len(plain.value) + 20
            assert each.size > size_max
        else:
            assert each == plain
            assert len(plain.value) <= size_max
    assert max(source.sizes) <= max(size_max + 5, 64)


def test_the_last_record_may_be_too_large_to_be_inflated_at_all():
    octets = build(
        [Record(0, NOW, None, b"a"), Record(0, NOW, None, bytes(50_000_000))], compression_type=Codec.ZSTD
    )
    source = Source(octets, 100)
    first, last = all_of(source.open(1000).next)
    assert first.value == b"a"
    assert isinstance(last, OversizedRecord)
    assert (last.offset, last.size) == (1, 50_000_009)
    assert sum(source.sizes) < 500


def test_a_piece_is_dropped_when_its_records_are_taken():
    octets = build([Record(0, NOW, None, bytes(100)) for _ in range(10)])
    batch = Source(octets, 250).open()
    kept = []
    for _ in range(10):
        batch.next()
        kept.append(len(batch.piece))
    assert max(kept) == 250
    assert kept[-1] == 0


@pytest.mark.parametrize("piece_size", [1, 30, 10_000])
@given(data=st.data())
def test_what_the_plain_form_refuses_is_refused(piece_size, data):
    """Records before the fault come first; garbage behind the last one is nobody's."""
    octets = bytearray(build([Record(0, NOW, b"k", b"value", [("h", b"v")])] * 4))
    place = data.draw(st.integers(HEADER_SIZE - 4, len(octets) - 1))
    octets[place] = data.draw(st.integers(0, 255))
    batch = Source(bytes(octets), piece_size).open()
    plain = iterate(bytes(octets))
    while True:
        try:
            expected = next(plain, None)
        except RecordProblem as problem:
            if "behind the last record" not in problem.text:
                with pytest.raises(RecordProblem):
                    all_of(batch.next)
            return
        if expected is None:
            assert batch.next() is None
            return
        assert batch.next() == expected
