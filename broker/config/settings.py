"""The tables of settings, with their defaults.

Shape:  `config/broker.toml` names every setting with its default; a test holds it to this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import (
    Field,
    model_validator,
)

from broker.config.entries import BindingEntry, ExchangeEntry, QueueEntry, TopicEntry, User, VhostEntry
from broker.config.values import Listener, Memory, Name, Names, Number, Size, Table, Whole, read_memory
from broker.node.topics import PARTITIONS_MAX
from broker.server.serve import Address


class Listeners(Table):
    amqp: Listener = Address("", 5672)
    kafka: Listener = Address("", 9092)
    management: Listener = Address("", 15672)
    metrics: Listener = Address("", 15692)


class Amqp(Table):
    product: str = "RabbitMQ"
    version: str = "3.13.7"
    heartbeat_s: Whole = Field(60, ge=0, le=65_535)
    frame_max: Whole = Field(131_072, ge=4096, le=2**31 - 1)
    channel_max: Whole = Field(2047, ge=1, le=65_535)
    message_size_max: Size = 128 * 2**20
    unfinished_memory: Memory = Field(256 * 2**20, ge=2**20)
    handshake_timeout_s: Number = Field(10.0, gt=0)
    close_timeout_s: Number = Field(30.0, gt=0)
    refused_delay_s: Number = Field(3.0, ge=0)
    transaction_size_max: Size = 64 * 2**20


class Kafka(Table):
    vhost: Name = "/"
    anonymous_user: str = "guest"
    advertised: Listener = None
    auto_create_topics: bool = True
    partitions: Whole = Field(1, ge=1, le=10_000)
    request_size_max: Size = 100 * 2**20
    requests_memory: Memory = Field(256 * 2**20, ge=2**20)
    fetch_size_max: Size = 55 * 2**20
    idle_timeout_s: Number = Field(600.0, gt=0)
    login_timeout_s: Number = Field(10.0, gt=0)
    group_size_max: Whole = Field(10_000, ge=1)
    groups_max: Whole = Field(100_000, ge=1)
    groups_memory: Memory = 256 * 2**20
    initial_rebalance_delay_ms: Whole = Field(0, ge=0, le=600_000)
    session_timeout_min_ms: Whole = Field(6_000, ge=1, le=2**31 - 1)
    session_timeout_max_ms: Whole = Field(1_800_000, ge=1, le=2**31 - 1)
    offsets_retention_s: Number = Field(7 * 86_400.0, gt=0)

    @model_validator(mode="after")
    def _session_timeouts_are_ordered(self) -> Kafka:
        least, most = self.session_timeout_min_ms, self.session_timeout_max_ms
        if least > most:
            raise ValueError(f"session_timeout_min_ms {least} is more than session_timeout_max_ms {most}")
        return self


class Limits(Table):
    connections: Whole = Field(65_536, ge=1)
    memory: Memory = Field(default_factory=lambda: read_memory("60%"))
    disk_free: Size = 50 * 10**6
    queue_memory: Size = 32 * 2**20
    queues_memory: Memory = 256 * 2**20
    segment_size: Size = 16 * 2**20
    partitions: Whole = Field(PARTITIONS_MAX, ge=1)
    stop_timeout_s: Number = Field(10.0, gt=0)


class Log(Table):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class DefaultUser(Table):
    """Made when the data folder is new and the file declares no user."""

    name: Name = "guest"
    password: str = "guest"
    vhost: Name = "/"


class Config(Table):
    """Everything."""

    data: Path = Path("data")
    name: Name = "leveret@localhost"
    loopback_users: Names = ["guest"]
    listeners: Listeners = Listeners()
    amqp: Amqp = Amqp()
    kafka: Kafka = Kafka()
    limits: Limits = Limits()
    log: Log = Log()
    default_user: DefaultUser = DefaultUser()
    user: list[User] = []
    vhost: list[VhostEntry] = []
    exchange: list[ExchangeEntry] = []
    queue: list[QueueEntry] = []
    binding: list[BindingEntry] = []
    topic: list[TopicEntry] = []
