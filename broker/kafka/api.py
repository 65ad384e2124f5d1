"""The APIs that are served, and whole requests and responses.

Flow:   `broker.kafka.connection` cuts frames; a server calls `read_request` and `write_response`, a client
        `write_request` and `read_response`.
Shape:  request   size i32 | key i16 | version i16 | correlation id i32 | client id string | [tags] | body
        response  size i32 | correlation id i32 | [tags] | body
        The tags are there in flexible versions; even then the client id has a length of 16 bits. Responses
        to ApiVersions never have tags in front: whoever asks does not know yet what the broker speaks.
Limits: the elements of all arrays and the tagged fields of a message, together. Bytes behind the body are
        ignored, as Kafka ignores them.
Spec:   Kafka protocol guide; KIP-482 (header versions), KIP-511 (ApiVersions).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from broker.kafka import wire
from broker.kafka.errors import RemoteProtocolError, UnsupportedVersion
from broker.kafka.requests import (
    cluster,
    configs,
    fetch,
    group_admin,
    groups,
    list_offsets,
    logs,
    metadata,
    offsets,
    produce,
    producers,
    sasl,
    topics,
    versions,
)
from broker.kafka.schema import Schema
from broker.kafka.wire import Part, Struct

# A Fetch of every partition of a large cluster has tens of thousands. An element of two bytes on the wire
# is an object of some hundred bytes here: this holds what a request can cost to a hundred times that.
REQUEST_ELEMENTS_MAX = 250_000
# A client asks for what it gets: Metadata of a large cluster has nine elements or so for a partition.
RESPONSE_ELEMENTS_MAX = 5_000_000
# No header has any yet.
HEADER_TAGS_MAX = 100

_REQUEST = struct.Struct(">hhih")
_REQUEST_HEAD = struct.Struct(">ihhi")
_RESPONSE = struct.Struct(">ii")
_SIZE = struct.Struct(">i")
_MALFORMED = (struct.error, IndexError, UnicodeDecodeError)


@dataclass(frozen=True, slots=True, eq=False)
class Api:
    """One kind of request; `advertised_min` is the least version that ApiVersions names."""

    key: int
    name: str
    min_version: int
    max_version: int
    advertised_min: int
    flexible_from: int
    request: Schema
    response: Schema

    def __repr__(self) -> str:
        return f"<Api {self.name}>"


@dataclass(slots=True, eq=False)
class Request:
    """What came; `records` in the body are views of the frame."""

    api: Api
    version: int
    correlation_id: int
    client_id: str | None
    body: Struct


APIS: dict[int, Api] = {}


def _served(
    key: int, served: tuple[int, int], request: Schema, response: Schema, advertised_min: int | None = None
) -> Api:
    first, last = served
    least = first if advertised_min is None else advertised_min
    name = request.name.removesuffix("Request")
    APIS[key] = Api(key, name, first, last, least, request.flexible_from, request, response)
    return APIS[key]


# Old librdkafka looks for exact versions of Produce in what a broker advertises, down to 0, and goes without
# compression and idempotence if it does not see them; it then sends 3 or later all the same.
PRODUCE = _served(0, (3, 12), produce.PRODUCE_REQUEST, produce.PRODUCE_RESPONSE, advertised_min=0)
FETCH = _served(1, (4, 16), fetch.FETCH_REQUEST, fetch.FETCH_RESPONSE)
LIST_OFFSETS = _served(2, (1, 8), list_offsets.LIST_OFFSETS_REQUEST, list_offsets.LIST_OFFSETS_RESPONSE)
METADATA = _served(3, (0, 12), metadata.METADATA_REQUEST, metadata.METADATA_RESPONSE)
OFFSET_COMMIT = _served(8, (2, 9), offsets.OFFSET_COMMIT_REQUEST, offsets.OFFSET_COMMIT_RESPONSE)
OFFSET_FETCH = _served(9, (1, 9), offsets.OFFSET_FETCH_REQUEST, offsets.OFFSET_FETCH_RESPONSE)
FIND_COORDINATOR = _served(10, (0, 6), groups.FIND_COORDINATOR_REQUEST, groups.FIND_COORDINATOR_RESPONSE)
JOIN_GROUP = _served(11, (0, 9), groups.JOIN_GROUP_REQUEST, groups.JOIN_GROUP_RESPONSE)
HEARTBEAT = _served(12, (0, 4), groups.HEARTBEAT_REQUEST, groups.HEARTBEAT_RESPONSE)
LEAVE_GROUP = _served(13, (0, 5), groups.LEAVE_GROUP_REQUEST, groups.LEAVE_GROUP_RESPONSE)
SYNC_GROUP = _served(14, (0, 5), groups.SYNC_GROUP_REQUEST, groups.SYNC_GROUP_RESPONSE)
DESCRIBE_GROUPS = _served(
    15, (0, 6), group_admin.DESCRIBE_GROUPS_REQUEST, group_admin.DESCRIBE_GROUPS_RESPONSE
)
LIST_GROUPS = _served(16, (0, 5), group_admin.LIST_GROUPS_REQUEST, group_admin.LIST_GROUPS_RESPONSE)
SASL_HANDSHAKE = _served(17, (0, 1), sasl.SASL_HANDSHAKE_REQUEST, sasl.SASL_HANDSHAKE_RESPONSE)
API_VERSIONS = _served(18, (0, 4), versions.API_VERSIONS_REQUEST, versions.API_VERSIONS_RESPONSE)
CREATE_TOPICS = _served(19, (2, 7), topics.CREATE_TOPICS_REQUEST, topics.CREATE_TOPICS_RESPONSE)
DELETE_TOPICS = _served(20, (1, 6), topics.DELETE_TOPICS_REQUEST, topics.DELETE_TOPICS_RESPONSE)
DELETE_RECORDS = _served(21, (0, 2), logs.DELETE_RECORDS_REQUEST, logs.DELETE_RECORDS_RESPONSE)
INIT_PRODUCER_ID = _served(
    22, (0, 5), producers.INIT_PRODUCER_ID_REQUEST, producers.INIT_PRODUCER_ID_RESPONSE
)
OFFSET_FOR_LEADER_EPOCH = _served(
    23, (2, 4), list_offsets.OFFSET_FOR_LEADER_EPOCH_REQUEST, list_offsets.OFFSET_FOR_LEADER_EPOCH_RESPONSE
)
DESCRIBE_CONFIGS = _served(32, (1, 4), configs.DESCRIBE_CONFIGS_REQUEST, configs.DESCRIBE_CONFIGS_RESPONSE)
ALTER_CONFIGS = _served(33, (0, 2), configs.ALTER_CONFIGS_REQUEST, configs.ALTER_CONFIGS_RESPONSE)
DESCRIBE_LOG_DIRS = _served(35, (1, 4), logs.DESCRIBE_LOG_DIRS_REQUEST, logs.DESCRIBE_LOG_DIRS_RESPONSE)
SASL_AUTHENTICATE = _served(36, (0, 2), sasl.SASL_AUTHENTICATE_REQUEST, sasl.SASL_AUTHENTICATE_RESPONSE)
CREATE_PARTITIONS = _served(37, (0, 3), topics.CREATE_PARTITIONS_REQUEST, topics.CREATE_PARTITIONS_RESPONSE)
DELETE_GROUPS = _served(42, (0, 2), group_admin.DELETE_GROUPS_REQUEST, group_admin.DELETE_GROUPS_RESPONSE)
ELECT_LEADERS = _served(43, (0, 2), cluster.ELECT_LEADERS_REQUEST, cluster.ELECT_LEADERS_RESPONSE)
INCREMENTAL_ALTER_CONFIGS = _served(
    44, (0, 1), configs.INCREMENTAL_ALTER_CONFIGS_REQUEST, configs.INCREMENTAL_ALTER_CONFIGS_RESPONSE
)
ALTER_PARTITION_REASSIGNMENTS = _served(
    45, (0, 0), cluster.ALTER_PARTITION_REASSIGNMENTS_REQUEST, cluster.ALTER_PARTITION_REASSIGNMENTS_RESPONSE
)
LIST_PARTITION_REASSIGNMENTS = _served(
    46, (0, 0), cluster.LIST_PARTITION_REASSIGNMENTS_REQUEST, cluster.LIST_PARTITION_REASSIGNMENTS_RESPONSE
)
OFFSET_DELETE = _served(47, (0, 0), offsets.OFFSET_DELETE_REQUEST, offsets.OFFSET_DELETE_RESPONSE)
DESCRIBE_CLUSTER = _served(60, (0, 2), metadata.DESCRIBE_CLUSTER_REQUEST, metadata.DESCRIBE_CLUSTER_RESPONSE)
DESCRIBE_PRODUCERS = _served(
    61, (0, 0), producers.DESCRIBE_PRODUCERS_REQUEST, producers.DESCRIBE_PRODUCERS_RESPONSE
)
LIST_CONFIG_RESOURCES = _served(
    74, (0, 1), configs.LIST_CONFIG_RESOURCES_REQUEST, configs.LIST_CONFIG_RESOURCES_RESPONSE
)
DESCRIBE_TOPIC_PARTITIONS = _served(
    75, (0, 0), metadata.DESCRIBE_TOPIC_PARTITIONS_REQUEST, metadata.DESCRIBE_TOPIC_PARTITIONS_RESPONSE
)


def read_request(frame: bytes) -> Request:
    """A frame, without its length prefix, that came from a client.

    Raises UnsupportedVersion for a key or version that is not served, RemoteProtocolError for garbage.
    """
    if len(frame) < _REQUEST.size:
        raise RemoteProtocolError(f"a request of {len(frame)} bytes is too short for its header")
    key, version, correlation_id, size = _REQUEST.unpack_from(frame)
    api = APIS.get(key)
    if api is None or not api.min_version <= version <= api.max_version:
        raise UnsupportedVersion(api, key, version, correlation_id)
    try:
        at = _REQUEST.size
        client_id = None
        if size >= 0:
            at += size
            if at > len(frame):
                raise wire.misfit("the client id", size, len(frame) - _REQUEST.size)
            client_id = frame[_REQUEST.size : at].decode()
        if version >= api.flexible_from:
            at = _skip_header_tags(frame, at) if frame[at] else at + 1
        body, _ = api.request.reader(version)(frame, at, REQUEST_ELEMENTS_MAX)
    except _MALFORMED as error:
        raise _malformed(api.request, version, frame, error) from None
    return Request(api, version, correlation_id, client_id, body)


def write_response(api: Api, version: int, correlation_id: int, body: Struct) -> list[Part]:
    """Length prefix, header and body, in as many pieces as there are records between them."""
    out = bytearray(_RESPONSE.pack(0, correlation_id))
    if version >= api.flexible_from and api is not API_VERSIONS:
        out.append(0)
    return _pieces(api.response, version, body, out)


def write_request(
    api: Api, version: int, correlation_id: int, client_id: str | None, body: Struct
) -> list[Part]:
    """Length prefix, header and body, in as many pieces as there are records between them."""
    out = bytearray(_REQUEST_HEAD.pack(0, api.key, version, correlation_id))
    if client_id is None:
        out += b"\xff\xff"
    else:
        encoded = client_id.encode()
        out += len(encoded).to_bytes(2, "big") + encoded
    if version >= api.flexible_from:
        out.append(0)
    return _pieces(api.request, version, body, out)


def read_response(api: Api, version: int, frame: bytes) -> tuple[int, Struct]:
    """Correlation id and body of a frame, without its length prefix, that came from a broker.

    Raises RemoteProtocolError for garbage.
    """
    try:
        correlation_id: int = _SIZE.unpack_from(frame)[0]
        at = _SIZE.size
        if version >= api.flexible_from and api is not API_VERSIONS:
            at = _skip_header_tags(frame, at)
        body, _ = api.response.reader(version)(frame, at, RESPONSE_ELEMENTS_MAX)
    except _MALFORMED as error:
        raise _malformed(api.response, version, frame, error) from None
    return correlation_id, body


def _pieces(schema: Schema, version: int, body: Struct, out: bytearray) -> list[Part]:
    parts: list[Part] = []
    out = schema.writer(version)(body, out, parts)
    if not parts:
        _SIZE.pack_into(out, 0, len(out) - 4)
        return [bytes(out)]
    if out:
        parts.append(out)
    _SIZE.pack_into(parts[0], 0, sum(map(len, parts)) - 4)
    return [bytes(part) if type(part) is bytearray else part for part in parts]


def _skip_header_tags(frame: bytes, at: int) -> int:
    count, at = wire.read_uvarint(frame, at)
    if count > HEADER_TAGS_MAX:
        raise wire.too_many("the header's tagged fields", count, len(frame) - at)
    return wire.skip_tags(frame, at, count)


def _malformed(schema: Schema, version: int, frame: bytes, error: Exception) -> RemoteProtocolError:
    reason = "has a string that is not UTF-8" if isinstance(error, UnicodeDecodeError) else "ends early"
    return RemoteProtocolError(f"{schema.name} v{version} of {len(frame)} bytes {reason}")
