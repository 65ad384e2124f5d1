"""A whole node on files that were torn, flipped, cut or removed: what its queues then give to consumers."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.storage.journal import SALT_SIZE
from fakes import FakeFiles
from patience import PROGRAM_S
from process import ROOT
from stepped_node import DATA, SteppedNode, bodies_of

NAMES = ("a", "b", "c")
BITS = (0x01, 0x80, 0xFF)


def declared(*names: str) -> SteppedNode:
    node = SteppedNode()
    for name in names:
        node.declare(name)
    node.finish()
    return node


@contextmanager
def started(before: SteppedNode, path: str, octets: bytes) -> Iterator[SteppedNode]:
    """The next process on the same files, but for one."""
    files = before.files.copy()
    files.put(path, octets)
    node = SteppedNode(files.copy(), before.definitions)
    yield node
    node.abandon()


def consumed(node: SteppedNode, name: str) -> list[bytes]:
    """All that a consumer gets of a queue, which has nothing left then and says so."""
    queue = node.vhost.queues[name]
    found: list[bytes] = []
    while (piece := queue.get(node.clock.now, acks=True)) is not None:
        found += bodies_of(piece.contents)
        queue.acknowledge(piece)
    assert queue.ready_count == 0
    node.finish()
    return found


def served(node: SteppedNode) -> list[list[bytes]]:
    return [consumed(node, name) for name in NAMES]


def flips(octets: bytes, places: range) -> Iterator[bytes]:
    for at, bits in itertools.product(places, BITS):
        yield octets[:at] + bytes([octets[at] ^ bits]) + octets[at + 1 :]


def journal_of(files: FakeFiles) -> str:
    (path,) = [path for path in files.paths() if path.endswith(".journal")]
    return path


@pytest.fixture
def three_records() -> tuple[SteppedNode, str, list[int]]:
    """Three commits to three queues, all in one journal; where its records end."""
    node = declared(*NAMES)
    ends = []
    for number in range(3):
        for name in NAMES:
            node.publish(name, f"{name}{number}".encode() * 3)
        node.commit()
        ends.append(len(node.files.octets(journal_of(node.files))))
    node.abandon()
    return node, journal_of(node.files), ends


def bodies(name: str, *numbers: int) -> list[bytes]:
    return [f"{name}{number}".encode() * 3 for number in numbers]


def test_a_broken_last_record_of_the_journal_is_cut_whole(three_records, caplog):
    before, path, ends = three_records
    octets = before.files.octets(path)
    salt = octets[ends[1] : ends[1] + SALT_SIZE]
    broken = list(flips(octets, range(ends[1], ends[2])))
    broken += [octets[:size] for size in range(ends[1] + 1, ends[2])]
    broken += [octets[:size] + bytes(500) for size in range(ends[1], ends[2] - 1)]
    for journal in broken:
        caplog.clear()
        with started(before, path, journal) as node:
            said = f"journal: {path}: a record at octet {ends[1]} was not finished, and is cut; nothing that was confirmed is missing"
            assert (said in caplog.messages) == journal.startswith(salt, ends[1])
            assert served(node) == [bodies(name, 0, 1) for name in NAMES]


def test_a_broken_record_in_the_middle_of_the_journal_costs_no_other(three_records, caplog):
    before, path, ends = three_records
    for journal in flips(before.files.octets(path), range(ends[0], ends[1])):
        caplog.clear()
        with started(before, path, journal) as node:
            said = f"{path} at octet {ends[0]}: {ends[1] - ends[0]} octets are no records and passed over"
            assert f"journal: {said}" in caplog.messages
            assert served(node) == [bodies(name, 0, 2) for name in NAMES]


def test_zeros_behind_the_last_record_cost_nothing(three_records):
    before, path, _ = three_records
    for size in (1, 15, 16, 17, 4096):
        with started(before, path, before.files.octets(path) + bytes(size)) as node:
            assert served(node) == [bodies(name, 0, 1, 2) for name in NAMES]


def test_a_file_that_is_no_journal_is_left_alone(three_records):
    before, _, _ = three_records
    with started(before, f"{DATA}/journal/notes.journal", b"something") as node:
        assert served(node) == [bodies(name, 0, 1, 2) for name in NAMES]
        assert node.files.octets(f"{DATA}/journal/notes.journal") == b"something"


def test_a_journal_that_is_older_than_the_logs_brings_nothing_back(three_records):
    """It was removed, and the file system forgot that."""
    before, path, _ = three_records
    octets = before.files.octets(path)
    with started(before, path, octets) as node:
        node.finish()
        queue = node.vhost.queues["a"]
        for _ in range(2):
            queue.acknowledge(queue.get(node.clock.now, acks=True))
        node.publish("a", b"later")
        node.finish()
        assert path not in node.files.paths()
        with started(node, path, octets) as again:
            assert consumed(again, "a") == [*bodies("a", 2), b"later"]
            assert consumed(again, "b") == bodies("b", 0, 1, 2)


def test_the_end_of_a_log_is_cut_and_nothing_else(caplog):
    node = declared("a")
    ends = []
    for number in range(3):
        node.publish("a", *bodies("a", number))
        node.commit()
        (path,) = [path for path in node.files.paths() if path.endswith(".log")]
        ends.append(len(node.files.octets(path)))
    node.abandon()
    octets = node.files.octets(path)
    unprotected = range(ends[1] + 12, ends[1] + 16)  # the leader's epoch, which nobody reads
    for at in range(ends[1], ends[2]):
        for broken in (*flips(octets, range(at, at + 1)), octets[:at]):
            caplog.clear()
            with started(node, path, broken) as again:
                found = consumed(again, "a")
            whole = broken != octets[:at] and at in unprotected
            assert found == bodies("a", 0, 1, 2)[: 3 if whole else 2]
            assert (
                whole
                or at == ends[1]
                or any(f"{path} at octet {ends[1]}: " in line for line in caplog.messages)
            )


def test_damage_in_a_full_segment_is_said_and_the_rest_is_served(caplog):
    node = declared("a")
    sent = [b"%d" % number * 20 for number in range(40)]
    for body in sent:
        node.publish("a", body)
        node.commit()
    node.abandon()
    first, *others = [path for path in node.files.paths() if path.endswith(".log")]
    assert others
    octets = node.files.octets(first)
    for at in range(0, len(octets), 7):
        caplog.clear()
        with started(node, first, next(flips(octets, range(at, at + 1)))) as again:
            found = consumed(again, "a")
        lost = [body for body in sent if body not in found]
        assert found == [body for body in sent if body not in lost]
        assert len(lost) <= 1
        assert not lost or any("1 messages are lost to a damaged disk" in line for line in caplog.messages)


def test_a_queue_whose_files_are_gone_is_empty_and_goes_on():
    node = declared("a")
    node.publish("a", b"1")
    node.commit()
    node.abandon()
    files = node.files.copy()
    files.remove_directory(f"{DATA}/queues")
    node = SteppedNode(files.copy(), node.definitions)
    node.publish("a", b"2")
    node.commit()
    assert node.stored("a") == [b"2"]
    assert consumed(node, "a") == [b"2"]
    node.abandon()


def test_definitions_that_are_no_database_are_refused_by_name(tmp_path: Path):
    file = tmp_path / "definitions.sqlite"
    file.write_bytes(b"not a database at all" * 300)
    command = [sys.executable, "-m", "broker", "serve", "--data", str(tmp_path), "--amqp", "127.0.0.1:0"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PROGRAM_S)
    assert ended.returncode == 70
    last = (ended.stdout + ended.stderr).splitlines()[-1]
    assert last.startswith(f"leveret: the disk failed: {file} at octet 0: file is not a database")
    assert file.read_bytes() == b"not a database at all" * 300
