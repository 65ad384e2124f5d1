"""What the Kafka server must be told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class KafkaOptions:
    """Limits and names, each with Kafka's default unless a comment says otherwise."""

    node_id: int = 1
    vhost: str = "/"
    """Kafka knows no virtual hosts: its clients see the topics of this one."""
    anonymous_user: str = "guest"
    """Who a client is that does not log in; "" is nobody, so that all must. As for any user, see `loopback_users`."""
    loopback_users: frozenset[str] = frozenset({"guest"})
    advertised_host: str = ""
    """Where clients are told to connect to; "" is where they came to."""
    advertised_port: int = 0
    auto_create_topics: bool = True
    partitions: int = 1
    """Of a topic that is made without saying how many."""
    connections_max: int = 65_536
    request_size_max: int = 100 * 1024 * 1024
    requests_size_max: int = 256 * 1024 * 1024
    """Of all requests that are not handled yet; Kafka has no limit unless it is told one."""
    login_size_max: int = 512 * 1024
    """Of a request before the login."""
    fetch_size_max: int = 55 * 1024 * 1024
    fetch_wait_max_ms: int = 300_000
    """Kafka has no limit but the number's."""
    idle_timeout_s: float = 600.0
    login_timeout_s: float = 10.0
    """For whoever must log in; Kafka has none but the one above."""
    close_timeout_s: float = 30.0
    """For the last answers of a connection that ends; AMQP's."""
    refused_delay_s: float = 0.1
