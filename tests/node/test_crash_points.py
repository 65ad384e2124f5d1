"""Crashes at every step of a scene that is played out for just that danger."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import pytest

from broker.model.exchange import TOPIC, Destination
from fakes import PowerFailed
from stepped_node import SteppedNode

SEEDS = range(8)
Check = Callable[[SteppedNode], None]


def crashes(play: Callable[[], SteppedNode], *, seeds: range = SEEDS) -> Iterator[SteppedNode]:
    """The next process, for a crash at each step of the jobs that wait when the scene ends, in either order."""
    ends = [_steps(play, first) for first in (0, 1)]
    for writer, mover, order in itertools.product(range(ends[0] + 1), range(ends[1] + 1), (1, -1)):
        if order < 0 and 0 in ends:
            continue
        for seed in seeds:
            node = play()
            steps = [(node.writer, writer), (node.mover, mover)]
            for worker, after in steps[::order]:
                node.fail_power(worker, after)
            crashed = node.crash(seed)
            yield crashed
            crashed.abandon()


def _steps(play: Callable[[], SteppedNode], worker: int) -> int:
    """How many steps the job of a worker takes."""
    node = play()
    before = node.files.steps
    node.workers[worker].step()
    node.abandon()
    return node.files.steps - before


def opened(*names: str, **options: int) -> SteppedNode:
    """A node with these queues; what is rejected in the first one goes to the last one."""
    node = SteppedNode(**options)
    letters = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": names[-1]}
    for name in names:
        node.declare(name, **(letters if name == names[0] else {}))
    node.commit()
    return node


def take(node: SteppedNode, name: str, count: int = 1) -> list:
    queue = node.vhost.queues[name]
    pieces = [queue.get(node.clock.now, acks=True) for _ in range(count)]
    assert None not in pieces
    return pieces


def acknowledge_all(node: SteppedNode, name: str) -> None:
    queue = node.vhost.queues[name]
    while (piece := queue.get(node.clock.now, acks=True)) is not None:
        queue.acknowledge(piece)


def journaled(node: SteppedNode, *names: str, count: int = 1) -> None:
    """Have messages in the journal, and in no file yet."""
    before = node.node.flusher.journaled_commits
    for name in names:
        for number in range(count):
            node.publish(name, b"%s-%d" % (name.encode(), number))
    node.commit()
    assert node.node.flusher.journaled_commits == before + 1


def alternating(node: SteppedNode, name: str, count: int) -> list[bytes]:
    """Messages that need a batch each, as every other one has a time limit."""
    bodies = [b"%d" % number for number in range(count)]
    for number, body in enumerate(bodies):
        node.publish(name, body, expiration=(None, "3600000")[number % 2])
    return bodies


def test_what_is_published_is_there_when_it_is_confirmed_and_whole_in_any_case():
    """Directly, to one log."""

    def play() -> SteppedNode:
        node = opened("a")
        node.publish("a", b"safe")
        node.commit()
        alternating(node, "a", 4)
        node.end_pass()
        return node

    outcomes = set()
    for node in crashes(play):
        found = node.stored("a")
        assert found[0] == b"safe"
        assert set(found[1:]) <= {b"0", b"1", b"2", b"3"}
        outcomes.add(len(found))
    assert {1, 5} < outcomes  # nothing of it, all of it, and other cases


def test_a_commit_to_many_logs_is_kept_or_cut_whole():
    def play() -> SteppedNode:
        node = opened("a", "b", "c", "d")
        for name in "abcd":
            node.publish(name, b"1", b"2")
        node.end_pass()
        return node

    outcomes = set()
    for node in crashes(play):
        found = [tuple(node.stored(name)) for name in "abcd"]
        assert len(set(found)) == 1
        outcomes.add(found[0])
    assert outcomes == {(), (b"1", b"2")}


def reusing(*later: bytes) -> SteppedNode:
    """A commit to three logs in the file that a journal had before, with these messages for each; not carried out yet."""
    node = opened("a", "b", "c")
    journaled(node, "a", "b", "c", count=3)
    node.finish()
    for name in "abc":
        node.publish(name, *later)
    node.end_pass()
    record = node.writer.jobs[0].record
    assert record is not None
    assert record.reused
    return node


def test_a_commit_in_the_file_of_an_earlier_journal_is_kept_or_cut_whole():
    earlier = {name: [b"%s-%d" % (name.encode(), number) for number in range(3)] for name in "abc"}
    outcomes = set()
    for node in crashes(partial(reusing, b"later")):
        found = {name: node.stored(name) for name in "abc"}
        assert [found[name][:3] for name in "abc"] == list(earlier.values())
        assert len({tuple(found[name][3:]) for name in "abc"}) == 1
        outcomes.add(tuple(found["a"][3:]))
    assert outcomes == {(), (b"later",)}


def test_what_a_journal_has_in_the_file_of_an_earlier_one_is_there_after_a_crash():
    for seed in SEEDS:
        node = reusing(b"one")
        node.commit()
        for name in "abc":
            node.publish(name, b"two")
        node.commit()
        crashed = node.crash(seed)
        assert [crashed.stored(name)[3:] for name in "abc"] == [[b"one", b"two"]] * 3
        crashed.abandon()


def test_what_is_in_the_file_of_an_earlier_journal_survives_a_crash_in_the_checkpoint():
    def play() -> SteppedNode:
        node = reusing(b"later")
        node.commit()
        node.node.flusher.checkpoint_soon()
        node.end_pass()
        return node

    for node in crashes(play):
        assert [node.stored(name)[3:] for name in "abc"] == [[b"later"]] * 3


def test_what_the_journal_has_survives_a_crash_in_the_checkpoint():
    """A disk may write the later of two batches first: the earlier one must come from the journal."""

    def play() -> SteppedNode:
        node = opened("a", "b", "c")
        for name in "bc":
            node.publish(name, name.encode())
        alternating(node, "a", 4)
        node.commit()
        node.node.flusher.checkpoint_soon()
        node.end_pass()
        return node

    for node in crashes(play, seeds=range(25)):
        assert node.stored("a") == [b"0", b"1", b"2", b"3"]
        assert node.stored("b") == [b"b"]
        assert node.stored("c") == [b"c"]


@pytest.mark.parametrize("steps", range(8))
def test_what_a_killed_process_has_moved_from_the_journal_survives_a_crash(steps):
    """The next process finds it in the files, and lets go of the journal."""
    for seed in SEEDS:
        node = opened("a", "b", "c")
        for name in ("a", "b", "c"):
            node.publish(name, b"journaled")
        node.commit()
        node.node.flusher.checkpoint_soon()
        node.end_pass()
        node.fail_power(node.mover, steps)
        found = node.kill().crash(seed)
        assert [found.stored(name) for name in ("a", "b", "c")] == [[b"journaled"]] * 3
        node.abandon()


def test_what_the_journal_has_survives_a_crash_in_a_direct_commit():
    def play() -> SteppedNode:
        node = opened("a", "b", "c")
        for name in "bc":
            node.publish(name, name.encode())
        alternating(node, "a", 4)
        node.commit()
        node.publish("a", b"4")
        node.end_pass()
        return node

    for node in crashes(play, seeds=range(25)):
        assert node.stored("a")[:4] == [b"0", b"1", b"2", b"3"]


def letters_in(node: SteppedNode, body: bytes) -> tuple[int, int]:
    """How often the original and its dead letter are there."""
    return node.stored("a").count(body), node.stored("dead").count(body)


def test_a_dead_letter_replaces_its_original_while_a_checkpoint_runs():
    def play() -> SteppedNode:
        node = opened("a", "b", "dead")
        journaled(node, "a", "b", "dead")
        (piece,) = take(node, "a")
        node.vhost.queues["a"].reject(piece)
        node.node.flusher.checkpoint_soon()
        node.end_pass()
        assert node.mover.jobs
        assert node.writer.jobs
        return node

    assert {letters_in(node, b"a-0") for node in crashes(play)} == {(1, 0), (0, 1)}


@pytest.mark.parametrize("settles", [True, False])
def test_a_dead_letter_replaces_its_original_in_one_record(settles):
    """Whether settlements are written in this commit or wait for a later one."""

    def play() -> SteppedNode:
        node = opened("a", "dead")
        node.publish("a", b"1")
        node.finish()
        (piece,) = take(node, "a")
        node.vhost.queues["a"].reject(piece)
        node.node.end_pass(commit=False)
        if settles:
            node.node.flusher.settle_soon()
        node.end_pass()
        return node

    assert {letters_in(node, b"1") for node in crashes(play, seeds=range(20))} == {(1, 0), (0, 1)}


def test_a_dead_letter_into_its_own_queue_replaces_its_original():
    def play() -> SteppedNode:
        node = opened("a")
        node.publish("a", b"1")
        node.finish()
        (piece,) = take(node, "a")
        node.vhost.queues["a"].reject(piece)
        node.end_pass()
        return node

    assert {tuple(node.stored("a")) for node in crashes(play, seeds=range(20))} == {(b"1",)}


def test_a_dead_letter_in_a_topic_replaces_its_original():
    def play() -> SteppedNode:
        node = opened("a", "dead")
        node.create("letters")
        node.node.topology.bind(node.vhost, "amq.fanout", Destination(TOPIC, "letters"), "")
        node.declare("b", **{"x-dead-letter-exchange": "amq.fanout"})
        node.publish("b", b"1")
        node.finish()
        (piece,) = take(node, "b")
        node.vhost.queues["b"].reject(piece)
        node.end_pass()
        return node

    outcomes = {
        (len(node.stored("b")), node.partition("letters").next_offset)
        for node in crashes(play, seeds=range(20))
    }
    assert outcomes == {(1, 0), (0, 1)}


def test_what_expired_on_the_disk_only_is_replaced_by_its_dead_letter():
    def play() -> SteppedNode:
        node = opened("a", "dead", queue_memory_max=1)
        for number in range(4):
            node.publish("a", b"%d" % number, expiration="1000" if number == 2 else None)
        node.finish()
        node.clock.now += 2000
        node.node.mark(node.vhost.queues["a"])
        node.end_pass()
        return node

    assert {letters_in(node, b"2") for node in crashes(play, seeds=range(20))} == {(1, 0), (0, 1)}


def test_other_queues_of_the_commit_are_not_written_twice():
    node = opened("a", "b", "dead")
    node.publish("a", b"1")
    node.finish()
    (piece,) = take(node, "a")
    node.publish("b", bytes(100_000))
    node.vhost.queues["a"].reject(piece)
    node.end_pass()
    (job,) = node.writer.jobs
    assert len(job.batches) == 1
    assert 0 < sum(map(len, job.record.buffers)) < 2000
    node.abandon()


def test_an_original_stays_until_its_dead_letter_is_safe_while_its_segment_is_written_anew():
    def play() -> SteppedNode:
        node = opened("a", "dead", segment_size_max=1000)
        for number in range(20):
            node.publish("a", b"%d" % number)
            node.commit()
        pieces = take(node, "a", 8)
        for piece in pieces[:-1]:
            node.vhost.queues["a"].acknowledge(piece)
        node.finish()
        node.vhost.queues["a"].reject(pieces[-1])
        node.node.end_pass(commit=False)
        node.node.flusher.settled_lately[node.node.topology.store_of(node.vhost.queues["a"])] = None
        return node

    def rewritten() -> SteppedNode:
        node = play()
        sizes = [segment.live for segment in node.node.topology.store_of(node.vhost.queues["a"]).log.segments]
        assert 0 < sizes[0] <= 2
        node.node.flusher.tidy()
        assert node.mover.jobs
        node.mover.step()
        node.node.flusher.collect()
        node.end_pass()
        return node

    for node in crashes(rewritten, seeds=range(12)):
        assert b"7" in node.stored("a") + node.stored("dead")


def test_a_transaction_happens_whole_or_not_at_all():
    def play() -> SteppedNode:
        node = opened("a", "b")
        node.publish("a", b"request")
        node.finish()
        (piece,) = take(node, "a")
        node.node.flusher.open.atomic = True
        node.publish("b", b"answer")
        node.vhost.queues["a"].acknowledge(piece)
        node.end_pass()
        return node

    outcomes = set()
    for node in crashes(play):
        outcomes.add((tuple(node.stored("a")), tuple(node.stored("b"))))
    assert outcomes == {((b"request",), ()), ((), (b"answer",))}


def test_a_transaction_of_messages_happens_whole_and_leaves_settlements_for_later():
    def play() -> SteppedNode:
        node = opened("a", "b", "c")
        node.publish("c", b"request")
        node.finish()
        acknowledge_all(node, "c")
        node.node.flusher.open.atomic_messages = True
        for name in "ab":
            node.publish(name, b"x")
        node.end_pass()
        (job,) = node.writer.jobs
        assert job.record is not None
        assert not job.batches + job.settlements
        return node

    outcomes = set()
    for node in crashes(play):
        assert node.stored("c") == [b"request"]
        outcomes.add((tuple(node.stored("a")), tuple(node.stored("b"))))
    assert outcomes == {((), ()), ((b"x",), (b"x",))}


@pytest.mark.parametrize("steps", range(8))
def test_a_transaction_is_whole_when_a_killed_process_is_followed_by_a_crash_in_recovery(steps):
    """The journal's record was written and not synced."""
    for seed in range(20):
        node = opened("a", "b")
        node.node.flusher.open.atomic = True
        for name in ("a", "b"):
            node.publish(name, b"x")
        node.end_pass()
        node.fail_power(node.writer, 0)
        node.abandon()
        files = node.files.kill()
        files.power_fails_after = files.steps + steps
        with suppress(PowerFailed):
            SteppedNode(files, node.definitions).abandon()
        crashed = SteppedNode(files.crash(seed), node.definitions)
        assert (crashed.stored("a"), crashed.stored("b")) in (([], []), ([b"x"], [b"x"]))
        crashed.abandon()


def test_what_was_settled_stays_so_when_the_journal_and_the_segments_are_gone():
    def play() -> SteppedNode:
        node = opened("a", "b", "c")
        journaled(node, "a", "b", "c", count=2)
        node.finish()
        for name in "abc":
            acknowledge_all(node, name)
        node.finish()
        node.node.flusher.tidy()
        node.end_pass()
        return node

    for node in crashes(play, seeds=range(20)):
        assert [node.stored(name) for name in "abc"] == [[], [], []]


def test_a_journal_that_was_laid_over_the_logs_never_comes_back():
    def play() -> SteppedNode:
        node = opened("a", "b", "c")
        journaled(node, "a", "b", "c", count=2)
        node = node.kill()
        for name in "abc":
            acknowledge_all(node, name)
        node.finish()
        node.node.flusher.tidy()
        node.end_pass()
        return node

    for node in crashes(play, seeds=range(20)):
        assert [node.stored(name) for name in "abc"] == [[], [], []]


def test_an_empty_log_stays_as_long_as_a_journal_could_bring_its_messages_back():
    def play() -> SteppedNode:
        node = opened("a", "b", "c")
        journaled(node, "a", "b", "c")
        node.publish("a", b"directly")
        node.commit()
        acknowledge_all(node, "a")
        node.node.flusher.settle_soon()
        node.commit()
        node.node.flusher.tidy()
        node.end_pass()
        return node

    for node in crashes(play):
        assert node.stored("a") == []
        assert node.stored("b") == [b"b-0"]


def test_a_queue_whose_deletion_is_not_safe_yet_keeps_what_the_journal_has():
    def play() -> SteppedNode:
        node = opened("a", "b", "c")
        journaled(node, "a", "b", "c", count=3)
        node.node.topology.delete_queue(node.vhost, node.vhost.queues["b"])
        node.node.flusher.checkpoint_soon()
        node.end_pass()
        return node

    for node in crashes(play):
        if "b" in node.vhost.queues:
            assert node.stored("b") == [b"b-0", b"b-1", b"b-2"]
        assert node.stored("a") == [b"a-0", b"a-1", b"a-2"]


def test_a_new_queue_never_finds_the_messages_of_a_deleted_one():
    """Whose number, and so whose directory, it may get after a restart."""

    def play() -> SteppedNode:
        node = opened("a", "b")
        node.publish("b", b"old")
        node.finish()
        node.node.topology.delete_queue(node.vhost, node.vhost.queues["b"])
        node.commit()
        node = node.kill()
        node.declare("new")
        node.commit()
        return node

    for node in crashes(play, seeds=range(20)):
        assert node.stored("new") == []


@pytest.mark.parametrize("way", ["reject", "acknowledge"])
def test_who_settles_a_message_of_a_deleted_queue_writes_nothing(way):
    node = opened("a", "dead")
    for number in range(3):
        node.publish("a", b"%d" % number)
    pieces = take(node, "a", 3)
    queue = node.vhost.queues["a"]
    queue.acknowledge(pieces[0])
    node.finish()
    directory = node.node.topology.store_of(queue).log.directory
    assert any(path.endswith(".settled") for path in node.files.paths())
    if way == "reject":  # and in the same pass the queue goes
        queue.reject(pieces[1])
    node.node.topology.delete_queue(node.vhost, queue)
    node.commit()
    queue.acknowledge(pieces[2])
    node.finish()
    assert not [path for path in node.files.paths() if path.startswith(directory)]
    assert node.stored("dead") == ([b"1"] if way == "reject" else [])
