"""Records found by their time, in files, in what is being written and in the journal, beside a list of all records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.kafka import records
from broker.kafka.compression import Codec
from broker.node.partition import Partition
from broker.node.times import Timed
from stepped_node import SteppedNode
from topic_records import record

TIMES = st.lists(st.integers(-1, 30), min_size=1, max_size=4)
STEPS = st.lists(
    st.one_of(
        TIMES,
        st.sampled_from(("pass", "commit", "journal", "checkpoint", "rest", "restart")),
        st.integers(0, 100),
    ),
    max_size=25,
)


@pytest.fixture(autouse=True, scope="module")
def _many_index_entries() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("broker.storage.index._INTERVAL", 100)
        yield


class Twin:
    """A partition, and a list of its records."""

    def __init__(self) -> None:
        self.node = SteppedNode(segment_size_max=400)
        self.times: list[int] = []
        for name in ("orders", "b", "c"):
            self.node.create(name, retention_ms="-1", message_timestamp_before_max_ms=str(2**62))
        self.node.commit()

    @property
    def partition(self) -> Partition:
        return self.node.partition("orders")

    @property
    def readable(self) -> Sequence[tuple[int, int]]:
        """Offset and time of each record that may be read."""
        bounds = range(self.partition.start_offset, self.partition.high_watermark)
        return [(offset, self.times[offset]) for offset in bounds]

    def append(self, times: list[int]) -> None:
        codec = Codec.GZIP if len(times) % 2 else Codec.NONE
        octets = records.build([record(b"x" * 20, time) for time in times], compression_type=codec)
        self.partition.append(records.read_header(octets), octets)
        self.times += times

    def step(self, step: str | list[int] | int) -> None:
        node = self.node
        match step:
            case list():
                self.append(step)
            case int():
                self.partition.move_start(step % (self.partition.high_watermark + 1))
            case "pass":
                node.end_pass()
            case "commit":
                node.commit()
            case "journal":
                for name in ("b", "c"):
                    octets = records.build([record(b"")])
                    node.partition(name).append(records.read_header(octets), octets)
                self.append([5])
                node.commit()
            case "checkpoint":
                node.node.flusher.checkpoint_soon()
                node.end_pass()
            case "rest":
                self.partition.retain(node.clock.now)
                self.partition.retain(node.clock.now)
            case "restart":
                self.node = node.close()

    def check(self) -> None:
        readable = self.readable
        partition = self.partition
        for wanted in range(0, 32):
            expected = next((one for one in readable if one[1] >= wanted), None)
            assert partition.offset_of_time(wanted) == (Timed(*expected) if expected else None), wanted
        largest = max((time for _, time in readable if time >= 0), default=None)
        newest = next((one for one in readable if one[1] == largest), None)
        assert partition.latest_time() == (Timed(*newest) if newest else None)
        for offset, _ in readable:
            time = partition.time_of(offset)
            assert time is not None
            assert time >= self.times[offset]
        assert partition.time_of(partition.high_watermark) is None
        last = partition.last_batch_offset()
        if readable:
            assert partition.start_offset <= last < partition.high_watermark
            octets = partition.read(last, 1)
            header = records.read_header(octets)
            assert header.base_offset + header.count == partition.high_watermark
            assert last == max(header.base_offset, partition.start_offset)
        else:
            assert last == partition.high_watermark


@given(STEPS)
def test_times_are_found_exactly_wherever_the_records_are(steps):
    twin = Twin()
    for step in steps:
        twin.step(step)
        twin.check()
    twin.node.abandon()


def test_a_record_with_the_largest_time_may_be_gone_or_not_be_safe():
    twin = Twin()
    for times in ([9], [3, 4, 4], [2], [9]):
        twin.append(times)
    twin.node.commit()
    assert twin.partition.latest_time() == Timed(0, 9)
    twin.partition.move_start(1)
    assert twin.partition.latest_time() == Timed(5, 9)
    twin.append([10])
    twin.node.end_pass()
    assert twin.partition.latest_time() == Timed(5, 9)
    twin.node.commit()
    assert twin.partition.latest_time() == Timed(6, 10)
    twin.node.abandon()


def untrue(times: list[int], said: int) -> bytes:
    """A batch whose header says that a record is as new as this."""
    octets = records.build([record(b"x", time) for time in times])
    header = replace(records.read_header(octets), max_timestamp=said)
    return records.sealed(header, octets[records.HEADER_SIZE :])


def test_not_all_is_opened_to_find_what_headers_say():
    twin = Twin()
    for _ in range(7):
        twin.partition.append(*headed(untrue([1, 2], 100)))
    twin.partition.append(*headed(untrue([100], 100)))
    twin.node.commit()
    assert twin.partition.offset_of_time(50) == Timed(14, 100)
    for _ in range(20):
        twin.partition.append(*headed(untrue([1, 2], 200)))
    twin.node.commit()
    assert twin.partition.offset_of_time(150) == Timed(15 + 7 * 2, 200)  # nearly
    twin.node.abandon()


def headed(octets: bytes) -> tuple[records.BatchHeader, bytes]:
    return records.read_header(octets), octets


def test_records_that_inflate_without_end_are_found_nearly():
    twin = Twin()
    octets = records.build([record(bytes(40_000_000), 5)], compression_type=Codec.ZSTD)
    assert len(octets) < 100_000
    twin.partition.append(*headed(octets))
    twin.node.commit()
    assert twin.partition.offset_of_time(3) == Timed(0, 5)
    twin.node.abandon()


def test_records_that_nobody_can_open_are_found_nearly():
    twin = Twin()
    twin.append([5, 6])
    octets = bytearray(records.build([record(b"x" * 20, time) for time in (7, 8)]))
    octets[61] ^= 0xFF
    twin.partition.append(records.read_header(octets), bytes(octets))
    twin.node.commit()
    assert twin.partition.offset_of_time(6) == Timed(1, 6)
    assert twin.partition.offset_of_time(7) == Timed(2, 8)
    assert twin.partition.offset_of_time(9) is None
    twin.node.abandon()
