"""The journal: one file that makes a commit to many logs safe with one sync.

Flow:   the flusher encodes a commit as one record and syncs it; the logs' files follow at leisure, and
        when they are synced too the journal is dropped. Recovery lays what it holds over the logs.
Shape:  `<number, 20 digits>.journal` in the journal folder, big endian, records one after another
        size u32 of the rest | crc u32 of the entries | entry*
        entry: kind u8 (1 batch, 2 settlements) | log id u64 | length u32 | octets
Limits: 4 GiB a record, from its size; the node starts another file at `journal_size_max`.
Why:    A record is kept or cut whole, so that what must happen together, as a transaction's publishes
        and acknowledgements, goes into one. 200 files took 40 ms with a sync each, one journal 0.8 ms.
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
_BATCH = 1
_SETTLEMENTS = 2


@dataclass(slots=True, eq=False)
class Entry:
    """What one commit did to one log."""

    log_id: int
    batches: list[Batch]
    settlements: list[Settlement]


def path(directory: str, number: int) -> str:
    return f"{directory}/{number:020d}{JOURNAL_SUFFIX}"


def encode_record(entries: Sequence[Entry]) -> bytes:
    """The record of one commit. In each log the batches come before the settlements."""
    parts: list[bytes] = []
    for entry in entries:
        for batch in entry.batches:
            parts.append(_ENTRY.pack(_BATCH, entry.log_id, batch.size))
            parts += batch.buffers
    for entry in entries:
        if entry.settlements:
            octets = encode_entries(entry.settlements)
            parts += (_ENTRY.pack(_SETTLEMENTS, entry.log_id, len(octets)), octets)
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
        at += _ENTRY.size
        entry = Entry(log_id, [], [])
        if kind == _BATCH:
            entry.batches.append(batches.decode(octets, at))
        else:
            entry.settlements.extend(decode_entries(octets[at : at + length]))
        entries.append(entry)
        at += length
    return entries
