"""Logs whose files were torn, flipped, cut, filled with zeros or removed, at every position.

What a reader is served afterwards is what was written, or less by the batch that was hit and a word about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import pytest

from broker.storage import batch as batches
from broker.storage import recovery
from broker.storage.errors import CorruptLog
from broker.storage.journal import Entry
from broker.storage.log import Log
from broker.storage.recovery import Report
from broker.storage.segment import OFFSET_MAX
from broker.storage.settlements import Settlement, encode_block, settlement
from fakes import FakeFiles, FakeHandles, PowerFailed
from log_owner import DIRECTORY, LogOwner, contents, record

BITS = (0x01, 0x80, 0xFF)


def path_of(base: int, suffix: str) -> str:
    return f"{DIRECTORY}/{base:020d}{suffix}"


def written() -> LogOwner:
    """Three segments: offsets 0-11, 12-23 and 24-32, in batches of three; some are settled."""
    owner = LogOwner(segment_size_max=540)
    for _ in range(11):
        owner.append(3)
        owner.commit()
    for offset in (1, 13, 14, 25):
        owner.settle(range(offset, offset + 1))
        owner.commit()
    assert [segment.base_offset for segment in owner.log.segments] == [0, 12, 24]
    return owner


OWNER = written()
FILES = OWNER.files.copy()
EVERYTHING = OWNER.live()
FIRST, LAST = path_of(0, ".log"), path_of(24, ".log")
BATCH_SIZE = 61 + 3 * 24


def with_file(path: str, octets: bytes | None) -> FakeFiles:
    """The same files, but for one."""
    files = FILES.copy()
    if octets is None:
        files.remove(path)
    else:
        files.put(path, octets)
    return files.copy()


def flipped(octets: bytes, at: int, bits: int) -> bytes:
    return octets[:at] + bytes([octets[at] ^ bits]) + octets[at + 1 :]


def opened(files: FakeFiles, journal: Sequence[Entry] = ()) -> tuple[Log, Report]:
    return recovery.open_log(files, files.handles(4), 1, DIRECTORY, segment_size_max=540, journal=journal)


def stumbled(log: Log) -> CorruptLog | None:
    """What a reader of the whole log hits."""
    try:
        contents(log)
    except CorruptLog as error:
        return error
    return None


def without(*gone: int) -> dict[int, bytes]:
    return {offset: octets for offset, octets in EVERYTHING.items() if offset not in gone}


def goes_on(files: FakeFiles, log: Log, expected: dict[int, bytes]) -> None:
    """The next start finds the same and has nothing to say, and the log takes more."""
    again, report = opened(files.copy())
    assert contents(again) == expected
    assert not report.cut
    assert not report.damaged
    owner = LogOwner(files, segment_size_max=540)
    assert owner.next_offset >= 30
    owner.append(2)
    owner.commit()
    assert len(contents(owner.log)) == len(expected) + 2


def test_nothing_is_said_of_a_log_that_is_whole():
    log, report = opened(FILES.copy())
    assert (report.cut, report.damaged) == ([], [])
    assert contents(log) == EVERYTHING
    goes_on(FILES.copy(), log, EVERYTHING)


# ---- the end of a log ----


@pytest.mark.parametrize("bits", BITS)
def test_a_flipped_octet_costs_the_last_batch_at_most(bits):
    octets = FILES.octets(LAST)
    costs = 0
    for at in range(len(octets) - BATCH_SIZE, len(octets)):
        files = with_file(LAST, flipped(octets, at, bits))
        log, report = opened(files)
        found = contents(log)
        if found != EVERYTHING:
            costs += 1
            assert found == without(30, 31, 32)
            assert len(report.cut) == 1
            assert f"{LAST} at octet {len(octets) - BATCH_SIZE}: " in report.cut[0]
        goes_on(files, log, found)
    assert costs >= BATCH_SIZE - 4  # what nothing protects is the leader's epoch, which nobody reads


def test_a_file_that_ends_anywhere_has_the_batches_before_that():
    octets = FILES.octets(LAST)
    for size in range(len(octets)):
        files = with_file(LAST, octets[:size])
        log, report = opened(files)
        whole = 24 + size // BATCH_SIZE * 3
        expected = without(*range(whole, 33))
        assert contents(log) == expected
        assert len(report.cut) == (1 if size % BATCH_SIZE else 0)
        assert not report.damaged
        if size > 2 * BATCH_SIZE:
            goes_on(files, log, expected)


def test_zeros_at_the_end_are_cut():
    octets = FILES.octets(LAST)
    for size in (1, 11, 60, 61, 62, 4096):
        files = with_file(LAST, octets + bytes(size))
        log, report = opened(files)
        assert report.cut == [f"{LAST} at octet {len(octets)}: zeros; {size} octets are cut"]
        assert files.octets(LAST) == octets
        goes_on(files, log, EVERYTHING)


def test_zeros_in_place_of_the_end_of_a_batch():
    octets = FILES.octets(LAST)
    for size in range(1, BATCH_SIZE + 1):
        files = with_file(LAST, octets[:-size] + bytes(size))
        log, report = opened(files)
        assert contents(log) in (without(30, 31, 32), EVERYTHING)
        assert contents(log) == EVERYTHING or len(report.cut) == 1


def test_a_flipped_octet_costs_a_batch_in_the_middle_and_no_other():
    octets = FILES.octets(LAST)
    for at in range(BATCH_SIZE, 2 * BATCH_SIZE):
        files = with_file(LAST, flipped(octets, at, 0xFF))
        log, report = opened(files)
        found = contents(log)
        if found != EVERYTHING:
            assert found == without(27, 28, 29)
            assert len(report.damaged) == 1
            assert report.damaged[0].startswith(f"{LAST} at octet {BATCH_SIZE}: ")
            saved = files.octets(path_of(24, f".{BATCH_SIZE}.cut"))
            assert saved == flipped(octets, at, 0xFF)[BATCH_SIZE : 2 * BATCH_SIZE]
        goes_on(files, log, found)


@pytest.mark.parametrize("kept", ["every segment", "none"])
@pytest.mark.parametrize("steps", range(8))
def test_what_stands_beside_a_segment_that_is_gone_is_not_lost_in_recovery_either(steps, kept):
    """It may say where the log begins, or what is settled of the journal's messages."""
    mark = Settlement(29, 0, 0)
    for seed in range(20):
        files = FILES.copy()
        for base in (0, 12, 24) if kept == "none" else (0,):
            for suffix in (".log", ".index", ".settled"):
                files.remove(path_of(base, suffix))
        files.put(path_of(0, ".settled"), encode_block([settlement(range(3)), mark]))
        batch = batches.encode(0 if kept == "none" else 33, 3, [record(9, 0) * 3])
        journal = [Entry(1, [batch], [])]
        files = files.copy()
        files.power_fails_after = files.steps + steps
        with suppress(PowerFailed):
            opened(files, journal)
        log, report = opened(files.crash(seed), journal)
        assert (log.mark, report.damaged) == (29, [])
        assert not {0, 1, 2} & {*contents(log)}
        assert len(contents(log)) == (0 if kept == "none" else len(without(*range(12))) + 3)


# ---- segments that are full ----


@pytest.mark.parametrize("indexed", [True, False])
def test_a_flipped_octet_in_a_full_segment_is_found_at_once_or_when_it_is_read(indexed):
    octets = FILES.octets(FIRST)
    for at in range(0, len(octets)):
        files = with_file(FIRST, flipped(octets, at, 0xFF))
        if not indexed:
            files.remove(path_of(0, ".index"))
        log, report = opened(files)
        lost = range(at // BATCH_SIZE * 3, at // BATCH_SIZE * 3 + 3)
        said = report.damaged
        if error := stumbled(log):
            assert indexed
            assert (error.path, error.position) == (FIRST, at // BATCH_SIZE * BATCH_SIZE)
            mending, count = recovery.mend(files, files.handles(4), log, error)
            assert count == len([offset for offset in lost if offset in EVERYTHING])
            said = mending.damaged
        found = contents(log)
        assert found in (without(*lost), EVERYTHING)
        assert found == EVERYTHING or len(said) == 1
        assert log.live == len(found)


@pytest.mark.parametrize("path", [FIRST, LAST])
def test_a_file_that_becomes_shorter_while_it_is_open_costs_what_is_missing(path):
    octets = FILES.octets(path)
    first = 0 if path == FIRST else 24
    for size in range(len(octets)):
        files = FILES.copy()
        log, _ = opened(files)
        files.truncate(path, size)
        error = stumbled(log)
        assert error is not None
        mending, count = recovery.mend(files, files.handles(4), log, error)
        lost = range(first + size // BATCH_SIZE * 3, first + len(octets) // BATCH_SIZE * 3)
        assert contents(log) == without(*lost)
        assert count == len([offset for offset in lost if offset in EVERYTHING])
        assert mending.damaged[-1] == f"{path} at octet {size}: {len(octets) - size} octets are missing"
        assert log.live == len(contents(log))


def test_an_index_is_believed_only_if_it_fits():
    path = path_of(0, ".index")
    octets = FILES.octets(path)
    others = FILES.octets(path_of(12, ".index"))
    broken = [flipped(octets, at, 0xFF) for at in range(len(octets))]
    broken += [octets[:size] for size in range(len(octets))]
    for index in (*broken, octets + b"\0", others, bytes(len(octets)), None):
        log, report = opened(with_file(path, index))
        assert contents(log) == EVERYTHING
        assert (report.cut, report.damaged) == ([], [])


@pytest.mark.parametrize("end", range(0, len(FILES.octets(path_of(0, ".index"))), 3))
def test_an_index_that_ends_anywhere_is_made_anew(end):
    log, report = opened(with_file(path_of(0, ".index"), FILES.octets(path_of(0, ".index"))[:end]))
    assert contents(log) == EVERYTHING
    assert not report.damaged


class UnreadableFiles(FakeFiles):
    """On which the disk does not give some files."""

    suffix = ""

    def handles(self, limit):
        on = self

        class Refusing(FakeHandles):
            def read(self, path, position, size):
                if path.endswith(on.suffix):
                    raise OSError(5, "Input/output error", path)
                return super().read(path, position, size)

        return Refusing(self, limit)


def unreadable(suffix: str) -> UnreadableFiles:
    files = UnreadableFiles()
    for path in FILES.paths():
        files.make_directory(DIRECTORY)
        files.put(path, FILES.octets(path))
    files.suffix = suffix
    return files


def test_an_index_that_cannot_be_read_is_made_anew():
    log, report = opened(unreadable(".index"))
    assert contents(log) == EVERYTHING
    assert not report.damaged


@pytest.mark.parametrize("suffix", [".log", ".settled"])
def test_messages_that_cannot_be_read_end_the_start(suffix):
    """The octets may be there, and are not given up: whoever runs the broker hears which file it is."""
    files = unreadable(suffix)
    before = {path: files.octets(path) for path in files.paths()}
    with pytest.raises(OSError, match="error") as caught:
        opened(files)
    assert caught.value.filename.endswith(suffix)
    assert {path: files.octets(path) for path in files.paths()} == before


@pytest.mark.parametrize("path", FILES.paths())
def test_a_file_of_zeros_costs_what_was_in_it_and_no_more(path):
    """At the start, or of a segment whose index fits when somebody reads there."""
    files = with_file(path, bytes(len(FILES.octets(path))))
    log, report = opened(files)
    if error := stumbled(log):
        report, _ = recovery.mend(files, files.handles(4), log, error)
    found = contents(log)
    if path.endswith(".index"):
        assert found == EVERYTHING
    elif path.endswith(".settled"):
        assert found.items() >= EVERYTHING.items()
        assert report.cut
    else:
        base = int(path.rpartition("/")[2].partition(".")[0])
        assert found == without(*range(base, base + 12))
        assert report.cut or report.damaged


@pytest.mark.parametrize("name", ["5.log", "0000000000000000000000000000099.log", "٣٣٣٣٣٣٣٣٣٣٣٣٣٣٣٣٣٣٣٣.log"])
def test_a_name_that_only_looks_like_a_segments_is_none(name):
    files = FILES.copy()
    files.put(f"{DIRECTORY}/{name}", b"something else")
    log, report = opened(files)
    assert contents(log) == EVERYTHING
    assert f"{DIRECTORY}/{name}" in files.paths()
    assert not report.damaged


def test_a_segment_that_is_gone_takes_nothing_else_with_it():
    for base, lost in ((0, range(12)), (12, range(12, 24)), (24, range(24, 33))):
        log, _ = opened(with_file(path_of(base, ".log"), None))
        assert contents(log) == without(*lost)
        assert log.next_offset > max(contents(log))


def test_files_that_are_none_of_a_log_are_left_alone():
    files = FILES.copy()
    for name in ("x.log", ".log", "notes", "1.settled.old"):
        files.put(f"{DIRECTORY}/{name}", b"something")
    log, _ = opened(files)
    assert contents(log) == EVERYTHING
    assert files.octets(f"{DIRECTORY}/notes") == b"something"


def test_what_a_rewrite_had_not_finished_is_removed():
    octets = FILES.octets(FIRST)
    for size in range(0, len(octets), 50):
        files = with_file(path_of(0, ".rewrite"), octets[:size])
        log, report = opened(files)
        assert contents(log) == EVERYTHING
        assert (report.cut, report.damaged) == ([], [])
        assert path_of(0, ".rewrite") not in files.paths()


def test_settlements_of_what_a_rewrite_left_out_are_passed_over():
    owner = LogOwner(segment_size_max=540)
    for _ in range(12):
        owner.append(1)
        owner.commit()
    owner.settle(range(0, 5))
    owner.commit()
    assert owner.rewrite()
    assert owner.files.octets(path_of(0, ".settled"))
    owner.files.put(path_of(0, ".index"), b"")
    owner.reopen(owner.files.copy())


# ---- settlements ----


@pytest.mark.parametrize("base", [0, 12, 24])
def test_broken_settlements_bring_messages_back_and_lose_none(base):
    path = path_of(base, ".settled")
    octets = FILES.octets(path)
    settled = {offset: OWNER.safe[offset] for offset in OWNER.settled}
    broken = [(flipped(octets, at, bits), True) for at in range(len(octets)) for bits in BITS]
    broken += [(octets[:size], size % 24 != 0) for size in range(len(octets))]
    broken += [(octets + bytes(size), True) for size in (1, 8, 100)]
    for settlements, said in broken:
        files = with_file(path, settlements)
        log, report = opened(files)
        found = contents(log)
        assert EVERYTHING.items() <= found.items()
        assert found.items() <= {**EVERYTHING, **settled}.items()
        assert bool(report.cut or report.damaged) == said
        assert log.live == len(found)
        goes_on(files, log, found)


def test_no_settlements_at_all():
    log, _ = opened(with_file(path_of(12, ".settled"), None))
    assert contents(log) == EVERYTHING | {offset: OWNER.safe[offset] for offset in (13, 14)}


def test_settlements_of_a_segment_that_is_gone_keep_its_offsets_from_being_given_out():
    owner = LogOwner()
    owner.append(5)
    owner.commit()
    owner.settle(range(5))
    owner.commit()
    owner.files.remove(path_of(0, ".log"))
    log, _ = opened(owner.files.copy())
    assert log.next_offset == 5


# ---- somebody who knows what a batch looks like ----


@pytest.mark.parametrize("offset", [1 << 21, 1 << 40, (1 << 63) - 1])
@pytest.mark.parametrize("alone", [False, True])
def test_a_batch_in_the_body_of_a_message_cannot_make_offsets_run_away(offset, alone):
    """It is found when the header before it is torn."""
    forged = b"".join(batches.encode(offset, 1, [b"f" * 24]).buffers)
    hostile = b"".join(batches.encode(33, 1, [b"h" * 40 + forged]).buffers)
    before = b"" if alone else FILES.octets(LAST)
    log, _ = opened(with_file(LAST, before + bytes(20) + hostile[20:]))
    assert log.next_offset <= (OFFSET_MAX if alone else 34)
    found = contents(log)
    expected = without(*range(24, 33)) if alone else EVERYTHING
    assert expected.items() <= found.items()


@pytest.mark.parametrize("last", [False, True])
def test_a_batch_in_the_body_of_a_damaged_message_is_not_served(last):
    forged = b"".join(batches.encode(34, 1, [b"f" * 24]).buffers)
    hostile = b"".join(batches.encode(33, 1, [b"h" * 40 + forged]).buffers)
    behind = b"" if last else b"".join(batches.encode(34, 1, [b"s" * 24]).buffers)
    octets = FILES.octets(LAST)
    for at in range(12, len(hostile)):  # of what is before that, the length is a part
        log, _ = opened(with_file(LAST, octets + flipped(hostile, at, 0x01) + behind))
        assert log.next_offset == (34 if last and at in range(12, 16) else 33 if last else 35)
        found = [batch.payload for batch in log.read(33)]
        assert found[-1:] != [b"f" * 24]
