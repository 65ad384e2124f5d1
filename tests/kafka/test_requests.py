"""Every request and response in every version that is served, beside kio's codec."""

from __future__ import annotations

import dataclasses
import random

import pytest

from broker.kafka import api
from broker.kafka.schema import Schema
from broker.kafka.wire import Part
from kafka_bodies import draw, kio_bytes, kio_class, kio_read, messages, name_of, rows, to_kio

BODIES = 12
ELEMENTS_MAX = 100_000

each_message = pytest.mark.parametrize("message", list(messages()), ids=name_of)


def joined(out: bytearray, parts: list[Part]) -> bytes:
    return b"".join(map(bytes, [*parts, out]))


@each_message
def test_kio_reads_and_writes_the_same_bytes(message: tuple[api.Api, int, Schema]) -> None:
    each, version, schema = message
    kind = kio_class(each, version, schema)
    write, read = schema.writer(version), schema.reader(version)
    rng = random.Random(name_of(message))
    for _ in range(BODIES):
        body = draw(rng, schema.fields, version)
        entity = to_kio(kind, schema.fields, version, body)
        parts: list[Part] = []
        octets = joined(write(body, bytearray(), parts), parts)

        assert kio_bytes(entity) == octets
        assert kio_read(kind, octets) == entity
        assert read(octets, 0, ELEMENTS_MAX) == (body, len(octets))


@each_message
def test_nulls_and_defaults_are_those_of_the_schema(message: tuple[api.Api, int, Schema]) -> None:
    each, version, schema = message
    for row in rows(kio_class(each, version, schema), schema.fields, version):
        ours, theirs = row.nullable
        assert (row.name, ours) == (row.name, theirs)
        ours, theirs = row.default
        assert theirs is dataclasses.MISSING or (row.name, ours) == (row.name, theirs)


@each_message
def test_a_message_stands_behind_a_header(message: tuple[api.Api, int, Schema]) -> None:
    each, version, schema = message
    body = draw(random.Random(name_of(message)), schema.fields, version)
    for client_id in (None, "", "größe"):
        if schema is each.request:
            pieces = api.write_request(each, version, 77, client_id, body)
            request = api.read_request(b"".join(pieces)[4:])
            found = (request.api, request.version, request.correlation_id, request.client_id, request.body)
            expected = (each, version, 77, client_id, body)
        else:
            pieces = api.write_response(each, version, 77, body)
            found = api.read_response(each, version, b"".join(pieces)[4:])
            expected = (77, body)

        assert found == expected
        assert int.from_bytes(pieces[0][:4]) == sum(map(len, pieces)) - 4
