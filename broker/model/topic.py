"""Topics: their names and what may be configured for each.

Shape:  `CONFIGS` is the table: Kafka's names and defaults; a value is checked where it is given and kept as
        the text that it came as. What has no meaning in a broker of one node is accepted and listed, as
        tools set it without thinking.
Spec:   Kafka's TopicConfig. `flush` is ours: "sync" answers when a batch is on the disk, "os" when the
        system has it, which is what Kafka does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from broker.model.errors import InvalidConfig, InvalidTopicName

NAME_MAX: Final = 249
# Of what a configuration may be set to: what Kafka's strings once had room for.
VALUE_MAX: Final = 32_767
_SHOWN_MAX: Final = 100
# Made by the broker itself; clients read them and cannot write to them.
OFFSETS_TOPIC: Final = "__consumer_offsets"

_NAME = re.compile(r"[a-zA-Z0-9._-]+")
# As many digits as the largest has: Python would read more, and underscores, and digits of other scripts.
_WHOLE = re.compile(r"-?[0-9]{1,19}")
_LONG_MAX = 2**63 - 1
_INT_MAX = 2**31 - 1
_DAY_MS = 24 * 60 * 60 * 1000


class ConfigType(StrEnum):
    """What a value is; the server knows the protocol's number of each."""

    BOOLEAN = "boolean"
    STRING = "string"
    INT = "int"
    LONG = "long"
    DOUBLE = "double"
    LIST = "list"


@dataclass(frozen=True, slots=True)
class Config:
    """One thing that may be configured."""

    type: ConfigType
    default: str
    expected: str
    """Of a value, for whoever gave a wrong one."""
    allows: Callable[[str], bool]
    effective: bool = True
    """It does something; otherwise it is accepted and listed."""


def _whole(low: int, high: int, default: int, type: ConfigType, effective: bool = True) -> Config:
    def allows(value: str) -> bool:
        return _WHOLE.fullmatch(value) is not None and low <= int(value) <= high

    return Config(type, str(default), f"a whole number from {low} to {high}", allows, effective)


def _long(low: int, default: int, *, effective: bool = True) -> Config:
    return _whole(low, _LONG_MAX, default, ConfigType.LONG, effective)


def _int(low: int, default: int, *, effective: bool = True) -> Config:
    return _whole(low, _INT_MAX, default, ConfigType.INT, effective)


def _one_of(*names: str, type: ConfigType = ConfigType.STRING, effective: bool = True) -> Config:
    return Config(type, names[0], f"one of {', '.join(names)}", names.__contains__, effective)


def _boolean(default: str, *, effective: bool = True) -> Config:
    return Config(ConfigType.BOOLEAN, default, "true or false", ("true", "false").__contains__, effective)


def _list_of(default: str, *names: str) -> Config:
    def allows(value: str) -> bool:
        given = set(split_list(value))
        return given <= set(names) if given else not value.strip()

    return Config(ConfigType.LIST, default, f"a list of {', '.join(names)}, or nothing", allows)


def _share(default: str) -> Config:
    def allows(value: str) -> bool:
        try:
            return 0 <= float(value) <= 1
        except ValueError:
            return False

    return Config(ConfigType.DOUBLE, default, "a number from 0 to 1", allows)


def _anything(default: str, type: ConfigType = ConfigType.STRING) -> Config:
    return Config(type, default, "anything", lambda value: True, effective=False)


CONFIGS: Final[Mapping[str, Config]] = {
    "cleanup.policy": _list_of("delete", "delete", "compact"),
    "compression.type": _one_of("producer", "uncompressed", "gzip", "snappy", "lz4", "zstd", effective=False),
    "delete.retention.ms": _long(0, _DAY_MS),
    "file.delete.delay.ms": _long(0, 60_000, effective=False),
    "flush": _one_of("sync", "os"),
    "flush.messages": _long(1, _LONG_MAX, effective=False),
    "flush.ms": _long(0, _LONG_MAX, effective=False),
    "follower.replication.throttled.replicas": _anything("", ConfigType.LIST),
    "index.interval.bytes": _int(0, 4096, effective=False),
    "leader.replication.throttled.replicas": _anything("", ConfigType.LIST),
    "local.retention.bytes": _long(-2, -2, effective=False),
    "local.retention.ms": _long(-2, -2, effective=False),
    "max.compaction.lag.ms": _long(1, _LONG_MAX),
    "max.message.bytes": _int(0, 1024 * 1024 + 12),
    "message.timestamp.after.max.ms": _long(0, 3_600_000),
    "message.timestamp.before.max.ms": _long(0, _LONG_MAX),
    "message.timestamp.type": _one_of("CreateTime", "LogAppendTime"),
    "min.cleanable.dirty.ratio": _share("0.5"),
    "min.compaction.lag.ms": _long(0, 0),
    "min.insync.replicas": _whole(1, 1, 1, ConfigType.INT, effective=False),
    "preallocate": _boolean("false", effective=False),
    "remote.storage.enable": Config(
        ConfigType.BOOLEAN, "false", "false: there is no remote storage", ("false",).__contains__, False
    ),
    "retention.bytes": _long(-1, -1),
    "retention.ms": _long(-1, 7 * _DAY_MS),
    "segment.bytes": _int(1024 * 1024, 64 * 1024 * 1024),
    "segment.index.bytes": _int(4, 10 * 1024 * 1024, effective=False),
    "segment.jitter.ms": _long(0, 0, effective=False),
    "segment.ms": _long(1, 7 * _DAY_MS),
    "unclean.leader.election.enable": _boolean("false", effective=False),
}


def split_list(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def check_name(name: str) -> None:
    """Raises InvalidTopicName."""
    if name in ("", ".", ".."):
        raise InvalidTopicName(f"a topic cannot be called '{name}'")
    if len(name) > NAME_MAX:
        raise InvalidTopicName(f"the name of a topic has at most {NAME_MAX} characters, this has {len(name)}")
    if not _NAME.fullmatch(name):
        raise InvalidTopicName(
            f"the topic name '{name}' has characters other than ASCII letters, digits, '.', '_' and '-'"
        )


def check_configs(configs: Mapping[str, str]) -> None:
    """Raises InvalidConfig for the first that is unknown or has a value that cannot be."""
    for name, value in configs.items():
        config = CONFIGS.get(name)
        if config is None:
            raise InvalidConfig(f"there is no topic configuration '{name:.{_SHOWN_MAX}}'")
        if len(value) > VALUE_MAX:
            raise InvalidConfig(f"{name}: at most {VALUE_MAX} characters, got {len(value)}")
        if not config.allows(value):
            raise InvalidConfig(f"{name}: expected {config.expected}, got '{value:.{_SHOWN_MAX}}'")


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """What the effective configurations say; times in milliseconds, sizes in octets, -1 is no limit."""

    deletes: bool
    compacts: bool
    retention_ms: int
    retention_bytes: int
    segment_bytes: int
    segment_ms: int
    message_size_max: int
    append_time: bool
    """Records get the broker's time."""
    before_max_ms: int
    after_max_ms: int
    syncs: bool
    delete_retention_ms: int
    dirty_ratio_min: float
    compaction_lag_min_ms: int
    compaction_lag_max_ms: int


def value_of(configs: Mapping[str, str], name: str) -> str:
    """What was configured, or the default."""
    return configs.get(name, CONFIGS[name].default)


def same_value(name: str, configs: Mapping[str, str], others: Mapping[str, str]) -> bool:
    """Whether both come to the same, however it is written. Of configurations that `check_configs` found right."""
    return _meaning(name, value_of(configs, name)) == _meaning(name, value_of(others, name))


def _meaning(name: str, value: str) -> object:
    match CONFIGS[name].type:
        case ConfigType.INT | ConfigType.LONG:
            return int(value)
        case ConfigType.DOUBLE:
            return float(value)
        case ConfigType.LIST:
            return frozenset(split_list(value))
    return value


def read_settings(configs: Mapping[str, str]) -> TopicSettings:
    """Of configurations that `check_configs` found right."""

    def number(name: str) -> int:
        return int(value_of(configs, name))

    cleanup = split_list(value_of(configs, "cleanup.policy"))
    return TopicSettings(
        deletes="delete" in cleanup,
        compacts="compact" in cleanup,
        retention_ms=number("retention.ms"),
        retention_bytes=number("retention.bytes"),
        segment_bytes=number("segment.bytes"),
        segment_ms=number("segment.ms"),
        message_size_max=number("max.message.bytes"),
        append_time=value_of(configs, "message.timestamp.type") == "LogAppendTime",
        before_max_ms=number("message.timestamp.before.max.ms"),
        after_max_ms=number("message.timestamp.after.max.ms"),
        syncs=value_of(configs, "flush") == "sync",
        delete_retention_ms=number("delete.retention.ms"),
        dirty_ratio_min=float(value_of(configs, "min.cleanable.dirty.ratio")),
        compaction_lag_min_ms=number("min.compaction.lag.ms"),
        compaction_lag_max_ms=number("max.compaction.lag.ms"),
    )
