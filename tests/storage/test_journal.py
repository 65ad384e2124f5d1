"""The journal: commits to many logs, read back in order. (What is left of broken ones: `tests/node/test_damage`.)"""

from broker.storage import journal
from broker.storage.batch import TRANSIENT
from broker.storage.settlements import Settlement
from fakes import FakeFiles

DIRECTORY = "/journal"
SALT = b"saltsalt"


def record(salt: bytes, log_id: int, offset: int, payload: bytes, *settled: Settlement) -> bytes:
    parts = [journal.batch_entry(log_id, offset, 2, TRANSIENT, 5, 6, len(payload)), payload]
    if settled:
        parts.append(journal.settlements_entry(log_id, settled))
    return b"".join(journal.encode_record(salt, parts))


def recovered(files: dict[str, bytes]) -> journal.JournalReport:
    on = FakeFiles()
    on.make_directory(DIRECTORY)
    for path, octets in files.items():
        on.put(path, octets)
    return journal.recover(on, DIRECTORY)


def test_nothing_is_found_where_nothing_is():
    report = journal.recover(FakeFiles(), DIRECTORY)
    assert (report.entries, report.paths, report.next_number) == ([], [], 1)


def test_what_was_committed_comes_back():
    settled = Settlement(1, 2, 3)
    path = journal.path(DIRECTORY, 4, SALT)
    report = recovered({path: record(SALT, 7, 100, b"payload", settled)})
    batch, settlements = report.entries
    assert (batch.log_id, settlements.log_id) == (7, 7)
    (made,) = batch.batches
    assert (made.base_offset, made.count, made.payload) == (100, 2, b"payload")
    assert (made.transient, made.base_timestamp, made.max_timestamp) == (True, 5, 6)
    assert settlements.settlements == [settled]
    assert report.paths == [path]
    assert report.next_number == 5
    assert (report.cut, report.damaged) == ([], [])


def test_files_are_read_in_the_order_of_their_numbers():
    numbers = (9, 10, 2)
    files = {journal.path(DIRECTORY, number, SALT): record(SALT, number, 0, b"x") for number in numbers}
    assert [entry.log_id for entry in recovered(files).entries] == [2, 9, 10]


def test_records_of_the_journal_that_had_the_file_before_are_none():
    others = record(b"othersal", 1, 0, b"x")
    path = journal.path(DIRECTORY, 1, SALT)
    for rest in (others, others[5:], bytes(100)):
        report = recovered({path: record(SALT, 2, 0, b"x") + rest})
        assert [entry.log_id for entry in report.entries] == [2]
        assert (report.cut, report.damaged) == ([], [])


def test_a_record_that_was_not_finished_is_cut():
    others = record(b"othersal", 1, 0, b"x" * 100)
    path = journal.path(DIRECTORY, 1, SALT)
    whole, torn = record(SALT, 2, 0, b"x"), record(SALT, 3, 0, b"y" * 50)[:40]
    report = recovered({path: whole + torn + others[40:]})
    assert [entry.log_id for entry in report.entries] == [2]
    assert report.cut == [f"{path}: a record at octet {len(whole)} was not finished, and is cut"]


def test_spares_are_removed():
    on = FakeFiles()
    on.make_directory(DIRECTORY)
    path = journal.path(DIRECTORY, 1, SALT)
    on.put(journal.spare_path(path), record(SALT, 1, 0, b"x"))
    report = journal.recover(on, DIRECTORY)
    assert (report.entries, report.paths, on.paths()) == ([], [], [])


def test_a_record_in_a_message_is_none():
    """Nobody outside knows the salt, and a record is skipped whole."""
    inner = record(SALT, 3, 0, b"x")
    path = journal.path(DIRECTORY, 1, SALT)
    report = recovered({path: record(SALT, 1, 0, inner) + record(SALT, 2, 0, b"x")})
    assert [entry.log_id for entry in report.entries] == [1, 2]
