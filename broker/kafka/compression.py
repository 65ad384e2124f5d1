"""Deflate and inflate what a record batch carries, with a limit on what comes out.

Flow:   `records` deflates a batch that it builds and inflates one that it opens; a batch that only passes
        through is never touched.
Shape:  gzip: one member. snappy: Java's stream, which is what we write, or one raw block, which some
        clients send:
          0x82 "SNAPPY" 0x00 | version i32 = 1 | compatible i32 = 1 | (size i32 | raw block)*
        lz4: the frame format with independent blocks, as Java's client refuses linked ones. zstd: frames.
Limits: `size_max` octets come out, or none; or a part, of which no more is kept than what comes before it. Nothing that a header promises is believed: a raw snappy block
        grows at most 22-fold, and for lz4 and zstd the room grows eightfold when it has been filled.
Spec:   Kafka's compression types 0 to 4; RFC 1952; the formats of snappy, snappy-java, lz4 and zstd.
Why:    cramjam has three of them in one wheel and is imported on first use, as most brokers never open a
        batch. zlib inflates gzip piece by piece and is quicker at it (24 to 26 us for 16 KiB of JSON).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from enum import IntEnum
from types import ModuleType
from typing import Any, Final


class Codec(IntEnum):
    """The lowest three bits of a batch's attributes."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4


class CompressionProblem(Exception):
    """This is not what the codec makes, or it would become too large."""


# Kafka's own defaults; lz4's is the quick one, which takes a fifth of the time of level 3.
_GZIP_LEVEL: Final = 6
_LZ4_LEVEL: Final = 1
_ZSTD_LEVEL: Final = 3

# Dropped at a time.
_DROPPED_MAX: Final = 256 * 1024

# zlib's way to say: with a gzip header, and the largest window.
_GZIP_WINDOW: Final = 31

_XERIAL_MAGIC: Final = b"\x82SNAPPY\0"
_XERIAL_HEADER: Final = _XERIAL_MAGIC + b"\0\0\0\1\0\0\0\1"
# What Java's writer puts into a block.
_XERIAL_BLOCK_SIZE: Final = 32 * 1024

# Three octets of snappy copy 64.
_SNAPPY_GROWTH_MAX: Final = 22

# JSON rarely grows more; each further try has as many times the room.
_GROWTH: Final = 8
_ROOM_MIN: Final = 4096
_ROOM_SHORT: Final = "failed to write whole buffer"


def deflate(codec: int, octets: bytes) -> bytes:
    """Make it smaller with one of the `Codec`s."""
    return _DEFLATE[codec](octets)


def inflate(codec: int, octets: bytes, size_max: int) -> bytes:
    """What was deflated, if it has at most `size_max` octets. Raises CompressionProblem."""
    inflate_one = _INFLATE.get(codec)
    if inflate_one is None:
        raise CompressionProblem(f"there is no codec {codec}")
    return inflate_one(octets, size_max)


def inflate_part(codec: int, octets: bytes, start: int, size: int) -> bytes:
    """So many bytes of what was deflated, from `start` on; fewer only at the end. Raises CompressionProblem.

    Where the codec allows it, what comes before `start` is dropped while it is inflated. cramjam has no way to go on
    where it stopped: for lz4 and zstd that takes room for the moment.
    """
    part_of = _PART.get(codec)
    if part_of is None:
        raise CompressionProblem(f"there is no codec {codec}")
    return part_of(octets, start, size)


def _cramjam() -> Any:
    import cramjam

    return cramjam


def _too_large(size_max: int) -> CompressionProblem:
    return CompressionProblem(f"it would have more than {size_max} octets")


def _as_it_is(octets: bytes) -> bytes:
    return octets


def _part(octets: bytes, start: int, size: int) -> bytes:
    return octets[start : start + size]


def _checked(octets: bytes, size_max: int) -> bytes:
    if len(octets) > size_max:
        raise _too_large(size_max)
    return octets


# ---- gzip ----


def _gzip(octets: bytes) -> bytes:
    member = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    return member.compress(octets) + member.flush()


def _gunzip(octets: bytes, size_max: int) -> bytes:
    member = zlib.decompressobj(_GZIP_WINDOW)
    try:
        inflated = member.decompress(octets, size_max + 1)
    except zlib.error as error:
        raise CompressionProblem(f"gzip: {error}") from error
    if len(inflated) > size_max:
        raise _too_large(size_max)
    if not member.eof or member.unused_data:
        raise CompressionProblem("gzip: not exactly one whole member")
    return inflated


def _gunzip_part(octets: bytes, start: int, size: int) -> bytes:
    member = zlib.decompressobj(_GZIP_WINDOW)
    try:
        while start > 0:
            dropped = member.decompress(octets, min(start, _DROPPED_MAX))
            octets = member.unconsumed_tail
            start -= len(dropped)
            if not dropped:
                return b""
        part = member.decompress(octets, size)
    except zlib.error as error:
        raise CompressionProblem(f"gzip: {error}") from error
    if len(part) < size and (not member.eof or member.unused_data):
        raise CompressionProblem("gzip: not exactly one whole member")
    return part


# ---- snappy ----


def _snap(octets: bytes) -> bytes:
    compress = _cramjam().snappy.compress_raw
    parts = [_XERIAL_HEADER]
    for start in range(0, len(octets), _XERIAL_BLOCK_SIZE):
        block = bytes(compress(octets[start : start + _XERIAL_BLOCK_SIZE]))
        parts += (len(block).to_bytes(4), block)
    return b"".join(parts)


def _unsnap(octets: bytes, size_max: int) -> bytes:
    if not octets.startswith(_XERIAL_MAGIC):
        return _unsnap_block(octets, size_max, size_max)
    parts: list[bytes] = []
    left = size_max
    for block in _xerial_blocks(octets):
        parts.append(_unsnap_block(block, left, size_max))
        left -= len(parts[-1])
    return b"".join(parts)


def _unsnap_part(octets: bytes, start: int, size: int) -> bytes:
    stop = start + size
    if not octets.startswith(_XERIAL_MAGIC):
        return _unsnap_block(octets, size_max := _SNAPPY_GROWTH_MAX * len(octets), size_max)[start:stop]
    parts: list[bytes] = []
    at = 0
    for block in _xerial_blocks(octets):
        before, at = at, at + _unsnapped_size(block)
        if at > start:
            parts.append(
                _unsnap_block(block, at - before, at - before)[max(start - before, 0) : stop - before]
            )
        if at >= stop:
            break
    return b"".join(parts)


def _xerial_blocks(octets: bytes) -> Iterator[bytes]:
    at, end = len(_XERIAL_HEADER), len(octets)
    if end < at:
        raise CompressionProblem("snappy: the header is cut short")
    while at < end:
        start = at + 4
        at = start + int.from_bytes(octets[at:start])
        if at > end:
            raise CompressionProblem("snappy: a block is cut short")
        yield octets[start:at]


def _unsnapped_size(octets: bytes) -> int:
    """As the block says; it cannot be more than it may grow."""
    cramjam = _cramjam()
    try:
        size: int = cramjam.snappy.decompress_raw_len(octets)
    except cramjam.DecompressionError as error:
        raise CompressionProblem(str(error)) from error
    if size > _SNAPPY_GROWTH_MAX * len(octets):
        raise CompressionProblem(f"snappy: {size} octets cannot come of {len(octets)}")
    return size


def _unsnap_block(octets: bytes, left: int, size_max: int) -> bytes:
    """One block that may have `left` octets, of a whole that may have `size_max`."""
    cramjam = _cramjam()
    if _unsnapped_size(octets) > left:
        raise _too_large(size_max)
    try:
        return bytes(cramjam.snappy.decompress_raw(octets))
    except cramjam.DecompressionError as error:
        raise CompressionProblem(str(error)) from error


# ---- lz4 and zstd ----


def _lz4(octets: bytes) -> bytes:
    frame = _cramjam().lz4.Compressor(level=_LZ4_LEVEL, content_checksum=False, block_linked=False)
    frame.compress(octets)
    return bytes(frame.finish())


def _unlz4(octets: bytes, size_max: int) -> bytes:
    return _grown(_cramjam().lz4, octets, size_max)


def _unlz4_part(octets: bytes, start: int, size: int) -> bytes:
    return _grown_part(_cramjam().lz4, octets, start, size)


def _zstd(octets: bytes) -> bytes:
    return bytes(_cramjam().zstd.compress(octets, level=_ZSTD_LEVEL))


def _unzstd(octets: bytes, size_max: int) -> bytes:
    return _grown(_cramjam().zstd, octets, size_max)


def _unzstd_part(octets: bytes, start: int, size: int) -> bytes:
    return _grown_part(_cramjam().zstd, octets, start, size)


def _grown(codec: ModuleType, octets: bytes, size_max: int) -> bytes:
    inflated, size = _beginning(codec, octets, max(_ROOM_MIN, _GROWTH * len(octets)), size_max)
    if size > size_max:
        raise _too_large(size_max)
    with memoryview(inflated) as whole:
        return bytes(whole[:size])


def _grown_part(codec: ModuleType, octets: bytes, start: int, size: int) -> bytes:
    stop = start + size
    room = stop if start else max(_ROOM_MIN, _GROWTH * len(octets))
    inflated, total = _beginning(codec, octets, room, stop)
    with memoryview(inflated) as whole:
        return bytes(whole[start : min(stop, total)])


def _beginning(codec: ModuleType, octets: bytes, room: int, size_max: int) -> tuple[bytearray, int]:
    """The first `size_max` bytes, and how many there are in all, or one more than those if that is unknown.

    Inflated into more and more room, which is filled when it was too little.
    """
    room = min(room, size_max)
    while True:
        inflated = bytearray(room)
        try:
            return inflated, codec.decompress_into(octets, inflated)
        except _cramjam().DecompressionError as error:
            if str(error) != _ROOM_SHORT:
                raise CompressionProblem(str(error)) from error
        if room == size_max:
            return inflated, room + 1
        room = min(size_max, _GROWTH * room)


_DEFLATE: Final[dict[int, Callable[[bytes], bytes]]] = {
    Codec.NONE: _as_it_is,
    Codec.GZIP: _gzip,
    Codec.SNAPPY: _snap,
    Codec.LZ4: _lz4,
    Codec.ZSTD: _zstd,
}
_PART: Final[dict[int, Callable[[bytes, int, int], bytes]]] = {
    Codec.NONE: _part,
    Codec.GZIP: _gunzip_part,
    Codec.SNAPPY: _unsnap_part,
    Codec.LZ4: _unlz4_part,
    Codec.ZSTD: _unzstd_part,
}
_INFLATE: Final[dict[int, Callable[[bytes, int], bytes]]] = {
    Codec.NONE: _checked,
    Codec.GZIP: _gunzip,
    Codec.SNAPPY: _unsnap,
    Codec.LZ4: _unlz4,
    Codec.ZSTD: _unzstd,
}
