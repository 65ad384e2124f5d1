"""Compression: what goes in comes out, other implementations agree, and bombs do not go off."""

import gzip
import subprocess
import sys
import tracemalloc

import cramjam
import lz4.frame
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from broker.kafka.compression import Codec, CompressionProblem, deflate, inflate, inflate_part
from kafka_python import codec as kafka_python
from patience import PROGRAM_S

CODECS = list(Codec)
DEFLATING = CODECS[1:]
MIB = 1024 * 1024
JSON = b"".join(b'{"number": %d, "name": "user %d"}' % (n, n * 7919 % 1000) for n in range(4000))

OTHERS = {
    Codec.GZIP: (kafka_python.gzip_encode, gzip.decompress),
    Codec.SNAPPY: (kafka_python.snappy_encode, kafka_python.snappy_decode),
    Codec.LZ4: (kafka_python.lz4_encode, lz4.frame.decompress),
    Codec.ZSTD: (
        kafka_python.zstd_encode,
        lambda octets: zstandard.ZstdDecompressor().decompress(octets, MIB),
    ),
}


def zstd_bomb(blocks: int) -> bytes:
    """Four octets for each 128 KiB of zeros."""
    size_and_run = (128 * 1024) << 3 | 1 << 1
    run = size_and_run.to_bytes(3, "little") + b"\0"
    last = (size_and_run | 1).to_bytes(3, "little") + b"\0"
    return b"\x28\xb5\x2f\xfd\x00\x58" + run * (blocks - 1) + last


def zstd_promise(size: int) -> bytes:
    """One empty block, in a frame that says it has so many octets."""
    return b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little") + b"\1\0\0"


# All below 128 KiB, and 16 MiB or much more when inflated.
BOMBS = {
    "gzip": (Codec.GZIP, gzip.compress(bytes(64 * MIB), 9)),
    "zstd": (Codec.ZSTD, zstd_bomb(8192)),
    "zstd that promises": (Codec.ZSTD, zstd_promise(1 << 40)),
    "zstd window": (Codec.ZSTD, b"\x28\xb5\x2f\xfd\x00\xff\1\0\0"),
    "lz4": (Codec.LZ4, deflate(Codec.LZ4, bytes(16 * MIB))),
    "snappy that promises": (Codec.SNAPPY, b"\xff\xff\xff\xff\x0f" + bytes(100)),
    "xerial that promises": (
        Codec.SNAPPY,
        b"\x82SNAPPY\0\0\0\0\1\0\0\0\1" + b"\0\0\0\x05\xff\xff\xff\xff\x0f" * 20,
    ),
}


@pytest.mark.parametrize("codec", CODECS)
@given(
    st.binary(max_size=300)
    | st.builds(lambda part, times: part * times, st.binary(max_size=30), st.integers(0, 5000))
)
def test_what_goes_in_comes_out_if_it_may_be_so_large(codec, octets):
    deflated = deflate(codec, octets)
    assert inflate(codec, deflated, len(octets)) == octets
    assert inflate(codec, deflated, len(octets) + 1) == octets
    if octets:
        with pytest.raises(CompressionProblem):
            inflate(codec, deflated, len(octets) - 1)


@pytest.mark.parametrize("codec", DEFLATING)
@pytest.mark.parametrize("octets", [b"x", JSON, bytes(MIB)], ids=["one octet", "JSON", "zeros"])
def test_others_read_ours_and_we_read_theirs(codec, octets):
    others_deflate, others_inflate = OTHERS[codec]
    assert others_inflate(deflate(codec, octets)) == octets
    assert inflate(codec, others_deflate(octets), MIB) == octets


@pytest.mark.parametrize("codec", CODECS)
@given(st.integers(0, len(JSON) + 5000), st.integers(1, 20_000))
def test_a_part_is_what_the_whole_has_there(codec, start, size):
    deflated = deflate(codec, JSON)
    assert inflate_part(codec, deflated, start, size) == JSON[start : start + size]
    if codec in OTHERS:
        assert inflate_part(codec, OTHERS[codec][0](JSON), start, size) == JSON[start : start + size]


@pytest.mark.parametrize("codec", DEFLATING)
@given(st.data())
def test_a_part_of_garbage_is_refused_or_is_not_too_large(codec, data):
    whole = bytearray(deflate(codec, JSON))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    start, size = data.draw(st.integers(0, len(JSON))), data.draw(st.integers(1, 10_000))
    try:
        assert len(inflate_part(codec, bytes(whole), start, size)) <= size
    except CompressionProblem:
        pass


@pytest.mark.parametrize("codec", DEFLATING)
def test_it_becomes_smaller(codec):
    assert len(deflate(codec, JSON)) < len(JSON) / 3


def test_lz4_blocks_do_not_need_the_ones_before_them():
    magic, flags = deflate(Codec.LZ4, JSON)[:4], deflate(Codec.LZ4, JSON)[4]
    assert magic == b"\x04\x22\x4d\x18"
    # Version 1, independent blocks; whether there is a checksum or a size is left to the writer.
    assert flags & 0b1110_0000 == 0b0110_0000


def test_snappy_comes_as_one_block_or_in_javas_stream():
    raw = bytes(cramjam.snappy.compress_raw(JSON))
    assert inflate(Codec.SNAPPY, raw, MIB) == JSON
    ours = deflate(Codec.SNAPPY, JSON)
    assert ours.startswith(b"\x82SNAPPY\0\0\0\0\1\0\0\0\1")
    first_size = int.from_bytes(ours[16:20])
    assert bytes(cramjam.snappy.decompress_raw(ours[20 : 20 + first_size])) == JSON[: 32 * 1024]


@pytest.mark.parametrize("codec", DEFLATING)
def test_what_is_cut_short_or_goes_on_is_refused(codec):
    deflated = deflate(codec, JSON)
    for cut in (0, 1, 3, 10, 19, len(deflated) // 2, len(deflated) - 1):
        with pytest.raises(CompressionProblem):
            inflate(codec, deflated[:cut], MIB)
    with pytest.raises(CompressionProblem):
        inflate(codec, deflated + b"rest", MIB)


def test_a_snappy_block_cannot_promise_what_it_cannot_hold():
    promise = b"\x80\x80\x80\x80\x02" + bytes(100)  # 512 MiB
    with pytest.raises(CompressionProblem, match="536870912 octets cannot come of 105"):
        inflate(Codec.SNAPPY, promise, 1024 * MIB)
    assert inflate(Codec.SNAPPY, bytes(cramjam.snappy.compress_raw(bytes(MIB))), MIB) == bytes(MIB)


@pytest.mark.parametrize("codec", [-1, 5, 6, 7])
def test_other_codecs_are_refused(codec):
    with pytest.raises(CompressionProblem, match="there is no codec"):
        inflate(codec, b"", MIB)


@pytest.mark.parametrize("codec", DEFLATING)
@given(st.data())
def test_garbage_is_refused_or_inflated_within_the_limit(codec, data):
    whole = bytearray(deflate(codec, data.draw(st.sampled_from((b"", b"abc", JSON[:500], JSON)))))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place] = data.draw(st.integers(0, 255))
    for octets in (bytes(whole), data.draw(st.binary(max_size=100))):
        try:
            assert len(inflate(codec, octets, 100_000)) <= 100_000
        except CompressionProblem:
            pass


@pytest.mark.parametrize("codec", DEFLATING)
def test_garbage_costs_little(codec):
    """Room is not made again and again for what will never inflate."""
    tracemalloc.start()
    try:
        with pytest.raises(CompressionProblem):
            inflate(codec, b"garbage!" * 10, 1024 * MIB)
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused(name):
    codec, octets = BOMBS[name]
    assert len(octets) < 128 * 1024
    with pytest.raises(CompressionProblem):
        inflate(codec, octets, MIB)


@pytest.mark.parametrize("name", BOMBS)
def test_the_first_part_of_a_bomb_takes_no_more_room_than_that(name):
    codec, octets = BOMBS[name]
    tracemalloc.start()
    try:
        inflate_part(codec, octets, 0, 10_000)
    except CompressionProblem:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 * 128 * 1024


_CHILD = """
import resource, sys
from broker.kafka import compression, records
print("cramjam" in sys.modules)
compression.inflate(4, compression.deflate(4, b"so that it is imported"), 100)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = used + 32 * 1024 * 1024
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for line in sys.stdin:
    codec, octets = line.split()
    try:
        compression.inflate(int(codec), bytes.fromhex(octets), 1024 * 1024)
    except compression.CompressionProblem:
        print("refused")
"""


def test_bombs_allocate_little_and_cramjam_is_imported_late():
    bombs = "".join(f"{codec:d} {octets.hex()}\n" for codec, octets in BOMBS.values())
    child = subprocess.run(
        [sys.executable, "-c", _CHILD], input=bombs, capture_output=True, text=True, timeout=PROGRAM_S
    )
    assert child.stdout.split() == ["False"] + ["refused"] * len(BOMBS), child.stderr
