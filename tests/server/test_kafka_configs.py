"""Configurations of topics and of the broker, described and altered by Kafka's requests."""

from __future__ import annotations

import pytest

from broker.kafka import api
from broker.kafka.errors import ErrorCode
from broker.model.group_limits import GroupLimits
from broker.model.topic import CONFIGS
from broker.node.groups import GroupOptions
from broker.server.kafka.config_texts import BROKER_NAMES, DOCUMENTATION, NO_EFFECT
from kafka_here import kafka_here
from kafka_wire import batch, values_of

TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP = 2, 4, 8, 16, 32
SET, DELETE, APPEND, SUBTRACT = range(4)
OF_TOPIC, OF_FILE, OF_DEFAULT = 1, 4, 5


async def described(wire, kind, name, *, keys=None, version=None, **options):
    """The result, with the entries by name."""
    resource = {"resource_type": kind, "resource_name": name, "configuration_keys": keys}
    body = {"resources": [resource], **options}
    (result,) = (await wire.call(api.DESCRIBE_CONFIGS, body, version))["results"]
    assert (result["resource_type"], result["resource_name"]) == (kind, name)
    names = [entry["name"] for entry in result["configs"]]
    assert len(names) == len(set(names))
    return {**result, "configs": {entry["name"]: entry for entry in result["configs"]}}


async def altered(wire, *changes, kind=TOPIC, name="t", validate_only=False, version=None):
    """IncrementalAlterConfigs: name, operation and value."""
    configs = [
        {"name": config, "config_operation": operation, "value": value}
        for config, operation, value in changes
    ]
    resource = {"resource_type": kind, "resource_name": name, "configs": configs}
    body = {"resources": [resource], "validate_only": validate_only}
    (result,) = (await wire.call(api.INCREMENTAL_ALTER_CONFIGS, body, version))["responses"]
    assert (result["resource_type"], result["resource_name"]) == (kind, name)
    return result


async def replaced(wire, configs, *, kind=TOPIC, name="t", validate_only=False, version=None):
    """AlterConfigs."""
    asked = [{"name": config, "value": value} for config, value in configs.items()]
    resource = {"resource_type": kind, "resource_name": name, "configs": asked}
    body = {"resources": [resource], "validate_only": validate_only}
    (result,) = (await wire.call(api.ALTER_CONFIGS, body, version))["responses"]
    return result


def configs_of(kafka, name="t"):
    return kafka.node.topics.find("/", name).configs


# ---- describing ----


def test_every_configuration_of_a_topic_has_its_text():
    assert DOCUMENTATION.keys() == CONFIGS.keys()
    assert BROKER_NAMES.keys() <= CONFIGS.keys()


@pytest.mark.parametrize("version", range(1, 5))
async def test_a_topic_has_all_configurations(wire, version):
    await wire.create("t", configs={"retention.ms": "1000", "cleanup.policy": "compact,delete"})
    found = await described(wire, TOPIC, "t", version=version)
    configs = found["configs"]
    assert found["error_code"] == ErrorCode.NONE
    assert configs.keys() == CONFIGS.keys()
    assert {name: entry["value"] for name, entry in configs.items()} == {
        **{name: config.default for name, config in CONFIGS.items()},
        "retention.ms": "1000",
        "cleanup.policy": "compact,delete",
    }
    own = {name for name, entry in configs.items() if entry["config_source"] == OF_TOPIC}
    assert own == {"retention.ms", "cleanup.policy"}
    assert {entry["config_source"] for name, entry in configs.items() if name not in own} == {OF_DEFAULT}
    assert not any(entry["read_only"] or entry["is_sensitive"] for entry in configs.values())
    assert not any(entry["synonyms"] or entry["documentation"] for entry in configs.values())
    if version >= 3:
        types = {entry["config_type"] for entry in configs.values()}
        assert types == {1, 2, 3, 5, 6, 7}
        assert configs["retention.ms"]["config_type"] == 5
        assert configs["cleanup.policy"]["config_type"] == 7


async def test_synonyms_and_documentation_are_there_if_asked_for(wire):
    await wire.create("t", configs={"retention.ms": "1000"})
    found = await described(wire, TOPIC, "t", include_synonyms=True, include_documentation=True)
    configs = found["configs"]
    assert configs["retention.ms"]["synonyms"] == [
        {"name": "retention.ms", "value": "1000", "source": OF_TOPIC},
        {"name": "log.retention.ms", "value": "604800000", "source": OF_DEFAULT},
    ]
    assert configs["segment.ms"]["synonyms"] == [
        {"name": "log.roll.ms", "value": "604800000", "source": OF_DEFAULT}
    ]
    assert all(entry["documentation"] for entry in configs.values())
    assert NO_EFFECT in configs["flush.ms"]["documentation"]
    assert NO_EFFECT not in configs["retention.ms"]["documentation"]


async def test_only_some_keys(wire):
    await wire.create("t")
    asked = ["retention.ms", "no.such"]
    assert list((await described(wire, TOPIC, "t", keys=asked))["configs"]) == ["retention.ms"]
    assert len((await described(wire, TOPIC, "t", keys=[]))["configs"]) == len(CONFIGS)


@pytest.mark.parametrize(
    ("kind", "name", "code"),
    [
        (TOPIC, "missing", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (TOPIC, "a/b", ErrorCode.INVALID_TOPIC_EXCEPTION),
        (BROKER, "2", ErrorCode.INVALID_REQUEST),
        (BROKER, "one", ErrorCode.INVALID_REQUEST),
        (BROKER_LOGGER, "1", ErrorCode.INVALID_REQUEST),
        (CLIENT_METRICS, "m", ErrorCode.INVALID_REQUEST),
        (GROUP, "g", ErrorCode.INVALID_REQUEST),
        (77, "x", ErrorCode.INVALID_REQUEST),
    ],
)
async def test_what_has_no_configurations(wire, kind, name, code):
    found = await described(wire, kind, name)
    assert (found["error_code"], found["configs"]) == (code, {})
    assert found["error_message"]


@pytest.mark.parametrize("name", ["1", ""])
async def test_the_broker_has_the_configurations_of_its_file(tmp_path, name):
    groups = GroupOptions(limits=GroupLimits(size_max=7), retention_ms=120_000)
    options = {"partitions": 3, "auto_create_topics": False}
    async with kafka_here(tmp_path, node_options={"groups": groups}, **options) as kafka:
        wire = await kafka.dial()
        found = await described(wire, BROKER, name, include_documentation=True, include_synonyms=True)
        configs = found["configs"]
        values = {name: (entry["value"], entry["config_source"]) for name, entry in configs.items()}
        assert (
            values
            | {
                "num.partitions": ("3", OF_FILE),
                "auto.create.topics.enable": ("false", OF_FILE),
                "group.max.size": ("7", OF_FILE),
                "offsets.retention.minutes": ("2", OF_FILE),
                "group.initial.rebalance.delay.ms": ("0", OF_DEFAULT),
                "log.retention.ms": ("604800000", OF_DEFAULT),
                "message.max.bytes": ("1048588", OF_DEFAULT),
                "socket.request.max.bytes": ("104857600", OF_DEFAULT),
                "connections.max.idle.ms": ("600000", OF_DEFAULT),
                "broker.id": ("1", OF_DEFAULT),
                "sasl.enabled.mechanisms": ("PLAIN,SCRAM-SHA-256,SCRAM-SHA-512", OF_DEFAULT),
                "log.dirs": (str(tmp_path / "data"), OF_FILE),
                "advertised.listeners": (f"PLAINTEXT://127.0.0.1:{kafka.address[1]}", OF_FILE),
                "default.replication.factor": ("1", OF_DEFAULT),
            }
            == values
        )
        assert all(entry["read_only"] for entry in configs.values())
        assert "log.flush.interval.ms" not in configs
        assert configs["auto.create.topics.enable"]["config_type"] == 1
        assert configs["num.partitions"]["config_type"] == 3


async def test_what_is_said_of_the_broker_is_so(wire, kafka):
    """A batch may have as many octets as message.max.bytes says, and no more."""
    size_max = int((await described(wire, BROKER, "1"))["configs"]["message.max.bytes"]["value"])
    await wire.create("t")
    overhead = len(batch([bytes(size_max - 200)])) - (size_max - 200)
    largest = batch([bytes(size_max - overhead)])
    assert len(largest) == size_max
    assert (await wire.produce("t", largest))["error_code"] == ErrorCode.NONE
    refused = await wire.produce("t", batch([bytes(size_max - overhead + 1)]))
    assert refused["error_code"] == ErrorCode.MESSAGE_TOO_LARGE


# ---- altering, one by one ----


@pytest.mark.parametrize("version", range(2))
async def test_configurations_are_set_and_deleted(wire, kafka, version):
    await wire.create("t", configs={"retention.ms": "1000", "segment.ms": "2000"})
    changes = [("retention.ms", DELETE, None), ("segment.ms", SET, "3000"), ("retention.bytes", SET, "4000")]
    result = await altered(wire, *changes, version=version)
    assert (result["error_code"], result["error_message"]) == (ErrorCode.NONE, None)
    assert configs_of(kafka) == {"segment.ms": "3000", "retention.bytes": "4000"}
    assert kafka.node.topics.find("/", "t").partitions[0].settings.retention_bytes == 4000


async def test_deleting_what_is_not_set_is_nothing(wire, kafka):
    await wire.create("t")
    assert (await altered(wire, ("retention.ms", DELETE, None)))["error_code"] == ErrorCode.NONE
    assert configs_of(kafka) == {}


async def test_lists_get_and_lose_elements(wire, kafka):
    await wire.create("t")
    assert (await altered(wire, ("cleanup.policy", APPEND, "compact")))["error_code"] == ErrorCode.NONE
    assert configs_of(kafka)["cleanup.policy"] == "delete,compact"
    await altered(wire, ("cleanup.policy", APPEND, "compact, delete"))
    assert configs_of(kafka)["cleanup.policy"] == "delete,compact"
    await altered(wire, ("cleanup.policy", SUBTRACT, "delete"))
    assert configs_of(kafka)["cleanup.policy"] == "compact"
    result = await altered(wire, ("cleanup.policy", SUBTRACT, "compact"))
    assert result["error_code"] == ErrorCode.NONE
    assert configs_of(kafka)["cleanup.policy"] == ""
    await altered(wire, ("cleanup.policy", APPEND, "delete"))
    assert configs_of(kafka)["cleanup.policy"] == "delete"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("no.such", SET, "1"), ErrorCode.INVALID_CONFIG),
        (("no.such", DELETE, None), ErrorCode.INVALID_CONFIG),
        (("no.such", APPEND, "1"), ErrorCode.INVALID_CONFIG),
        (("retention.ms", SET, "-2"), ErrorCode.INVALID_CONFIG),
        (("retention.ms", SET, ""), ErrorCode.INVALID_CONFIG),
        (("retention.ms", APPEND, "5"), ErrorCode.INVALID_CONFIG),
        (("cleanup.policy", APPEND, "shred"), ErrorCode.INVALID_CONFIG),
        (("retention.ms", SET, None), ErrorCode.INVALID_REQUEST),
        (("cleanup.policy", APPEND, None), ErrorCode.INVALID_REQUEST),
        (("retention.ms", 4, "5"), ErrorCode.INVALID_REQUEST),
        (("retention.ms", -1, "5"), ErrorCode.INVALID_REQUEST),
        (("segment.ms", DELETE, None), ErrorCode.INVALID_REQUEST),  # a second time
    ],
)
async def test_of_a_wrong_change_nothing_is_done(wire, kafka, change, code):
    await wire.create("t")
    result = await altered(wire, ("segment.ms", SET, "3000"), change)
    assert result["error_code"] == code
    assert result["error_message"]
    assert configs_of(kafka) == {}


@pytest.mark.parametrize("alter", [altered, replaced])
@pytest.mark.parametrize(
    ("kind", "name", "code"),
    [
        (TOPIC, "missing", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (TOPIC, "__consumer_offsets", ErrorCode.INVALID_REQUEST),
        (BROKER, "1", ErrorCode.INVALID_REQUEST),
        (BROKER, "", ErrorCode.INVALID_REQUEST),
        (BROKER, "2", ErrorCode.INVALID_REQUEST),
        (BROKER_LOGGER, "1", ErrorCode.INVALID_REQUEST),
        (GROUP, "g", ErrorCode.INVALID_REQUEST),
    ],
)
async def test_what_is_not_altered(wire, kafka, alter, kind, name, code):
    kafka.node.groups.committed("g", {})  # makes the topic of the broker's own
    changes = {"retention.ms": "1"} if alter is replaced else ("retention.ms", SET, "1")
    result = await alter(wire, changes, kind=kind, name=name)
    assert result["error_code"] == code
    assert result["error_message"]


async def test_changes_may_only_be_validated(wire, kafka):
    await wire.create("t")
    right = await altered(wire, ("retention.ms", SET, "5"), validate_only=True)
    wrong = await altered(wire, ("retention.ms", SET, "five"), validate_only=True)
    assert (right["error_code"], wrong["error_code"]) == (ErrorCode.NONE, ErrorCode.INVALID_CONFIG)
    assert configs_of(kafka) == {}


async def test_each_resource_is_altered_for_itself(wire, kafka):
    for name in ("a", "b", "c"):
        await wire.create(name)

    def resource(name, value):
        config = {"name": "retention.ms", "config_operation": SET, "value": value}
        return {"resource_type": TOPIC, "resource_name": name, "configs": [config]}

    body = {"resources": [resource("a", "1"), resource("b", "x"), resource("c", "2"), resource("c", "3")]}
    responses = (await wire.call(api.INCREMENTAL_ALTER_CONFIGS, body))["responses"]
    codes = {one["resource_name"]: one["error_code"] for one in responses}
    assert codes == {"a": ErrorCode.NONE, "b": ErrorCode.INVALID_CONFIG, "c": ErrorCode.INVALID_REQUEST}
    assert len(responses) == 3
    assert [configs_of(kafka, name) for name in "abc"] == [{"retention.ms": "1"}, {}, {}]


async def test_what_was_set_counts_at_once(wire):
    await wire.create("t")
    assert (await wire.produce("t", [bytes(2000)]))["error_code"] == ErrorCode.NONE
    await altered(wire, ("max.message.bytes", SET, "1000"))
    assert (await wire.produce("t", [bytes(2000)]))["error_code"] == ErrorCode.MESSAGE_TOO_LARGE
    await altered(wire, ("message.timestamp.type", SET, "LogAppendTime"))
    assert (await wire.produce("t", [b"stamped"]))["log_append_time_ms"] > 0
    assert values_of((await wire.fetch("t", 1))["records"]) == [b"stamped"]


# ---- altering, all at once ----


@pytest.mark.parametrize("version", range(3))
async def test_what_is_not_named_goes(wire, kafka, version):
    await wire.create("t", configs={"retention.ms": "1000"})
    result = await replaced(wire, {"segment.ms": "2000"}, version=version)
    assert result["error_code"] == ErrorCode.NONE
    assert configs_of(kafka) == {"segment.ms": "2000"}
    assert (await replaced(wire, {}, version=version))["error_code"] == ErrorCode.NONE
    assert configs_of(kafka) == {}


@pytest.mark.parametrize(
    ("configs", "code"),
    [
        ({"segment.ms": "1", "no.such": "2"}, ErrorCode.INVALID_CONFIG),
        ({"segment.ms": "x"}, ErrorCode.INVALID_CONFIG),
        ({"segment.ms": None}, ErrorCode.INVALID_REQUEST),
    ],
)
async def test_what_is_wrong_replaces_nothing(wire, kafka, configs, code):
    await wire.create("t", configs={"retention.ms": "1000"})
    assert (await replaced(wire, configs))["error_code"] == code
    assert (await replaced(wire, {}, validate_only=True))["error_code"] == ErrorCode.NONE
    assert configs_of(kafka) == {"retention.ms": "1000"}


async def test_changes_outlive_the_process(tmp_path):
    async with kafka_here(tmp_path) as kafka:
        wire = await kafka.dial()
        await wire.create("t")
        await altered(wire, ("retention.ms", SET, "5"))
    async with kafka_here(tmp_path) as kafka:
        entry = (await described(await kafka.dial(), TOPIC, "t"))["configs"]["retention.ms"]
        assert (entry["value"], entry["config_source"]) == ("5", OF_TOPIC)


# ---- listing ----


async def listed(wire, types, version=1):
    answer = await wire.call(api.LIST_CONFIG_RESOURCES, {"resource_types": types}, version)
    found = {(one["resource_type"], one["resource_name"]) for one in answer["config_resources"]}
    return answer["error_code"], found


async def test_topics_and_the_broker_have_configurations(wire):
    await wire.create("a")
    await wire.create("b")
    topics = {(TOPIC, "a"), (TOPIC, "b")}
    assert await listed(wire, []) == (ErrorCode.NONE, topics | {(BROKER, "1")})
    assert await listed(wire, [TOPIC]) == (ErrorCode.NONE, topics)
    assert await listed(wire, [BROKER, GROUP]) == (ErrorCode.NONE, {(BROKER, "1")})
    assert await listed(wire, [BROKER_LOGGER, CLIENT_METRICS]) == (ErrorCode.NONE, set())
    assert await listed(wire, [TOPIC, 3]) == (ErrorCode.UNSUPPORTED_VERSION, set())
    assert await listed(wire, [], version=0) == (ErrorCode.NONE, set())


async def test_a_value_is_not_longer_than_so_much_however_it_grows(wire, kafka):
    await wire.create("t")
    name = "follower.replication.throttled.replicas"
    assert (await altered(wire, (name, SET, "x" * 32_767)))["error_code"] == ErrorCode.NONE
    for change in ((name, APPEND, "y"), ("retention.ms", SET, "1" * 30_000)):
        refused = await altered(wire, change)
        assert refused["error_code"] == ErrorCode.INVALID_CONFIG
        assert len(refused["error_message"]) < 1000
    assert configs_of(kafka) == {name: "x" * 32_767}
    unknown = await altered(wire, ("n" * 30_000, SET, "v"))
    assert unknown["error_code"] == ErrorCode.INVALID_CONFIG
