"""An offset that is written down beside a log's segments, and costs little if it is forgotten.

Flow:   `COMPACTED` is how far a partition has been compacted: the compactor writes it at the end of each pass, and reads
        it when it first looks at a partition. `SAFE` is how far its records are on the disk for certain: a partition
        writes it now and then, and recovery reads it when it finds a hole. `joined` is of one segment: up to where
        others are part of it now (see `rewrite`).
Shape:  a file with that name, big endian: magic u32, "LVC1", "LVS1" or "LVJ1" | crc u32 of the rest | offset u64
Why:    Nothing in a segment says whether a later one has the same key, or whether what stands there was synced when the
        process ended. Never trusted: what is not whole is 0, which means one pass more, or one sign less
        that a hole is damage. It is written in place for the same reason.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import google_crc32c

from broker.storage.file import Files, Handles
from broker.storage.segment import JOINED_SUFFIX
from broker.storage.write import Write

_FILE = struct.Struct(">IIQ")
_OFFSET = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class Noted:
    """A kind of such a file."""

    name: str
    magic: int
    sync: bool
    """It is on the disk when it is written; otherwise some time later."""

    def read(self, files: Files, reader: Handles, directory: str) -> int:
        """0 if nobody has written it, or nobody can read it."""
        path = f"{directory}/{self.name}"
        if files.size(path) != _FILE.size:
            return 0
        try:
            octets = reader.read(path, 0, _FILE.size)
        except OSError:
            return 0
        reader.forget(path)
        return self.decode(octets)

    def write_of(self, directory: str, offset: int) -> Write:
        octets = [self.encode(offset)]
        return Write(f"{directory}/{self.name}", 0, octets, self.sync, created=self.sync, last=True)

    def encode(self, offset: int) -> bytes:
        return _FILE.pack(self.magic, google_crc32c.value(_OFFSET.pack(offset)), offset)

    def decode(self, octets: bytes) -> int:
        """0 if it is not what `encode` made."""
        if len(octets) != _FILE.size:
            return 0
        magic, crc, offset = _FILE.unpack(octets)
        sound = magic == self.magic and crc == google_crc32c.value(_OFFSET.pack(offset))
        return offset if sound else 0


COMPACTED: Final = Noted("compacted", 0x4C564331, sync=True)
SAFE: Final = Noted("safe", 0x4C565331, sync=False)


def joined(base_offset: int) -> Noted:
    """Of the segment that begins there."""
    return Noted(f"{base_offset:020d}{JOINED_SUFFIX}", 0x4C564A31, sync=True)
