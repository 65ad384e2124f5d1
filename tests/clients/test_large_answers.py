"""A client that asks on before a large answer has come, as librdkafka does: nobody is forgotten over it."""

from __future__ import annotations

import socket
import struct

import confluent
from patience import WAIT_S

FETCH, API_VERSIONS = 1, 18


def request(key, version, correlation, body):
    payload = struct.pack(">hhih", key, version, correlation, -1) + body
    return struct.pack(">i", len(payload)) + payload


def fetch(correlation, topic, offset):
    """Version 4: up to 4 MiB of the first partition, at once."""
    name = topic.encode()
    head = struct.pack(">iiiib", -1, 0, 1, 1 << 22, 0)
    body = struct.pack(f">ih{len(name)}siiqi", 1, len(name), name, 1, 0, offset, 1 << 22)
    return request(FETCH, 4, correlation, head + body)


def answer(stream):
    """The correlation id of the next one, and its size."""
    size, correlation = struct.unpack(">ii", stream.read(8))
    assert len(stream.read(size - 4)) == size - 4
    return correlation, size


def test_what_is_asked_behind_a_large_answer_is_answered(log_broker, topic):
    confluent.produce(confluent.producer(log_broker.bootstrap), topic, [bytes(1 << 18)] * 16, partition=0)
    host, port = log_broker.addresses["kafka"]
    with socket.create_connection((host, port), WAIT_S) as peer, peer.makefile("rb") as stream:
        for number in range(50):
            first, second = 2 * number, 2 * number + 1
            peer.sendall(fetch(first, topic, number % 8) + request(API_VERSIONS, 0, second, b""))
            correlation, size = answer(stream)
            assert correlation == first
            assert size > 1 << 20  # more than the broker holds before it handles the next one
            assert answer(stream)[0] == second
