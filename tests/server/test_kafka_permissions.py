"""What a user may do over Kafka's protocol: configure, write and read, on the names of topics and groups."""

from __future__ import annotations

from typing import Any

import pytest

from broker.kafka import api
from broker.kafka.errors import ErrorCode
from kafka_here import KafkaHere
from kafka_wire import KafkaClient, batch, fetch_body, produce_body

NO_TOPIC = ErrorCode.TOPIC_AUTHORIZATION_FAILED
NO_GROUP = ErrorCode.GROUP_AUTHORIZATION_FAILED
NO_CLUSTER = ErrorCode.CLUSTER_AUTHORIZATION_FAILED
RIGHTS = ("configure", "write", "read")
CONFIGURE, WRITE, READ = ({right} for right in RIGHTS)
ANY = {"configure", "write", "read"}

# Group and member of requests that are about them.
_MEMBER = {"group_id": "mine", "member_id": "", "generation_id": -1, "generation_id_or_member_epoch": -1}
_ONE = {"partition_index": 0}


def _configs(**more: Any) -> list[dict[str, Any]]:
    return [{"name": "retention.ms", "value": "1", **more}]


def _of_topic(**more: Any) -> list[dict[str, Any]]:
    return [{"resource_type": 2, "resource_name": "mine", **more}]


TOPIC_REQUESTS: dict[str, tuple[api.Api, dict[str, Any], int | None, set[str]]] = {
    "metadata": (api.METADATA, {"topics": [{"name": "mine"}]}, None, ANY),
    "partitions": (api.DESCRIBE_TOPIC_PARTITIONS, {"topics": [{"name": "mine"}]}, None, ANY),
    "produce": (api.PRODUCE, produce_body("mine", batch([b"v"])), None, WRITE),
    "fetch": (api.FETCH, fetch_body({("mine", 0): 0}), 12, READ),
    "offsets": (
        api.LIST_OFFSETS,
        {"replica_id": -1, "topics": [{"name": "mine", "partitions": [{**_ONE, "timestamp": -1}]}]},
        None,
        ANY,
    ),
    "epochs": (
        api.OFFSET_FOR_LEADER_EPOCH,
        {"topics": [{"topic": "mine", "partitions": [{"partition": 0, "leader_epoch": 0}]}]},
        None,
        ANY,
    ),
    "delete": (api.DELETE_TOPICS, {"topics": [{"name": "mine"}]}, None, CONFIGURE),
    "extend": (
        api.CREATE_PARTITIONS,
        {"topics": [{"name": "mine", "count": 3, "assignments": None}]},
        None,
        CONFIGURE,
    ),
    "records": (
        api.DELETE_RECORDS,
        {"topics": [{"name": "mine", "partitions": [{**_ONE, "offset": 0}]}]},
        None,
        CONFIGURE,
    ),
    "producers": (
        api.DESCRIBE_PRODUCERS,
        {"topics": [{"name": "mine", "partition_indexes": [0]}]},
        None,
        READ,
    ),
    "elections": (
        api.ELECT_LEADERS,
        {"topic_partitions": [{"topic": "mine", "partitions": [0]}]},
        None,
        CONFIGURE,
    ),
    "reassignments": (
        api.ALTER_PARTITION_REASSIGNMENTS,
        {"topics": [{"name": "mine", "partitions": [{**_ONE, "replicas": [1]}]}]},
        None,
        CONFIGURE,
    ),
    "configs": (
        api.DESCRIBE_CONFIGS,
        {"resources": _of_topic(configuration_keys=None)},
        None,
        ANY,
    ),
    "alter": (api.ALTER_CONFIGS, {"resources": _of_topic(configs=_configs())}, None, CONFIGURE),
    "alter some": (
        api.INCREMENTAL_ALTER_CONFIGS,
        {"resources": _of_topic(configs=_configs(config_operation=0))},
        None,
        CONFIGURE,
    ),
}

GROUP_REQUESTS: dict[str, tuple[api.Api, dict[str, Any], int | None, set[str]]] = {
    "coordinator": (api.FIND_COORDINATOR, {"key_type": 0, "coordinator_keys": ["mine"]}, None, ANY),
    "old coordinator": (api.FIND_COORDINATOR, {"key_type": 0, "key": "mine"}, 0, ANY),
    "join": (
        api.JOIN_GROUP,
        {**_MEMBER, "session_timeout_ms": 10_000, "protocol_type": "consumer", "protocols": []},
        None,
        READ,
    ),
    "sync": (api.SYNC_GROUP, {**_MEMBER, "assignments": []}, None, READ),
    "heartbeat": (api.HEARTBEAT, _MEMBER, None, READ),
    "leave": (api.LEAVE_GROUP, {**_MEMBER, "members": []}, None, READ),
    "commit": (
        api.OFFSET_COMMIT,
        {**_MEMBER, "topics": [{"name": "t", "partitions": [{**_ONE, "committed_offset": 1}]}]},
        None,
        READ,
    ),
    "fetch": (api.OFFSET_FETCH, {"groups": [{"group_id": "mine", "topics": None}]}, None, ANY),
    "describe": (api.DESCRIBE_GROUPS, {"groups": ["mine"]}, None, ANY),
    "delete": (api.DELETE_GROUPS, {"groups_names": ["mine"]}, None, CONFIGURE),
    "delete offsets": (api.OFFSET_DELETE, {"group_id": "mine", "topics": []}, None, CONFIGURE),
}


def codes_in(found: Any) -> set[int]:
    """All error codes in an answer, at whatever depth."""
    if isinstance(found, list):
        return set().union(*map(codes_in, found))
    if isinstance(found, dict):
        own = {value for key, value in found.items() if key == "error_code"}
        return own.union(*map(codes_in, found.values()))
    return set()


async def user_with(kafka: KafkaHere, **rights: str) -> KafkaClient:
    name = "-".join(rights) or "nobody"
    kafka.add_user(name, **{right: rights.get(right, "") for right in RIGHTS})
    return await kafka.log_in(name)


@pytest.mark.parametrize("name", TOPIC_REQUESTS)
async def test_what_a_topic_is_used_for_needs_a_right(kafka, wire, name):
    each, body, version, allowing = TOPIC_REQUESTS[name]
    for right in RIGHTS:
        await wire.create("mine")
        client = await user_with(kafka, **{right: "^mine$"})
        codes = codes_in(await client.call(each, body, version))
        assert (NO_TOPIC not in codes) == (right in allowing), right
        refused = await client.call(each, _renamed(body), version)
        assert NO_TOPIC in codes_in(refused), right
        await wire.call(api.DELETE_TOPICS, {"topics": [{"name": "mine"}]})


@pytest.mark.parametrize("name", GROUP_REQUESTS)
async def test_what_a_group_is_used_for_needs_a_right(kafka, wire, name):
    await wire.create("t")
    each, body, version, allowing = GROUP_REQUESTS[name]
    for right in RIGHTS:
        client = await user_with(kafka, **{right: "^mine$"})
        codes = codes_in(await client.call(each, body, version))
        assert (NO_GROUP not in codes) == (right in allowing), right
        assert NO_GROUP in codes_in(await client.call(each, _renamed(body), version)), right


def _renamed(body: Any) -> Any:
    """The same request about what is somebody else's."""
    if isinstance(body, dict):
        return {key: _renamed(value) for key, value in body.items()}
    if isinstance(body, list):
        return [_renamed(value) for value in body]
    return "yours" if body == "mine" else body


def test_every_request_about_a_topic_or_a_group_is_here():
    asked = {each for each, *_ in (*TOPIC_REQUESTS.values(), *GROUP_REQUESTS.values())}
    others = {
        api.API_VERSIONS,
        api.SASL_HANDSHAKE,
        api.SASL_AUTHENTICATE,
        api.INIT_PRODUCER_ID,  # a number, of which there are enough
        api.CREATE_TOPICS,  # from here on: below
        api.LIST_GROUPS,
        api.DESCRIBE_CLUSTER,
        api.DESCRIBE_LOG_DIRS,
        api.LIST_PARTITION_REASSIGNMENTS,
        api.LIST_CONFIG_RESOURCES,
    }
    assert asked | others == set(api.APIS.values())


# ---- others' topics are not there ----


async def test_a_topic_is_made_by_who_may_configure_it(kafka):
    client = await user_with(kafka, configure="^mine")
    wanted = [
        {"name": name, "num_partitions": 1, "replication_factor": 1, "assignments": [], "configs": []}
        for name in ("mine", "yours")
    ]
    for validate_only in (True, False):
        body = {"topics": wanted, "validate_only": validate_only}
        found = (await client.call(api.CREATE_TOPICS, body))["topics"]
        assert [one["error_code"] for one in found] == [ErrorCode.NONE, NO_TOPIC]
    assert [topic.name for topic in kafka.node.topics.topics()] == ["mine"]


async def test_a_topic_is_made_automatically_for_who_may_configure_it(kafka):
    client = await user_with(kafka, configure="^mine", read=".*")
    body = {"topics": [{"name": "mine"}, {"name": "yours"}], "allow_auto_topic_creation": True}
    found = (await client.call(api.METADATA, body))["topics"]
    assert [one["error_code"] for one in found] == [ErrorCode.NONE, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]


async def test_only_what_one_may_use_is_listed(kafka, wire):
    for name in ("mine", "yours"):
        await wire.create(name)
        kafka.node.groups.hosted(name)
    made = (await wire.call(api.METADATA, {"topics": [{"name": "yours"}]}))["topics"][0]["topic_id"]
    client = await user_with(kafka, read="^mine|^$")
    topics = (await client.call(api.METADATA, {"topics": None}))["topics"]
    assert [topic["name"] for topic in topics] == ["mine"]
    described = (await client.call(api.DESCRIBE_TOPIC_PARTITIONS, {"topics": []}))["topics"]
    assert [topic["name"] for topic in described] == ["mine"]
    groups = (await client.call(api.LIST_GROUPS, {}))["groups"]
    assert [group["group_id"] for group in groups] == ["mine"]
    (folder,) = (await client.call(api.DESCRIBE_LOG_DIRS, {"topics": None}))["results"]
    assert [topic["name"] for topic in folder["topics"]] == ["mine"]
    resources = (await client.call(api.LIST_CONFIG_RESOURCES, {"resource_types": [2]}))["config_resources"]
    assert [one["resource_name"] for one in resources] == ["mine"]
    # By an id that somebody told.
    (found,) = (await client.call(api.METADATA, {"topics": [{"name": None, "topic_id": made}]}))["topics"]
    assert (found["error_code"], found["name"]) == (ErrorCode.UNKNOWN_TOPIC_ID, None)
    body = {"topics": [{"name": None, "topic_id": made}]}
    (gone,) = (await client.call(api.DELETE_TOPICS, body))["responses"]
    assert (gone["error_code"], gone["name"]) == (ErrorCode.UNKNOWN_TOPIC_ID, None)
    fetched = await client.call(api.FETCH, fetch_body({(made, 0): 0}))
    (partition,) = fetched["responses"][0]["partitions"]
    assert partition["error_code"] == NO_TOPIC
    assert await _is_there(kafka, "yours")


async def _is_there(kafka, name):
    return kafka.node.topics.find("/", name) is not None


async def test_deleting_by_an_id_needs_the_right_too(kafka, wire):
    made = await wire.create("mine")
    client = await user_with(kafka, read="^mine")
    body = {"topics": [{"name": None, "topic_id": made["topic_id"]}]}
    (refused,) = (await client.call(api.DELETE_TOPICS, body))["responses"]
    assert refused["error_code"] == NO_TOPIC
    assert await _is_there(kafka, "mine")


async def test_offsets_are_committed_and_fetched_for_topics_that_one_may_read(kafka, wire):
    await wire.create("mine")
    await wire.create("yours")
    client = await user_with(kafka, read="^mine|^group$")
    partitions = [{**_ONE, "committed_offset": 1}]
    body = {
        **_MEMBER,
        "group_id": "group",
        "topics": [{"name": name, "partitions": partitions} for name in ("mine", "yours")],
    }
    found = (await client.call(api.OFFSET_COMMIT, body))["topics"]
    assert [topic["partitions"][0]["error_code"] for topic in found] == [ErrorCode.NONE, NO_TOPIC]
    await wire.call(api.OFFSET_COMMIT, body)
    asked = {"groups": [{"group_id": "group", "topics": None}]}
    (group,) = (await client.call(api.OFFSET_FETCH, asked))["groups"]
    assert [topic["name"] for topic in group["topics"]] == ["mine"]
    topics = [{"name": "yours", "partition_indexes": [0]}]
    (group,) = (await client.call(api.OFFSET_FETCH, {"groups": [{"group_id": "group", "topics": topics}]}))[
        "groups"
    ]
    assert group["topics"][0]["partitions"][0]["error_code"] == NO_TOPIC


async def test_who_may_do_anything_else_with_a_topic_may_see_its_offsets(kafka, wire):
    await wire.create("mine")
    partitions = [{**_ONE, "committed_offset": 1}]
    body = {**_MEMBER, "group_id": "group", "topics": [{"name": "mine", "partitions": partitions}]}
    await wire.call(api.OFFSET_COMMIT, body)
    client = await user_with(kafka, read="^group$", write="^mine$")
    (refused,) = (await client.call(api.OFFSET_COMMIT, body))["topics"]
    assert refused["partitions"][0]["error_code"] == NO_TOPIC
    for topics in (None, [{"name": "mine", "partition_indexes": [0]}]):
        asked = {"groups": [{"group_id": "group", "topics": topics}]}
        (group,) = (await client.call(api.OFFSET_FETCH, asked))["groups"]
        (found,) = group["topics"][0]["partitions"]
        assert (found["error_code"], found["committed_offset"]) == (ErrorCode.NONE, 1)


async def test_offsets_are_deleted_of_topics_that_one_may_read(kafka, wire):
    for name in ("mine", "yours"):
        await wire.create(name)
        topics = [{"name": name, "partitions": [{**_ONE, "committed_offset": 1}]}]
        await wire.call(api.OFFSET_COMMIT, {**_MEMBER, "group_id": "group", "topics": topics})
    client = await user_with(kafka, configure=".*", read="^mine$")
    body = {
        "group_id": "group",
        "topics": [{"name": name, "partitions": [_ONE]} for name in ("yours", "mine")],
    }
    answer = await client.call(api.OFFSET_DELETE, body)
    codes = [topic["partitions"][0]["error_code"] for topic in answer["topics"]]
    assert (answer["error_code"], codes) == (ErrorCode.NONE, [NO_TOPIC, ErrorCode.NONE])
    committed = kafka.node.groups.find("group").committed
    assert [(topic, number) for topic, number, _ in committed] == [("yours", 0)]


async def test_operations_on_a_group_are_told_as_they_are_allowed(kafka):
    kafka.node.groups.hosted("mine")
    read, delete, describe = 1 << 3, 1 << 6, 1 << 8
    for right, operations in (("read", read), ("configure", delete), ("write", 0)):
        client = await user_with(kafka, **{right: "^mine$"})
        body = {"groups": ["mine"], "include_authorized_operations": True}
        (group,) = (await client.call(api.DESCRIBE_GROUPS, body))["groups"]
        assert group["authorized_operations"] == operations | describe
        (listed,) = (await client.call(api.LIST_GROUPS, {}))["groups"]
        assert listed["group_id"] == "mine"


# ---- the cluster ----


async def test_the_cluster_is_for_who_may_do_anything(kafka):
    """Its name is empty: a pattern with nothing in front and behind matches it."""
    broker = {"resource_type": 4, "resource_name": "1", "configuration_keys": None}
    alter = {
        "resources": [{"resource_type": 4, "resource_name": "1", "configs": _configs(config_operation=0)}]
    }
    everybody = await user_with(kafka, read=".*")
    (found,) = (await everybody.call(api.DESCRIBE_CONFIGS, {"resources": [broker]}))["results"]
    assert (found["error_code"], found["configs"] != []) == (ErrorCode.NONE, True)
    (refused,) = (await everybody.call(api.INCREMENTAL_ALTER_CONFIGS, alter))["responses"]
    assert refused["error_code"] == NO_CLUSTER
    client = await user_with(kafka, configure="^mine", read="^mine", write="^mine")
    (found,) = (await client.call(api.DESCRIBE_CONFIGS, {"resources": [broker]}))["results"]
    assert (found["error_code"], found["configs"]) == (NO_CLUSTER, [])
    folders = await client.call(api.DESCRIBE_LOG_DIRS, {"topics": None})
    assert (folders["error_code"], folders["results"]) == (NO_CLUSTER, [])
    resources = await client.call(api.LIST_CONFIG_RESOURCES, {"resource_types": [4]})
    assert (resources["error_code"], resources["config_resources"]) == (ErrorCode.NONE, [])


async def test_operations_on_the_cluster_are_told_as_they_are_allowed(kafka):
    """Only those that a cluster has: nothing is read from it, written to it or deleted with it."""
    create, alter, describe, act, describe_configs, alter_configs, write = (
        1 << number for number in (5, 7, 8, 9, 10, 11, 12)
    )
    seen = describe | describe_configs
    for rights, expected in (
        ({"read": ".*"}, seen),
        ({"write": ".*"}, seen | write),
        ({"configure": ".*"}, seen | create | alter | act | alter_configs),
        ({"read": ".*", "write": ".*", "configure": ".*"}, 8096),
        ({"read": "^mine$"}, 0),
    ):
        client = await user_with(kafka, **rights)
        body = {"include_cluster_authorized_operations": True}
        answer = await client.call(api.DESCRIBE_CLUSTER, body)
        assert answer["cluster_authorized_operations"] == expected
        answer = await client.call(api.METADATA, {"topics": [], **body}, 8)
        assert answer["cluster_authorized_operations"] == expected


async def test_operations_are_told_as_they_are_allowed(kafka, wire):
    await wire.create("mine")
    client = await user_with(kafka, read="^mine", configure="^mine")
    body = {"topics": [{"name": "mine"}], "include_topic_authorized_operations": True}
    (topic,) = (await client.call(api.METADATA, body))["topics"]
    read, write, delete = 1 << 3, 1 << 4, 1 << 6
    assert topic["topic_authorized_operations"] & (read | write | delete) == read | delete


async def test_permissions_may_change_while_somebody_is_connected(kafka, wire):
    await wire.create("mine")
    client = await user_with(kafka, write="^mine")
    assert (await client.produce("mine", [b"v"]))["error_code"] == ErrorCode.NONE
    kafka.node.accounts.put_permission("/", "write", "", "", "")
    assert (await client.produce("mine", [b"v"]))["error_code"] == NO_TOPIC
    kafka.node.accounts.delete_permission("/", "write")
    assert (await client.produce("mine", [b"v"]))["error_code"] == NO_TOPIC


async def test_a_deleted_user_may_do_nothing_any_more(kafka, wire):
    await wire.create("mine")
    client = await user_with(kafka, write="^mine")
    assert (await client.produce("mine", [b"v"]))["error_code"] == ErrorCode.NONE
    kafka.node.accounts.delete_user("write")
    assert (await client.produce("mine", [b"v"]))["error_code"] == NO_TOPIC
