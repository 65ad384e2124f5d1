"""A partition of a node: what is appended, read, looked up by time, let go, and there again after a restart."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from broker.kafka import records
from broker.kafka.records import Record
from broker.node.partition import Appended, Partition
from fakes import FakeFiles
from stepped_node import SteppedNode
from topic_records import record


@pytest.fixture
def under() -> Iterator[SteppedNode]:
    node = SteppedNode(segment_size_max=1000)
    yield node
    node.abandon()


def append(partition: Partition, *values: bytes, timestamp: int = 1000, **options: int) -> Appended:
    """As one batch; `options` are those of `records.build`."""
    batch = records.build([record(value, timestamp) for value in values], **options)
    return partition.append(records.read_header(batch), batch)


def read_all(partition: Partition) -> list[Record]:
    """Everything that may be read, batch by batch."""
    found: list[Record] = []
    offset = partition.start_offset
    while octets := partition.read(offset, 1):
        header = records.read_header(octets)
        assert header.size == len(octets)
        found += [one for one in records.iterate(octets) if one.offset >= offset]
        offset = header.base_offset + header.last_offset_delta + 1
    return found


def values_of(partition: Partition) -> list[bytes | None]:
    return [one.value for one in read_all(partition)]


def files_below(files: FakeFiles, directory: str) -> list[str]:
    return [path for path in files.paths() if path.startswith(f"{directory}/")]


# ---- deleted ----


def test_a_topic_of_which_nothing_was_ever_finished_leaves_no_folder_behind(under):
    """A crash in its first write leaves an empty file."""
    partition = under.create("orders").partition(0)
    under.commit()
    directory = partition.log.directory
    under.files.make_directory(directory)
    under.files.put(f"{directory}/{0:020d}.log", b"")
    again = under.kill()
    again.node.topics.delete(again.node.topics.topic("/", "orders"))
    again.commit()
    assert files_below(again.files, directory) == []


# ---- commits ----


@pytest.mark.parametrize("steps", range(6))
def test_a_transaction_is_whole_after_a_kill_even_if_the_topic_syncs_nothing(steps):
    under = SteppedNode()
    under.declare("q")
    partition = under.create("orders", flush="os").partition(0)
    under.commit()
    under.node.flusher.open.atomic = True
    under.publish("q", b"to a queue")
    append(partition, b"to a topic")
    under.end_pass()
    under.fail_power(under.writer, steps)
    again = under.kill()
    assert (again.stored("q"), values_of(again.partition("orders"))) in (
        ([], []),
        ([b"to a queue"], [b"to a topic"]),
    )
    under.abandon()
