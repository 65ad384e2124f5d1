"""What topics may be called and how they may be configured."""

from __future__ import annotations

import pytest

from broker.model.errors import InvalidConfig, InvalidTopicName
from broker.model.topic import (
    CONFIGS,
    NAME_MAX,
    ConfigType,
    check_configs,
    check_name,
    read_settings,
    split_list,
    value_of,
)

NUMBERS = [name for name, config in CONFIGS.items() if config.type in (ConfigType.INT, ConfigType.LONG)]


@pytest.mark.parametrize("name", ["a", "A.b-c_9", "...", "x" * NAME_MAX])
def test_names_that_may_be(name):
    check_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "größe", "a\n", "٣", "x" * (NAME_MAX + 1)])
def test_names_that_may_not_be(name):
    with pytest.raises(InvalidTopicName):
        check_name(name)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_default_may_be_given(name):
    default = CONFIGS[name].default
    if default or CONFIGS[name].type is not ConfigType.LIST:
        check_configs({name: default})
    assert value_of({}, name) == default


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["", "x", "1_000", "٣", " 5", "1.0", "1e3", "--1", "9" * 20, "9" * 5000])
def test_a_number_is_one_of_so_many_digits(name, value):
    with pytest.raises(InvalidConfig, match=rf"{name}: expected a whole number from -?\d+ to \d+, got"):
        check_configs({name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retention.ms", "-2"),
        ("retention.bytes", str(2**63)),
        ("segment.bytes", "1000"),
        ("min.insync.replicas", "2"),
        ("cleanup.policy", ","),
        ("cleanup.policy", "delete,shred"),
        ("message.timestamp.type", "createtime"),
        ("flush", "never"),
        ("preallocate", "1"),
        ("min.cleanable.dirty.ratio", "1.1"),
        ("min.cleanable.dirty.ratio", "nan"),
        ("remote.storage.enable", "true"),
        ("compression.type", "lzma"),
        ("no.such.thing", "1"),
    ],
)
def test_what_cannot_be_is_refused_by_name(name, value):
    with pytest.raises(InvalidConfig, match=name.replace(".", r"\.")):
        check_configs({"retention.ms": "5", name: value})


def test_the_defaults_are_kafkas_but_for_the_size_of_segments():
    settings = read_settings({})
    assert (settings.deletes, settings.compacts) == (True, False)
    assert (settings.retention_ms, settings.retention_bytes) == (7 * 24 * 3600 * 1000, -1)
    assert (settings.segment_bytes, settings.segment_ms) == (2**26, 7 * 24 * 3600 * 1000)
    assert settings.message_size_max == 1_048_588
    assert not settings.append_time
    assert settings.syncs


def test_settings_are_what_was_configured():
    given = {
        "cleanup.policy": " compact , delete",
        "retention.ms": "-1",
        "flush": "os",
        "message.timestamp.type": "LogAppendTime",
        "min.cleanable.dirty.ratio": "0.1",
    }
    check_configs(given)
    settings = read_settings(given)
    assert (settings.deletes, settings.compacts, settings.retention_ms) == (True, True, -1)
    assert (settings.syncs, settings.append_time, settings.dirty_ratio_min) == (False, True, 0.1)


def test_a_topic_may_have_no_cleanup_policy():
    check_configs({"cleanup.policy": ""})
    settings = read_settings({"cleanup.policy": ""})
    assert (settings.deletes, settings.compacts) == (False, False)


def test_lists_are_split_at_commas():
    assert split_list("a, b ,,c,") == ["a", "b", "c"]
    assert split_list(" ,") == []
