"""What a settings file declares: users, virtual hosts, exchanges, queues, bindings and topics, one table each."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    Field,
)

from broker.config.notation import topic_text
from broker.config.settings import Table
from broker.config.values import ArgumentError, Arguments, Name, Names, Short, Whole
from broker.model.arguments import read_alternate, read_queue_arguments
from broker.model.errors import InvalidTopicName, PreconditionFailed
from broker.model.exchange import MATCHERS, QUEUE
from broker.model.resource import spoken
from broker.model.stream import check_flags, is_stream, stream_configs
from broker.model.topic import CONFIGS, OFFSETS_TOPIC, check_name
from broker.node.passwords import ARGON2ID, check_hash


def _is_pattern(value: str) -> str:
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"expected a regular expression: {error}") from None
    return value


Pattern = Annotated[str, AfterValidator(_is_pattern)]


@dataclass
class Permission(Table):
    vhost: Name = "/"
    configure: Pattern = ".*"
    write: Pattern = ".*"
    read: Pattern = ".*"


@dataclass
class User(Table):
    name: Name
    password: str | None = None
    password_hash: str | None = None
    hashing_algorithm: str = ARGON2ID
    tags: Names = field(default_factory=list)
    permission: list[Permission] = field(default_factory=list)

    def __post_init__(self) -> None:
        if (self.password is None) == (self.password_hash is None):
            raise ValueError("expected either password or password_hash")
        if self.password_hash:
            try:
                check_hash(self.password_hash, self.hashing_algorithm)
            except PreconditionFailed as error:
                raise ValueError(str(error)) from None


@dataclass
class VhostEntry(Table):
    name: Name


def _is_exchange_type(value: str) -> str:
    if value not in MATCHERS:
        raise ValueError(f"expected one of {', '.join(MATCHERS)}")
    return value


def _are_of_exchange(value: dict[str, Any]) -> dict[str, Any]:
    try:
        read_alternate("", "", value)
    except PreconditionFailed:
        raise ArgumentError("alternate-exchange", "expected a string") from None
    return value


@dataclass
class ExchangeEntry(Table):
    name: Name
    vhost: Name = "/"
    type: Annotated[str, AfterValidator(_is_exchange_type)] = "direct"
    durable: bool = True
    auto_delete: bool = False
    internal: bool = False
    arguments: Annotated[Arguments, AfterValidator(_are_of_exchange)] = field(default_factory=dict)


_EXPECTED: Final = {
    "x-message-ttl": "an integer >= 0",
    "x-expires": "an integer >= 1",
    "x-max-length": "an integer >= 0",
    "x-max-length-bytes": "an integer >= 0",
    "x-overflow": "drop-head, reject-publish or reject-publish-dlx",
    "x-dead-letter-exchange": "a string",
    "x-dead-letter-routing-key": "a string, and x-dead-letter-exchange beside it",
}
_EXPECTED_OF_STREAM: Final = {
    "x-max-age": "an age as 7D, in Y, M, D, h, m or s",
    "x-max-length-bytes": "an integer >= 0",
    "x-stream-max-segment-size-bytes": "an integer from 0 to 3000000000",
}
# A queue in texts that are shown behind its path in the file.
_NAMELESS: Final = spoken(QUEUE, "", "")


def _are_of_queue(value: dict[str, Any]) -> dict[str, Any]:
    for argument in value:
        try:
            if is_stream(value):
                stream_configs(_NAMELESS, {argument: value[argument]})
            else:
                read_queue_arguments(
                    "", "", {argument: value[argument]} if "routing" not in argument else value
                )
        except PreconditionFailed as error:
            expected = (_EXPECTED_OF_STREAM if is_stream(value) else _EXPECTED).get(argument)
            text = f"expected {expected}" if expected else str(error).rpartition(": ")[2]
            raise ArgumentError(argument, text.replace(f" for {_NAMELESS}", "")) from None
    return value


@dataclass
class QueueEntry(Table):
    name: Name
    vhost: Name = "/"
    durable: bool = True
    auto_delete: bool = False
    arguments: Annotated[Arguments, AfterValidator(_are_of_queue)] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if is_stream(self.arguments):
            try:
                check_flags(_NAMELESS, durable=self.durable, auto_delete=self.auto_delete, exclusive=False)
                check_name(self.name)
            except PreconditionFailed as error:
                raise ValueError(str(error).replace(_NAMELESS, "a stream")) from None


def _is_topic_name(value: str) -> str:
    try:
        check_name(value)
    except InvalidTopicName as error:
        raise ValueError(f"expected a name: {error}") from None
    if value == OFFSETS_TOPIC:
        raise ValueError("expected another name: this is the broker's own topic")
    return value


def _are_topic_configs(value: dict[str, Any]) -> dict[str, Any]:
    for name, given in value.items():
        config = CONFIGS.get(name)
        if config is None:
            raise ArgumentError(name, "there is no such topic configuration")
        if not config.allows(topic_text(given)):
            raise ArgumentError(name, f"expected {config.expected}")
    return value


@dataclass
class TopicEntry(Table):
    name: Annotated[Name, AfterValidator(_is_topic_name)]
    vhost: Name = "/"
    partitions: Annotated[Whole, Field(ge=1, le=10_000)] = 1
    configs: Annotated[dict[str, str | bool | int | float], AfterValidator(_are_topic_configs)] = field(
        default_factory=dict
    )


@dataclass(kw_only=True)
class BindingEntry(Table):
    vhost: Name = "/"
    source: Name
    destination: Name
    destination_type: Literal["queue", "exchange", "topic"] = QUEUE
    routing_key: Short = ""
    arguments: Arguments = field(default_factory=dict)
