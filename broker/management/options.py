"""What the management server must be told. Without imports that cost time, as the configuration makes it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True, frozen=True)
class HttpLimits:
    """What a client of HTTP may take of the broker's memory and time."""

    connections: int = 512
    header_size_max: int = 32 * 1024  # nginx: 4 buffers of 8 KiB
    body_size_max: int = 20_000_000  # where a message is published; elsewhere see `routes.py`
    body_values_max: int = 20_000  # of JSON, which may be many in few bytes
    bodies_memory_max: int = 128 * 1024 * 1024  # of all large bodies together, with what they become
    first_timeout_s: float = 10.0  # from the connection to the first byte
    idle_timeout_s: float = 60.0  # between two requests of a connection
    header_timeout_s: float = 10.0  # from the first byte of a request to the last of its header
    body_timeout_s: float = 30.0
    send_timeout_s: float = 20.0  # for each 64 KiB of an answer
    stop_timeout_s: float = 2.0  # for the requests that are being answered when the server stops


@dataclass(slots=True, frozen=True)
class ManagementOptions:
    """Names and limits, those of the AMQP server among them."""

    product: str = "RabbitMQ"
    version: str = "3.13.7"
    own_version: str = ""
    connection_max: int = 65_536
    message_size_max: int = 128 * 1024 * 1024
    kafka_node_id: int = 1
    loopback_users: frozenset[str] = frozenset({"guest"})
    http: HttpLimits = field(default_factory=HttpLimits)
