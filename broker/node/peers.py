"""Who is connected, as management sees it: the servers' connections, channels and consumers.

Why:    Management and servers never import each other. A server's connection fits `Peer`, and what it
        tells of itself is plain data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(slots=True, frozen=True)
class ConsumerSnapshot:
    """One consumer of one queue."""

    tag: str
    queue: str
    acks: bool
    exclusive: bool
    prefetch: int
    priority: int
    active: bool
    arguments: Mapping[str, Any]


@dataclass(slots=True, frozen=True)
class ChannelSnapshot:
    """One channel and what it owes."""

    number: int
    state: str
    confirms: bool
    transactional: bool
    unacked: int
    unconfirmed: int
    uncommitted: int
    acks_uncommitted: int
    prefetch: int
    global_prefetch: int
    published: int
    confirmed: int
    delivered: int
    delivered_no_ack: int
    got: int
    got_no_ack: int
    acknowledged: int
    redelivered: int
    returned: int
    consumers: list[ConsumerSnapshot] = field(default_factory=list)


@dataclass(slots=True, frozen=True)
class ConnectionSnapshot:
    """One connection. Times are milliseconds since 1970."""

    name: str
    protocol: str
    state: str
    user: str
    vhost: str
    host: str
    port: int
    peer_host: str
    peer_port: int
    connected_at_ms: int
    client_properties: Mapping[str, Any]
    mechanism: str
    frame_max: int
    channel_max: int
    heartbeat_s: int
    received_octets: int
    received_count: int
    sent_octets: int
    sent_count: int
    send_pending: int
    channels: list[ChannelSnapshot] = field(default_factory=list)


class Peer(Protocol):
    """A connection of any server."""

    def snapshot(self) -> ConnectionSnapshot: ...

    def close_by_operator(self, reason: str) -> None:
        """End it, telling the client why."""
        ...


class CannotListen(OSError):
    """An address that is not to be had."""


@dataclass(slots=True, frozen=True)
class Listener:
    """An address that is served."""

    protocol: str
    host: str
    port: int
