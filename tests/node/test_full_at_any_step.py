"""A disk that is full at any step of what a node does, for a moment: whoever waited is answered, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest

from broker.kafka import records
from broker.storage.errors import DiskFull
from stepped_node import SteppedNode, bodies_of
from topic_records import record

# What takes room, or may.
STEPS = ("write", "rename", "make_directory", "truncate", "remove")


def full_at(node: SteppedNode, at: int) -> Callable[[], bool]:
    """Have no room at the step with this number, and at none behind it; returns whether that has come."""
    steps = count()
    hit: list[bool] = []

    def fail(step: str, path: str) -> DiskFull | None:
        if step in STEPS and next(steps) == at:
            hit.append(True)
            return DiskFull(f"{path}: No space left on device")
        return None

    node.files.fail = fail
    return lambda: bool(hit)


def produce(node: SteppedNode, topic: str, *values: bytes) -> None:
    octets = records.build([record(value, node.clock.now) for value in values])
    node.partition(topic).append(records.read_header(octets), octets)


def consumed(node: SteppedNode, topic: str) -> list[bytes | None]:
    partition = node.partition(topic)
    found: list[bytes | None] = []
    offset = partition.start_offset
    while some := partition.batches(offset, 1 << 20):
        found += [one.value for octets in some for one in records.iterate(octets)]
        offset = records.read_header(some[-1]).base_offset + len(list(records.iterate(some[-1])))
    return found


def settle(node: SteppedNode, name: str, keep: int) -> list[bytes]:
    """Take every message of a queue, and acknowledge all but so many; returns those."""
    queue = node.vhost.queues[name]
    kept = []
    number = 0
    while (piece := queue.get(node.clock.now, acks=True)) is not None:
        if number % 10 < keep:
            kept += bodies_of(piece.contents)
        else:
            queue.acknowledge(piece)
        number += 1
    return kept


def queues(at: int) -> bool:
    """Commits, the journal, a checkpoint, a segment that is written anew, and logs that go."""
    node = SteppedNode(segment_size_max=700)
    for name in "abc":
        node.declare(name)
    node.commit()
    hit = full_at(node, at)
    bodies = {name: [b"%s%d" % (name.encode(), number) for number in range(60)] for name in "abc"}
    confirmed: list[bool] = []
    for number in range(60):
        for name in "abc":
            result = node.publish(name, bodies[name][number])
            assert result.commit is not None
            result.commit.waiters.append(lambda: confirmed.append(True))
        if number % 20 == 19:
            node.finish()
    bodies["a"] = settle(node, "a", keep=1)
    bodies["b"] = settle(node, "b", keep=0)
    for _ in range(4):
        node.finish()
        node.node.flusher.tidy()
    node.finish()
    assert len(confirmed) == 180
    for again in (node, node.kill()):
        assert [again.stored(name) for name in "abc"] == [bodies[name] for name in "abc"]
    assert not [path for path in node.files.paths() if path.endswith(".rewrite")]
    assert hit() or "rename" in [step for step, _ in node.files.log]  # a segment was written anew
    node.abandon()
    return hit()


def topics(at: int) -> bool:
    """Commits to one partition and to many, segments that begin, retention, and a partition of which nothing is left."""
    node = SteppedNode(segment_size_max=300)
    for name in "abc":
        node.create(name)
    node.commit()
    hit = full_at(node, at)
    for number in range(8):
        for name in "abc" if number % 2 else "a":
            produce(node, name, b"%d" % number)
        node.commit()
    node.finish()
    node.partition("a").move_start(5)
    node.partition("b").move_start(4)
    for _ in range(3):
        node.finish()
        node.node.topics.tidy(node.clock.now)
    node.finish()
    expected = [[b"5", b"6", b"7"], [], [b"1", b"3", b"5", b"7"]]
    for again in (node, node.kill()):
        assert [consumed(again, name) for name in "abc"] == expected
        assert again.partition("b").high_watermark == 4
    names = node.files.names(node.partition("b").log.directory)
    assert [name for name in names if name.endswith(".log")] == [f"{4:020d}.log"]
    node.abandon()
    return hit()


@pytest.mark.parametrize("play", [queues, topics])
def test_a_full_disk_at_any_step(play):
    for at in count():
        if not play(at):
            break
    assert at > 20
