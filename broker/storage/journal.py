"""The journal: one file that makes a commit to many logs safe with one sync.

Flow:   the flusher encodes a commit as one record and syncs it; the logs' files follow at leisure, and
        when they are synced too the journal is retired: its file becomes a spare, which is the next journal's but
        one, or is removed. Recovery lays what journals hold over the logs, and removes spares.
Shape:  `<number, 20 digits>-<salt, 16 hex digits>.journal` in the journal folder, big endian, records one
        after another
        salt, 8 octets | size u32 of the entries | crc u32 of the entries | entry*
        entry: kind u8 = 1, a batch to be | log id u64 | length u32 of the payload | base offset u64
               | record count u32 | attributes u16 | base timestamp u64 | max timestamp u64 | payload
        entry: kind u8 = 2, settlements | log id u64 | length u32 | (see `settlements`)
        entry: kind u8 = 3, a whole batch | log id u64 | length u32 | (see `batch`)
        Behind the last record there may be those of the journal that had the file before, with another salt.
Limits: 4 GiB a record, from its size; the node starts another file at `journal_size_max`.
Why:    A record is kept or cut whole, so that what must happen together, as a transaction's publishes
        and acknowledgements, goes into one. 200 files took 40 ms with a sync each, one journal 0.8 ms.
        The salt is chosen anew for each file: behind a damaged record the next one is found by it, and
        nothing that a client ever sent can be taken for one.
        A file that is written over has its blocks and its size already: a sync writes nothing but data, and
        took 130 µs for records of 1 to 60 KiB where one of a growing file took 220 to 270 (ext4 without a
        journal of its own; with one, the difference is larger).
        The entries are not batches yet, as what goes to the files later is put together by then: a
        queue that got a message in each of 200 commits gets one batch of 200.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import google_crc32c

from broker.storage import batch as batches
from broker.storage.batch import Batch
from broker.storage.file import Files
from broker.storage.settlements import Settlement, decode_entries, encode_entries

JOURNAL_SUFFIX: Final = ".journal"
SALT_SIZE: Final = 8

_SPARE_SUFFIX = ".spare"
_NAME = re.compile(rf"(\d{{20}})-([0-9a-f]{{{2 * SALT_SIZE}}})\{JOURNAL_SUFFIX}")
_RECORD = struct.Struct(f">{SALT_SIZE}sII")
_ENTRY = struct.Struct(">BQI")
_BATCH_ENTRY = struct.Struct(">BQIQIHQQ")
_BATCH = 1
_SETTLEMENTS = 2
_WHOLE_BATCH = 3


@dataclass(slots=True, eq=False)
class Entry:
    """What one commit did to one log, as recovery finds it."""

    log_id: int
    batches: list[Batch]
    settlements: list[Settlement]


def path(directory: str, number: int, salt: bytes) -> str:
    assert len(salt) == SALT_SIZE
    return f"{directory}/{number:020d}-{salt.hex()}{JOURNAL_SUFFIX}"


def batch_entry(
    log_id: int,
    base_offset: int,
    count: int,
    attributes: int,
    base_timestamp: int,
    max_timestamp: int,
    size: int,
) -> bytes:
    """The beginning of an entry; `size` octets of payload follow it."""
    return _BATCH_ENTRY.pack(
        _BATCH,
        log_id,
        size,
        base_offset,
        count,
        attributes,
        base_timestamp,
        max_timestamp,
    )


def whole_batch_entry(log_id: int, size: int) -> bytes:
    """The beginning of an entry; the `size` octets of the batch follow it."""
    return _ENTRY.pack(_WHOLE_BATCH, log_id, size)


def settlements_entry(log_id: int, settlements: Sequence[Settlement]) -> bytes:
    octets = encode_entries(settlements)
    return _ENTRY.pack(_SETTLEMENTS, log_id, len(octets)) + octets


def spare_path(path: str) -> str:
    """Name of a journal whose records are in the files: recovery does not read it."""
    return path + _SPARE_SUFFIX


def encode_record(salt: bytes, parts: Sequence[bytes]) -> list[bytes]:
    """The record of one commit in two pieces, of entries in pieces: all batches, then all settlements; one at least."""
    assert parts
    body = b"".join(parts)
    return [_RECORD.pack(salt, len(body), google_crc32c.value(body)), body]


@dataclass(slots=True, eq=False)
class JournalReport:
    """What was found in the journal folder."""

    entries: list[Entry] = field(default_factory=list)
    """In the order in which they were committed."""
    next_number: int = 1
    paths: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    """A line for each file whose last record was not finished, and never confirmed."""
    damaged: list[str] = field(default_factory=list)
    """A line for each place with whole records behind it that are read nevertheless."""


def recover(files: Files, directory: str) -> JournalReport:
    """Read all journal files, and sync them; a record that was not finished ends its file.

    A killed process may not have synced them. If they went, one log could have what another one lacks.
    """
    report = JournalReport()
    reader = files.handles(1)
    for name in files.names(directory):
        found = f"{directory}/{name}"
        if name.endswith(f"{JOURNAL_SUFFIX}{_SPARE_SUFFIX}"):
            files.remove(found)
        known = _NAME.fullmatch(name)
        if known is None:
            continue
        octets = reader.read(found, 0, max(files.size(found), 0))
        reader.sync(found)
        _read_records(octets, bytes.fromhex(known[2]), found, report)
        report.paths.append(found)
        report.next_number = int(known[1]) + 1
    if report.paths:
        files.sync_directory(directory)
    reader.close()
    return report


def _read_records(octets: bytes, salt: bytes, found: str, report: JournalReport) -> None:
    at = 0
    while at < len(octets):
        end = _record_end(octets, at, salt)
        if end:
            report.entries += _read_entries(octets, at + _RECORD.size, end)
            at = end
            continue
        following = octets.find(salt, at + 1)
        while following >= 0 and not _record_end(octets, following, salt):
            following = octets.find(salt, following + 1)
        if following < 0:
            if octets.startswith(salt, at):
                report.cut.append(f"{found}: a record at octet {at} was not finished, and is cut")
            return
        size = following - at
        report.damaged.append(f"{found} at octet {at}: {size} octets are no records and passed over")
        at = following


def _record_end(octets: bytes, at: int, salt: bytes) -> int:
    """Where the record that starts here ends; 0 if none does."""
    if len(octets) - at < _RECORD.size or not octets.startswith(salt, at):
        return 0
    _, size, crc = _RECORD.unpack_from(octets, at)
    start = at + _RECORD.size
    end: int = start + size
    whole = size and end <= len(octets) and google_crc32c.value(octets[start:end]) == crc
    return end if whole else 0


def _read_entries(octets: bytes, at: int, end: int) -> list[Entry]:
    entries: list[Entry] = []
    while at < end:
        kind, log_id, length = _ENTRY.unpack_from(octets, at)
        entry = Entry(log_id, [], [])
        if kind == _BATCH:
            _, _, _, base_offset, count, attributes, base, latest = _BATCH_ENTRY.unpack_from(octets, at)
            at += _BATCH_ENTRY.size
            payload = [octets[at : at + length]]
            batch = batches.encode(
                base_offset,
                count,
                payload,
                attributes=attributes,
                base_timestamp=base,
                max_timestamp=latest,
            )
            entry.batches.append(batch)
        elif kind == _WHOLE_BATCH:
            at += _ENTRY.size
            entry.batches.append(batches.decode(octets, at))
        else:
            at += _ENTRY.size
            entry.settlements.extend(decode_entries(octets[at : at + length]))
        entries.append(entry)
        at += length
    return entries
