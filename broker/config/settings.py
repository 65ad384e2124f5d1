"""The tables of settings, with their defaults.

Shape:  `config/broker.toml` names every setting with its default; a test holds it to this file.
Why:    Plain dataclasses, as a start with nothing but defaults has nothing to check. The annotations say what may be
        given; `checking` is the only one to evaluate them, for pydantic.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from broker.config.notation import read_memory
from broker.node.topics import PARTITIONS_MAX
from broker.server.serve import Address

if TYPE_CHECKING:
    from pydantic import Field

    from broker.config.entries import BindingEntry, ExchangeEntry, QueueEntry, TopicEntry, User, VhostEntry
    from broker.config.values import Buffers, Listener, Memory, Name, Names, Number, Size, Whole


class Table:
    """Holds no keys but its own."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "extra": "forbid",
        "arbitrary_types_allowed": True,
        "allow_inf_nan": False,
    }


@dataclass
class Listeners(Table):
    amqp: Listener = Address("", 5672)
    kafka: Listener = Address("", 9092)
    management: Listener = Address("", 15672)
    metrics: Listener = Address("", 15692)


@dataclass
class Amqp(Table):
    product: str = "RabbitMQ"
    version: str = "3.13.7"
    heartbeat_s: Annotated[Whole, Field(ge=0, le=65_535)] = 60
    frame_max: Annotated[Whole, Field(ge=4096, le=2**31 - 1)] = 131_072
    channel_max: Annotated[Whole, Field(ge=1, le=65_535)] = 2047
    message_size_max: Size = 128 * 2**20
    unfinished_memory: Buffers = 256 * 2**20
    handshake_timeout_s: Annotated[Number, Field(gt=0.0)] = 10.0
    close_timeout_s: Annotated[Number, Field(gt=0.0)] = 30.0
    refused_delay_s: Annotated[Number, Field(ge=0.0)] = 3.0
    transaction_size_max: Size = 64 * 2**20


@dataclass
class Kafka(Table):
    vhost: Name = "/"
    anonymous_user: str = "guest"
    advertised: Listener = None
    auto_create_topics: bool = True
    partitions: Annotated[Whole, Field(ge=1, le=10_000)] = 1
    request_size_max: Size = 100 * 2**20
    requests_memory: Buffers = 256 * 2**20
    fetch_size_max: Size = 55 * 2**20
    idle_timeout_s: Annotated[Number, Field(gt=0.0)] = 600.0
    login_timeout_s: Annotated[Number, Field(gt=0.0)] = 10.0
    group_size_max: Annotated[Whole, Field(ge=1)] = 10_000
    groups_max: Annotated[Whole, Field(ge=1)] = 100_000
    groups_memory: Memory = 256 * 2**20
    initial_rebalance_delay_ms: Annotated[Whole, Field(ge=0, le=600_000)] = 0
    session_timeout_min_ms: Annotated[Whole, Field(ge=1, le=2**31 - 1)] = 6_000
    session_timeout_max_ms: Annotated[Whole, Field(ge=1, le=2**31 - 1)] = 1_800_000
    offsets_retention_s: Annotated[Number, Field(gt=0.0)] = 7 * 86_400.0

    def __post_init__(self) -> None:
        least, most = self.session_timeout_min_ms, self.session_timeout_max_ms
        if least > most:
            raise ValueError(f"session_timeout_min_ms {least} is more than session_timeout_max_ms {most}")


@dataclass
class Limits(Table):
    connections: Annotated[Whole, Field(ge=1)] = 65_536
    memory: Memory = field(default_factory=lambda: int(read_memory("60%")))
    disk_free: Size = 50 * 10**6
    queue_memory: Size = 32 * 2**20
    queues_memory: Memory = 256 * 2**20
    segment_size: Size = 16 * 2**20
    partitions: Annotated[Whole, Field(ge=1)] = PARTITIONS_MAX
    stop_timeout_s: Annotated[Number, Field(gt=0.0)] = 10.0


@dataclass
class Log(Table):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


@dataclass
class DefaultUser(Table):
    """Made when the data folder is new and the file declares no user."""

    name: Name = "guest"
    password: str = "guest"
    vhost: Name = "/"


@dataclass
class Config(Table):
    """Everything."""

    data: Path = Path("data")
    name: Name = "leveret@localhost"
    loopback_users: Names = field(default_factory=lambda: ["guest"])
    listeners: Listeners = field(default_factory=Listeners)
    amqp: Amqp = field(default_factory=Amqp)
    kafka: Kafka = field(default_factory=Kafka)
    limits: Limits = field(default_factory=Limits)
    log: Log = field(default_factory=Log)
    default_user: DefaultUser = field(default_factory=DefaultUser)
    user: list[User] = field(default_factory=list)
    vhost: list[VhostEntry] = field(default_factory=list)
    exchange: list[ExchangeEntry] = field(default_factory=list)
    queue: list[QueueEntry] = field(default_factory=list)
    binding: list[BindingEntry] = field(default_factory=list)
    topic: list[TopicEntry] = field(default_factory=list)


# What a file declares, each a list of tables.
DECLARED: Final = ("user", "vhost", "exchange", "queue", "binding", "topic")
