"""A start over many logs: what it syncs, when, and that nothing is missing whatever becomes of it."""

from __future__ import annotations

import pytest

from broker.kafka import records
from broker.storage.errors import SyncFailed
from fakes import FakeFiles, PowerFailed
from stepped_node import SteppedNode
from topic_records import append_octets, record

NAMES = [f"topic-{number}" for number in range(5)]
QUEUES = [f"queue-{number}" for number in range(3)]
SYNCS = ("sync", "sync_directory")


def filled(*, checkpoint: bool) -> SteppedNode:
    """Topics and queues with a record each, in their files or in the journal, and a second one in the journal."""
    under = SteppedNode()
    for name in NAMES:
        under.create(name)
    for name in QUEUES:
        under.declare(name)
    give(under, b"first")
    if checkpoint:
        under.finish()
    give(under, b"second")
    return under


def give(under: SteppedNode, value: bytes) -> None:
    for name in NAMES:
        append_octets(under.partition(name), records.build([record(value, under.clock.now)]))
    for name in QUEUES:
        under.publish(name, value)
    under.commit()


def check(under: SteppedNode) -> None:
    for name in NAMES:
        partition = under.partition(name)
        found = [one for octets in partition.batches(0, 1 << 20) for one in records.iterate(octets)]
        assert [one.value for one in found] == [b"first", b"second"]
    for name in QUEUES:
        assert under.stored(name) == [b"first", b"second"]


def synced(files: FakeFiles) -> list[str]:
    """Paths of logs, in the order in which they were synced."""
    return [path for step, path in files.log if step in SYNCS and "journal" not in path]


def test_a_start_after_a_stop_syncs_no_partition():
    under = filled(checkpoint=True)
    under.finish()
    under.stop()
    under.files.log.clear()
    again = SteppedNode(under.files, under.definitions)
    assert [path for path in synced(again.files) if "partitions/" in path] == []
    check(again)
    again.abandon()


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_start_after_a_kill_syncs_all_logs_together_before_the_journal_goes(checkpoint):
    under = filled(checkpoint=checkpoint)
    again = under.kill()
    log = again.files.log
    writes = [at for at, (step, path) in enumerate(log) if step == "write" and path.endswith(".log")]
    syncs = [
        at for at, (step, path) in enumerate(log) if step in SYNCS and path.startswith("/data/partitions/")
    ]
    removed = [at for at, (step, path) in enumerate(log) if step == "remove" and path.endswith(".journal")]
    notes = [at for at, (step, path) in enumerate(log) if step == "write" and path.endswith("/safe")]
    assert len(writes) == len(NAMES) + len(QUEUES)
    assert len(notes) == len(NAMES)
    assert max(writes) < min(syncs)
    assert max(syncs) < min(removed)
    assert max(syncs) < min(notes)
    check(again)
    under.abandon()


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_power_may_fail_at_any_step_of_a_start_after_a_kill(checkpoint, seed):
    under = filled(checkpoint=checkpoint)
    under.abandon()
    steps, ended = 0, False
    while not ended:
        files = under.files.kill()
        files.power_fails_after = steps
        try:
            SteppedNode(files, under.definitions).abandon()
            ended = True
        except PowerFailed:
            pass
        after = SteppedNode(files.crash(seed), under.definitions)
        check(after)
        after.abandon()
        steps += 1
    assert steps > 20


def test_a_start_ends_if_something_cannot_be_synced_and_keeps_the_journal():
    under = filled(checkpoint=True)
    under.abandon()
    files = under.files.kill()
    files.fail = lambda step, path: SyncFailed(path) if step == "sync" and path.endswith(".log") else None
    with pytest.raises(SyncFailed):
        SteppedNode(files, under.definitions)
    assert any(path.endswith(".journal") for path in files.paths())
    again = SteppedNode(files.kill(), under.definitions)
    check(again)
    again.abandon()
