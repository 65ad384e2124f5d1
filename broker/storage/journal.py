"""The journal: one file that makes a commit to many logs safe with one sync.

Flow:   the flusher encodes a commit as one record and syncs it; the logs' files follow at leisure, and
        when they are synced too the journal is dropped. Recovery lays what it holds over the logs.
Shape:  `<number, 20 digits>.journal` in the journal folder, big endian, records one after another
        size u32 of the rest | crc u32 of the entries | entry*
        entry: kind u8 = 1, a batch to be | log id u64 | length u32 of the payload | base offset u64
               | record count u32 | attributes u16 | base timestamp u64 | max timestamp u64 | payload
        entry: kind u8 = 2, settlements | log id u64 | length u32 | (see `settlements`)
Limits: 4 GiB a record, from its size; the node starts another file at `journal_size_max`.
Why:    A record is kept or cut whole, so that what must happen together, as a transaction's publishes
        and acknowledgements, goes into one. 200 files took 40 ms with a sync each, one journal 0.8 ms.
        The entries are not batches yet, as what goes to the files later is put together by then: a
        queue that got a message in each of 200 commits gets one batch of 200.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import google_crc32c

from broker.storage import batch as batches
from broker.storage.batch import Batch
from broker.storage.file import Files
from broker.storage.settlements import Settlement, decode_entries, encode_entries

JOURNAL_SUFFIX: Final = ".journal"

_RECORD = struct.Struct(">II")
_ENTRY = struct.Struct(">BQI")
_BATCH_ENTRY = struct.Struct(">BQIQIHQQ")
_BATCH = 1
_SETTLEMENTS = 2


@dataclass(slots=True, eq=False)
class Entry:
    """What one commit did to one log, as recovery finds it."""

    log_id: int
    batches: list[Batch]
    settlements: list[Settlement]


def path(directory: str, number: int) -> str:
    return f"{directory}/{number:020d}{JOURNAL_SUFFIX}"


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


def settlements_entry(log_id: int, settlements: Sequence[Settlement]) -> bytes:
    octets = encode_entries(settlements)
    return _ENTRY.pack(_SETTLEMENTS, log_id, len(octets)) + octets


def encode_record(parts: Sequence[bytes]) -> bytes:
    """The record of one commit, of entries in pieces: all batches, then all settlements."""
    body = b"".join(parts)
    return _RECORD.pack(len(body) + 4, google_crc32c.value(body)) + body


@dataclass(slots=True, eq=False)
class JournalReport:
    """What was found in the journal folder."""

    entries: list[Entry]
    """In the order in which they were committed."""
    next_number: int
    paths: list[str]
    cut: list[str]
    """One line for each file that ended in the middle of a record."""


def recover(files: Files, directory: str) -> JournalReport:
    """Read all journal files; a record that was not finished ends its file."""
    report = JournalReport([], 1, [], [])
    reader = files.handles(1)
    for name in files.names(directory):
        if not name.endswith(JOURNAL_SUFFIX):
            continue
        found = f"{directory}/{name}"
        octets = reader.read(found, 0, max(files.size(found), 0))
        size = _read_records(octets, report.entries)
        if size < len(octets):
            report.cut.append(f"{found}: {len(octets) - size} octets after the last whole record")
        report.paths.append(found)
        report.next_number = int(name.removesuffix(JOURNAL_SUFFIX)) + 1
    reader.close()
    return report


def _read_records(octets: bytes, entries: list[Entry]) -> int:
    """Add the entries of whole records; returns how many octets these take."""
    at = 0
    while len(octets) - at >= _RECORD.size:
        size, crc = _RECORD.unpack_from(octets, at)
        start, end = at + _RECORD.size, at + 4 + size
        if size < 4 or end > len(octets) or google_crc32c.value(octets[start:end]) != crc:
            break
        entries.extend(_read_entries(octets, start, end))
        at = end
    return at


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
        else:
            at += _ENTRY.size
            entry.settlements.extend(decode_entries(octets[at : at + length]))
        entries.append(entry)
        at += length
    return entries
