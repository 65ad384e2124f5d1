"""Record batches for tests: of records that are drawn, and such as no producer makes."""

import struct
from dataclasses import replace

import google_crc32c
from hypothesis import strategies as st

from broker.kafka.compression import Codec
from broker.kafka.records import Record, build

MIB = 1024 * 1024
NOW = 1_700_000_000_000

octets = st.none() | st.binary(max_size=20) | st.binary(min_size=60, max_size=140)
headers = st.lists(st.tuples(st.text(max_size=5), octets), max_size=3)
times = st.integers(0, 1 << 42) | st.integers(NOW, NOW + 200)
lists_of_records = st.lists(
    st.builds(Record, st.just(0), times, octets, octets, headers), min_size=1, max_size=8
)
codecs = st.sampled_from(list(Codec))
SOME = [
    Record(0, NOW + 5, b"a", b"one"),
    Record(1, NOW, None, None, [("h", b"x"), ("h", None)]),
    Record(2, NOW, b"b"),
]


def numbered(some, base_offset=0):
    return [replace(record, offset=base_offset + index) for index, record in enumerate(some)]


def changed(batch, at, form, *values):
    """With other values there, and a crc that fits."""
    octets = bytearray(batch)
    struct.pack_into(form, octets, at, *values)
    octets[17:21] = google_crc32c.value(bytes(octets[21:])).to_bytes(4)
    return bytes(octets)


def batch_of(payload, count, **fields):
    """Whatever the payload is."""
    head = bytearray(build([Record(0, 0)])[:61])
    struct.pack_into(">i", head, 8, 49 + len(payload))
    struct.pack_into(">i", head, 23, count - 1)
    struct.pack_into(">i", head, 57, count)
    batch = bytes(head) + payload
    return changed(batch, 21, ">h", fields.get("codec", 0))
