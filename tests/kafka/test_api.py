"""Headers, and what is served in which versions."""

from __future__ import annotations

import pytest
from kio.schema.errors import ErrorCode as Known
from kio.schema.request_header.v1.header import RequestHeader as HeaderV1
from kio.schema.request_header.v2.header import RequestHeader as HeaderV2
from kio.static.primitive import i16, i32

from broker.kafka import api
from broker.kafka.errors import ErrorCode, RemoteProtocolError, UnsupportedVersion
from kafka_bodies import kio_bytes


@pytest.mark.parametrize("client_id", [None, "", "rdkafka"])
@pytest.mark.parametrize(("version", "header"), [(2, HeaderV1), (4, HeaderV2)])
def test_the_client_id_has_the_old_form_in_either_header(
    version: int, header: type[HeaderV1] | type[HeaderV2], client_id: str | None
) -> None:
    expected = header(
        request_api_key=i16(18),
        request_api_version=i16(version),
        correlation_id=i32(-5),
        client_id=client_id,
    )
    body = {"client_software_name": "x"}
    (octets,) = api.write_request(api.API_VERSIONS, version, -5, client_id, body)

    assert octets[4:].startswith(kio_bytes(expected))
    assert api.read_request(octets[4:]).client_id == client_id


def test_tagged_fields_of_a_header_are_skipped() -> None:
    frame = bytes.fromhex("0003 000c 00000007 0002 6d65  02 00 03 616263 05 00") + b"\0\1\0\0"
    request = api.read_request(frame)

    assert (request.api, request.client_id, request.body["topics"]) == (api.METADATA, "me", None)


def test_responses_to_api_versions_have_no_tagged_fields_in_front() -> None:
    (octets,) = api.write_response(api.API_VERSIONS, 3, 9, {"error_code": 35})
    (other,) = api.write_response(api.HEARTBEAT, 4, 9, {"error_code": 35})

    # error, no keys, throttle time, no tagged fields
    assert octets[8:] == bytes.fromhex("0023 01 00000000 00")
    # no tagged fields, throttle time, error, no tagged fields
    assert other[8:] == bytes.fromhex("00 00000000 0023 00")


@pytest.mark.parametrize(
    ("key", "version", "known"),
    [(18, 5, api.API_VERSIONS), (0, 2, api.PRODUCE), (0, 13, api.PRODUCE), (1, -1, api.FETCH), (4, 0, None)],
)
def test_what_is_not_served(key: int, version: int, known: api.Api | None) -> None:
    frame = key.to_bytes(2) + version.to_bytes(2, signed=True) + (77).to_bytes(4) + b"\xff\xff garbage"

    with pytest.raises(UnsupportedVersion) as raised:
        api.read_request(frame)
    error = raised.value
    assert (error.api, error.key, error.version, error.correlation_id) == (known, key, version, 77)


@pytest.mark.parametrize("size", range(10))
def test_a_request_without_a_whole_header_is_refused(size: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"a request of {size} bytes is too short"):
        api.read_request(bytes(size))


def test_a_client_id_that_is_longer_than_the_frame_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="the client id has a size of 9, and 2 bytes are left"):
        api.read_request(bytes.fromhex("0003 0001 00000007 0009 6d65"))


def test_text_that_is_not_utf8_is_refused() -> None:
    frame = bytes.fromhex("0003 0001 00000007 ffff  00000001 0002 c3 28")

    with pytest.raises(
        RemoteProtocolError, match="MetadataRequest v1 of 18 bytes has a string that is not UTF-8"
    ):
        api.read_request(frame)


def test_what_stands_behind_the_body_is_ignored() -> None:
    frame = bytes.fromhex("0003 0001 00000007 ffff  ffffffff  00 11 22")

    assert api.read_request(frame).body["topics"] is None


def test_a_response_comes_in_pieces_around_its_records() -> None:
    class Range:
        def __len__(self) -> int:
            return 1_000_000

    stored = Range()
    partitions = [{"partition_index": 0, "records": stored}, {"partition_index": 1, "records": b"few"}]
    body = {"responses": [{"topic": "orders", "partitions": partitions}]}
    for version in range(api.FETCH.min_version, api.FETCH.max_version + 1):
        head, middle, tail = api.write_response(api.FETCH, version, 1, body)

        assert middle is stored
        assert int.from_bytes(head[:4]) == len(head) - 4 + 1_000_000 + len(tail)
        whole = (head + bytes(1_000_000) + tail)[4:]
        _, found = api.read_response(api.FETCH, version, whole)
        assert [len(each["records"]) for each in found["responses"][0]["partitions"]] == [1_000_000, 3]


def test_records_that_end_a_response_leave_no_empty_piece_behind() -> None:
    large = b"r" * 10_000
    body = {"responses": [{"topic": "orders", "partitions": [{"records": large}]}]}
    pieces = api.write_response(api.FETCH, 4, 1, body)

    assert [len(pieces), pieces[-1] is large] == [2, True]


def test_only_produce_advertises_versions_that_it_does_not_take() -> None:
    differing = {
        each.name: each.advertised_min
        for each in api.APIS.values()
        if each.advertised_min != each.min_version
    }

    assert differing == {"Produce": 0}


def test_error_codes_are_those_of_kafka() -> None:
    ours = {code.value: code.name.lower() for code in ErrorCode}
    assert {code.value: code.name for code in Known}.items() <= ours.items()
    assert set(range(-1, 137)) == set(ours)
