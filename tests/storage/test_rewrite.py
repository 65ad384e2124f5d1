"""A segment written anew: with what lives, at the same offsets. (Crashes within: `test_log_machine`.)"""

import itertools
import socket
from contextlib import suppress

import pytest

from broker.storage import batch as batches
from broker.storage import recovery
from broker.storage.errors import CorruptLog
from broker.storage.file import Disk
from broker.storage.rewrite import rewrite
from broker.storage.write import remove_files
from fakes import PowerFailed
from log_owner import DIRECTORY, LogOwner, contents, keep
from patience import WAIT_S

LOG = f"{DIRECTORY}/{0:020d}.log"
REWRITE = f"{DIRECTORY}/{0:020d}.rewrite"


def sparse() -> LogOwner:
    """A full segment of eight records, of which 2 lives, and one behind it."""
    owner = LogOwner(segment_size_max=2 * (61 + 4 * 24))
    for _ in range(3):
        owner.append(4)
        owner.commit()
    owner.settle(range(2))
    owner.settle(range(3, 8))
    owner.commit()
    return owner


def test_only_what_lives_is_left_where_it_was():
    owner = sparse()
    before = contents(owner.log)
    size = len(owner.files.octets(LOG))
    assert owner.rewrite()
    assert contents(owner.log) == before
    assert sorted(before) == [2, 8, 9, 10, 11]
    assert len(owner.files.octets(LOG)) == 61 + 24 < size
    assert REWRITE not in owner.files.paths()
    assert owner.log.segments[0].records == 1
    owner.reopen(owner.files.copy())


def test_what_is_settled_meanwhile_stays_settled():
    owner = sparse()
    segment = owner.log.sparse()
    result = rewrite(owner.handles, [segment], [range(2, 3)], keep)
    owner.settle(range(2, 3))
    owner.commit()
    owner.log.rewritten(owner.files, segment, result)
    assert sorted(contents(owner.log)) == [8, 9, 10, 11]
    owner.reopen(owner.files.copy())


def test_a_segment_of_which_much_lives_is_left_alone():
    owner = LogOwner(segment_size_max=2 * (61 + 4 * 24))
    for _ in range(3):
        owner.append(4)
        owner.commit()
    owner.settle(range(5))
    owner.commit()
    assert not owner.rewrite()


def test_a_damaged_segment_is_not_written_anew():
    owner = sparse()
    owner.files.put(LOG, owner.files.octets(LOG).replace(b"1:2;", b"1:3;"))
    owner.handles.close()
    with pytest.raises(CorruptLog, match=f"{LOG} at octet 0: crc"):
        rewrite(owner.handles, [owner.log.segments[0]], [range(2, 3)], keep)
    assert REWRITE not in owner.files.paths()


def test_nothing_has_happened_before_the_last_step():
    steps = 0
    while True:
        owner = sparse()
        owner.files.power_fails_after = owner.files.steps + steps
        try:
            owner.rewrite()
        except PowerFailed:
            steps += 1
            for seed in range(5):
                crashed = owner.files.crash(seed)
                LogOwner.reopen(owner, crashed)
                assert REWRITE not in crashed.paths()
            continue
        break
    assert steps >= 3


def test_a_segment_that_would_be_the_same_again_is_not_written():
    owner = sparse()
    segment = owner.log.segments[0]
    steps = owner.files.steps
    result = rewrite(owner.handles, [segment], [range(8)], lambda batch, live: [batch])
    assert (result.changed, result.size, result.records) == (False, segment.size, segment.records)
    assert owner.files.steps == steps


def test_what_lies_before_the_first_change_is_written_as_it_is():
    """And in pieces."""
    owner = LogOwner(segment_size_max=3 << 20)
    for _ in range(4):
        owner.append(30_000)
        owner.commit()
    owner.append(30_000)
    owner.commit()
    segment = owner.log.segments[0]
    assert segment.size > 2 << 20
    result = rewrite(
        owner.handles,
        [segment],
        [range(segment.next_offset)],
        lambda batch, live: [batch] if batch.base_offset != 90_000 else [],
    )
    kept = owner.files.octets(LOG)[: 3 * (61 + 30_000 * 24)]
    assert owner.files.octets(REWRITE) == kept
    assert (result.changed, result.size, result.records) == (True, len(kept), 90_000)


def test_what_stays_of_a_batch_follows_what_stayed_of_others():
    owner = sparse()
    segment = owner.log.segments[0]
    first, second = owner.log.read(0)[:2]
    result = rewrite(
        owner.handles,
        [segment],
        [range(8)],
        lambda batch, live: [] if batch.base_offset == first.base_offset else [batch],
    )
    assert owner.files.octets(REWRITE) == b"".join(second.buffers)
    assert result.index.position(second.base_offset) == 0


def test_who_sends_a_part_of_a_segment_goes_on_when_it_is_part_of_another(tmp_path):
    disk = Disk()
    handles, reader = disk.handles(8), disk.handles(8)
    log, _ = recovery.open_log(disk, reader, 1, str(tmp_path), segment_size_max=100_000, settles=False)
    for offset in range(3):
        log.roll_due = True
        batch = batches.encode(offset, 1, [bytes([65 + offset]) * 80_000])
        for write in itertools.chain(*log.write([batch], [])):
            write.carry_out(disk, handles)
        log.written()
    old = [log.share_octets(offset, 80_000) for offset in range(2)]
    expected = [disk.handles(1).read(segment.path(".log"), 0, 90_000) for segment in log.segments[:2]]
    group = list(log.segments[:2])
    result = rewrite(handles, group, [range(2)], lambda batch, live: [batch] if batch.base_offset else [])
    remove_files(disk, log.joined(disk, group, result))
    assert [len(log.read(offset)) for offset in range(3)] == [1, 1, 1]
    assert disk.names(str(tmp_path)) == [f"{0:020d}.log", f"{2:020d}.log"]
    for part, octets in zip(old, expected, strict=True):
        here, there = socket.socketpair()
        with here, there:
            here.settimeout(WAIT_S)
            there.setblocking(False)
            received = b""
            while len(received) < len(octets):
                with suppress(BlockingIOError):
                    part.send(there.fileno())
                received += here.recv(1 << 20)
        assert received == octets
