"""How far a partition has been compacted: the first offset that is dirty.

Flow:   the compactor has it written at the end of each pass, and reads it when it first looks at a partition.
Shape:  `compacted` beside the segments, big endian: magic u32 "LVC1" | crc u32 of the rest | offset u64
Why:    Kept and not found out anew, as nothing in a segment says whether a later one has the same key: each
        start would compact everything once more. Never trusted: what is not whole means that all is dirty,
        which costs a pass and changes nothing. It is written in place for the same reason.
"""

from __future__ import annotations

import struct
from typing import Final

import google_crc32c

from broker.storage.file import Files, Handles
from broker.storage.log import Write

NAME: Final = "compacted"

_MAGIC = 0x4C564331
_FILE = struct.Struct(">IIQ")
_OFFSET = struct.Struct(">Q")


def first_dirty(files: Files, reader: Handles, directory: str) -> int:
    """0 if nobody has written it."""
    path = f"{directory}/{NAME}"
    if files.size(path) != _FILE.size:
        return 0
    octets = reader.read(path, 0, _FILE.size)
    reader.forget(path)
    return decode(octets)


def write_of(directory: str, offset: int) -> Write:
    """Everything before `offset` is compacted."""
    return Write(f"{directory}/{NAME}", 0, [encode(offset)], sync=True, created=True, last=True)


def encode(offset: int) -> bytes:
    return _FILE.pack(_MAGIC, google_crc32c.value(_OFFSET.pack(offset)), offset)


def decode(octets: bytes) -> int:
    """0 if it is not what `encode` made."""
    if len(octets) != _FILE.size:
        return 0
    magic, crc, offset = _FILE.unpack(octets)
    sound = magic == _MAGIC and crc == google_crc32c.value(_OFFSET.pack(offset))
    return offset if sound else 0
