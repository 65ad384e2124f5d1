"""Keys land where Java's client puts them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kafka_python
from broker.kafka.partitioner import murmur2, partition_for

# What Kafka's own tests (UtilsTest) say of these, as Java's signed numbers.
HASHES = [
    (b"21", -973932308),
    (b"foobar", -790332482),
    (b"a-little-bit-long-string", -985981536),
    (b"a-little-bit-longer-string", -1486304829),
    (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
    (b"abc", 479470107),
]


@pytest.mark.parametrize(("octets", "java"), HASHES)
def test_the_hash_is_javas(octets, java):
    assert murmur2(octets) == java % (1 << 32)


@given(st.binary(max_size=70))
def test_the_hash_is_that_of_kafka_python(octets):
    assert murmur2(octets) == kafka_python.murmur2(octets) % (1 << 32)


@given(st.binary(max_size=20), st.integers(1, 1000))
def test_the_sign_is_cut_off_before_the_rest_is_taken(key, count):
    assert partition_for(key, count) == (murmur2(key) & 0x7FFFFFFF) % count


def test_a_key_whose_hash_is_negative():
    # -973932308 & 0x7fffffff = 1173551340
    assert partition_for(b"21", 1000) == 340
    assert partition_for(b"21", 1) == 0
