"""What a request names a thousand times is in the answer once: otherwise a small request makes a huge answer."""

from __future__ import annotations

import pytest

from broker.kafka import api
from kafka_wire import batch, produce_body

TIMES = 1000
_PARTITION = {"partition_index": 0, "committed_offset": 1, "committed_metadata": "m" * 4000}
_COMMIT = {"group_id": "g", "member_id": "", "generation_id_or_member_epoch": -1}
_FETCHED = {"group_id": "g", "topics": [{"name": "t", "partition_indexes": [0] * 50}]}

REQUESTS = {
    "topics": (api.METADATA, {"topics": [{"name": "t"}] * TIMES}, None),
    "groups": (api.DESCRIBE_GROUPS, {"groups": ["g"] * TIMES}, None),
    "offsets": (api.OFFSET_FETCH, {"groups": [_FETCHED] * TIMES}, None),
    "all offsets": (api.OFFSET_FETCH, {"groups": [{"group_id": "g", "topics": None}] * TIMES}, None),
    "old offsets": (api.OFFSET_FETCH, {**_FETCHED, "topics": _FETCHED["topics"] * TIMES}, 1),
    "producers": (
        api.DESCRIBE_PRODUCERS,
        {"topics": [{"name": "t", "partition_indexes": [0] * 50}] * TIMES},
        None,
    ),
    "configs": (
        api.DESCRIBE_CONFIGS,
        {"resources": [{"resource_type": 2, "resource_name": "t", "configuration_keys": None}] * TIMES},
        None,
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_each_is_answered_once(wire, name):
    await wire.create("t", 2)
    octets = batch([b"v"], producer_id=1, producer_epoch=0, base_sequence=0)
    await wire.call(api.PRODUCE, produce_body("t", octets))
    await wire.call(api.OFFSET_COMMIT, _COMMIT | {"topics": [{"name": "t", "partitions": [_PARTITION]}]})
    each, body, version = REQUESTS[name]
    version = each.max_version if version is None else version
    answer = await wire.call(each, body, version)
    size = sum(map(len, api.write_response(each, version, 1, answer)))
    assert 20 < size < 20_000


async def test_what_is_asked_of_a_group_in_parts_is_answered_together(wire):
    await wire.create("t", 3)
    partitions = [{"partition_index": number, "committed_offset": number} for number in range(3)]
    await wire.call(api.OFFSET_COMMIT, _COMMIT | {"topics": [{"name": "t", "partitions": partitions}]})
    parts = [{"group_id": "g", "topics": [{"name": "t", "partition_indexes": [number]}]} for number in (2, 0)]
    (group,) = (await wire.call(api.OFFSET_FETCH, {"groups": parts}))["groups"]
    found = {one["partition_index"]: one["committed_offset"] for one in group["topics"][0]["partitions"]}
    assert found == {2: 2, 0: 0}
    parts.append({"group_id": "g", "topics": None})
    (group,) = (await wire.call(api.OFFSET_FETCH, {"groups": parts}))["groups"]
    assert len(group["topics"][0]["partitions"]) == 3
