"""Deflate and inflate what a record batch carries, with a limit on what comes out.

Flow:   `records` deflates a batch that it builds and inflates one that it opens; a batch that only passes
        through is never touched.
Shape:  gzip: one member. snappy: Java's stream, which is what we write, or one raw block, which some
        clients send:
          0x82 "SNAPPY" 0x00 | version i32 = 1 | compatible i32 = 1 | (size i32 | raw block)*
        lz4: the frame format with independent blocks, as Java's client refuses linked ones. zstd: frames.
Limits: `size_max` octets come out, or none. Nothing that a header promises is believed: a raw snappy block
        grows at most 22-fold, and for lz4 and zstd the room grows eightfold when it has been filled.
Spec:   Kafka's compression types 0 to 4; RFC 1952; the formats of snappy, snappy-java, lz4 and zstd.
Why:    cramjam has three of them in one wheel and is imported on first use, as most brokers never open a
        batch. zlib inflates gzip piece by piece and is quicker at it (24 to 26 us for 16 KiB of JSON).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
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


def _cramjam() -> Any:
    import cramjam

    return cramjam


def _too_large(size_max: int) -> CompressionProblem:
    return CompressionProblem(f"it would have more than {size_max} octets")


def _as_it_is(octets: bytes) -> bytes:
    return octets


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
    at, end = len(_XERIAL_HEADER), len(octets)
    if end < at:
        raise CompressionProblem("snappy: the header is cut short")
    while at < end:
        start = at + 4
        at = start + int.from_bytes(octets[at:start])
        if at > end:
            raise CompressionProblem("snappy: a block is cut short")
        parts.append(_unsnap_block(octets[start:at], left, size_max))
        left -= len(parts[-1])
    return b"".join(parts)


def _unsnap_block(octets: bytes, left: int, size_max: int) -> bytes:
    """One block that may have `left` octets, of a whole that may have `size_max`."""
    cramjam = _cramjam()
    try:
        size: int = cramjam.snappy.decompress_raw_len(octets)
        if size > left:
            raise _too_large(size_max)
        if size > _SNAPPY_GROWTH_MAX * len(octets):
            raise CompressionProblem(f"snappy: {size} octets cannot come of {len(octets)}")
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


def _zstd(octets: bytes) -> bytes:
    return bytes(_cramjam().zstd.compress(octets, level=_ZSTD_LEVEL))


def _unzstd(octets: bytes, size_max: int) -> bytes:
    return _grown(_cramjam().zstd, octets, size_max)


def _grown(codec: ModuleType, octets: bytes, size_max: int) -> bytes:
    """Inflate into more and more room; cramjam has no way to go on where it stopped."""
    room = min(size_max, max(_ROOM_MIN, _GROWTH * len(octets)))
    while True:
        inflated = bytearray(room)
        try:
            size = codec.decompress_into(octets, inflated)
        except _cramjam().DecompressionError as error:
            if str(error) != _ROOM_SHORT:
                raise CompressionProblem(str(error)) from error
        else:
            with memoryview(inflated) as whole:
                return bytes(whole[:size])
        if room == size_max:
            raise _too_large(size_max)
        room = min(size_max, _GROWTH * room)


_DEFLATE: Final[dict[int, Callable[[bytes], bytes]]] = {
    Codec.NONE: _as_it_is,
    Codec.GZIP: _gzip,
    Codec.SNAPPY: _snap,
    Codec.LZ4: _lz4,
    Codec.ZSTD: _zstd,
}
_INFLATE: Final[dict[int, Callable[[bytes, int], bytes]]] = {
    Codec.NONE: _checked,
    Codec.GZIP: _gunzip,
    Codec.SNAPPY: _unsnap,
    Codec.LZ4: _unlz4,
    Codec.ZSTD: _unzstd,
}
