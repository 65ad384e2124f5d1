"""Which partition a key belongs to, as Java's client decides it.

Flow:   the client and the bridge from AMQP ask for each record that has a key; one that has none may go
        anywhere, which is not decided here.
Spec:   Kafka's `Utils.murmur2`, `Utils.toPositive` and `BuiltInPartitioner.partitionForKey`: the same key
        has to land where the producers of other languages put it.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

_SEED: Final = 0x9747B28C
_FACTOR: Final = 0x5BD1E995
_MASK: Final = 0xFFFFFFFF
_POSITIVE: Final = 0x7FFFFFFF


def partition_for(key: bytes, count: int) -> int:
    """The partition of `count` that a key belongs to."""
    return (murmur2(key) & _POSITIVE) % count


def murmur2(octets: bytes) -> int:
    """Austin Appleby's MurmurHash2 with Kafka's seed, as an unsigned number of 32 bits."""
    size = len(octets)
    whole = size & ~3
    found = _SEED ^ size
    for word in _words(size // 4).unpack_from(octets):
        word = word * _FACTOR & _MASK
        word = (word ^ word >> 24) * _FACTOR & _MASK
        found = (found * _FACTOR ^ word) & _MASK
    if whole < size:
        found = (found ^ int.from_bytes(octets[whole:], "little")) * _FACTOR & _MASK
    found = (found ^ found >> 13) * _FACTOR & _MASK
    return found ^ found >> 15


@lru_cache(maxsize=64)
def _words(count: int) -> struct.Struct:
    """Keys mostly have one size or a few."""
    return struct.Struct(f"<{count}I")
