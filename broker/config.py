"""What the broker is told: a TOML file, the environment, and the command line, in rising order.

Flow:   `read_config` gives the settings; `node_options`, `amqp_options` and `declarations` make of them
        what each layer takes.
Shape:  `config/broker.toml` names every setting with its default; a test holds it to this file.
Why:    pydantic, because strangers write this. An error names the file, the key path, what was expected
        and what was found.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from broker import __version__
from broker.amqp import wire
from broker.amqp.errors import LocalProtocolError
from broker.management.options import ManagementOptions
from broker.model.arguments import read_alternate, read_queue_arguments
from broker.model.errors import InvalidTopicName, PreconditionFailed
from broker.model.exchange import MATCHERS, QUEUE
from broker.model.group_limits import GroupLimits
from broker.model.resource import spoken
from broker.model.stream import check_flags, is_stream, stream_configs
from broker.model.topic import CONFIGS, OFFSETS_TOPIC, check_name
from broker.node.alarms import memory_total
from broker.node.declarations import (
    BindingDeclaration,
    Declarations,
    ExchangeDeclaration,
    PermissionDeclaration,
    QueueDeclaration,
    TopicDeclaration,
    UserDeclaration,
)
from broker.node.groups import GroupOptions
from broker.node.node import NodeOptions
from broker.node.passwords import ARGON2ID, check_hash
from broker.node.topics import PARTITIONS_MAX
from broker.server.amqp.options import AmqpOptions
from broker.server.kafka.options import KafkaOptions
from broker.server.serve import Address

OFF: Final = "off"

_UNITS: Final = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "k": 2**10,
    "m": 2**20,
    "g": 2**30,
}


class ConfigError(Exception):
    """The settings cannot be used; each line of the message says where and why."""


# ---- kinds of values ----


def _size(value: Any) -> Any:
    """`64 MiB`, `50MB` or a number of octets."""
    if isinstance(value, str):
        found = re.fullmatch(r"\s*([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([a-zA-Z]*)\s*", value)
        if found and found[2].lower() in _UNITS:
            return int(float(found[1]) * _UNITS[found[2].lower()])
        raise ValueError("expected a size as 16 MiB, 50MB or a number of octets")
    return value


def _memory(value: Any) -> Any:
    """A size, or a share of the memory there is: `60%`."""
    if isinstance(value, str) and (found := re.fullmatch(r"\s*([0-9]{1,3}(?:\.[0-9]{1,9})?)\s*%\s*", value)):
        return int(memory_total() * float(found[1]) / 100)
    try:
        return _size(value)
    except ValueError:
        raise ValueError("expected a size as 512 MiB or a share of the memory as 60%") from None


def _listener(value: Any) -> Any:
    """`host:port`, `:port` for all addresses, a port, or `off`."""
    if value is None or isinstance(value, Address):
        return value
    text = str(value).strip()
    if text.lower() in (OFF, "false"):
        return None
    host, colon, port = text.rpartition(":")
    if (
        not re.fullmatch("[0-9]{1,5}", port)
        or int(port) > 65_535
        or (colon and ":" in host and not host.startswith("["))
    ):
        raise ValueError("expected host:port, :port, a port or off")
    return Address(host.strip("[]"), int(port))


def _short(value: str) -> str:
    """AMQP has no room for longer ones."""
    if len(value.encode()) > 255:
        raise ValueError(f"expected at most 255 octets, these are {len(value.encode())}")
    return value


def _names(value: Any) -> Any:
    """A list, or as the environment has one: `guest,admin`; nothing is none."""
    if isinstance(value, str):
        return [name.strip() for name in value.split(",") if name.strip()]
    return value


def _arguments(value: dict[str, Any]) -> dict[str, Any]:
    for name, one in value.items():
        try:
            wire.table({name: one})
        except LocalProtocolError as error:
            raise ArgumentError(name, f"expected what AMQP has a type for: {error.text}") from None
    return value


class ArgumentError(ValueError):
    """An argument of a queue, an exchange or a binding, or a topic's configuration, that cannot be."""

    def __init__(self, argument: str, text: str) -> None:
        super().__init__(text)
        self.argument = argument


Size = Annotated[int, BeforeValidator(_size), Field(ge=0)]
Memory = Annotated[int, BeforeValidator(_memory), Field(ge=0)]
Listener = Annotated[Address | None, BeforeValidator(_listener)]
Short = Annotated[str, AfterValidator(_short)]
Name = Annotated[str, Field(min_length=1), AfterValidator(_short)]
Names = Annotated[list[str], BeforeValidator(_names)]
Arguments = Annotated[dict[str, Any], AfterValidator(_arguments)]


class _Table(BaseModel):
    model_config = ConfigDict(
        extra="forbid", defer_build=True, arbitrary_types_allowed=True, frozen=True, allow_inf_nan=False
    )


# ---- settings ----


class Listeners(_Table):
    amqp: Listener = Address("", 5672)
    kafka: Listener = Address("", 9092)
    management: Listener = Address("", 15672)
    metrics: Listener = Address("", 15692)


class Amqp(_Table):
    product: str = "RabbitMQ"
    version: str = "3.13.7"
    heartbeat_s: int = Field(60, ge=0, le=65_535)
    frame_max: int = Field(131_072, ge=4096, le=2**31 - 1)
    channel_max: int = Field(2047, ge=1, le=65_535)
    message_size_max: Size = 16 * 2**20
    handshake_timeout_s: float = Field(10.0, gt=0)
    close_timeout_s: float = Field(30.0, gt=0)
    refused_delay_s: float = Field(3.0, ge=0)
    transaction_size_max: Size = 64 * 2**20


class Kafka(_Table):
    vhost: Name = "/"
    anonymous_user: str = "guest"
    advertised: Listener = None
    auto_create_topics: bool = True
    partitions: int = Field(1, ge=1, le=10_000)
    request_size_max: Size = 100 * 2**20
    requests_memory: Memory = Field(256 * 2**20, ge=2**20)
    fetch_size_max: Size = 55 * 2**20
    idle_timeout_s: float = Field(600.0, gt=0)
    login_timeout_s: float = Field(10.0, gt=0)
    group_size_max: int = Field(10_000, ge=1)
    groups_max: int = Field(100_000, ge=1)
    groups_memory: Memory = 256 * 2**20
    initial_rebalance_delay_ms: int = Field(0, ge=0, le=600_000)
    session_timeout_min_ms: int = Field(6_000, ge=1, le=2**31 - 1)
    session_timeout_max_ms: int = Field(1_800_000, ge=1, le=2**31 - 1)
    offsets_retention_s: float = Field(7 * 86_400.0, gt=0)

    @model_validator(mode="after")
    def _session_timeouts_are_ordered(self) -> Kafka:
        least, most = self.session_timeout_min_ms, self.session_timeout_max_ms
        if least > most:
            raise ValueError(f"session_timeout_min_ms {least} is more than session_timeout_max_ms {most}")
        return self


class Limits(_Table):
    connections: int = Field(65_536, ge=1)
    memory: Memory = Field(default_factory=lambda: _memory("60%"))
    disk_free: Size = 50 * 10**6
    queue_memory: Size = 32 * 2**20
    queues_memory: Memory = 256 * 2**20
    segment_size: Size = 16 * 2**20
    partitions: int = Field(PARTITIONS_MAX, ge=1)
    stop_timeout_s: float = Field(10.0, gt=0)


class Log(_Table):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class DefaultUser(_Table):
    """Made when the data folder is new and the file declares no user."""

    name: Name = "guest"
    password: str = "guest"
    vhost: Name = "/"


# ---- declarations ----


class Permission(_Table):
    vhost: Name = "/"
    configure: str = ".*"
    write: str = ".*"
    read: str = ".*"

    @field_validator("configure", "write", "read")
    @classmethod
    def _is_pattern(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"expected a regular expression: {error}") from None
        return value


class User(_Table):
    name: Name
    password: str | None = None
    password_hash: str | None = None
    hashing_algorithm: str = ARGON2ID
    tags: Names = []
    permission: list[Permission] = []

    def model_post_init(self, context: Any) -> None:
        if (self.password is None) == (self.password_hash is None):
            raise ValueError("expected either password or password_hash")
        if self.password_hash:
            try:
                check_hash(self.password_hash, self.hashing_algorithm)
            except PreconditionFailed as error:
                raise ValueError(str(error)) from None


class VhostEntry(_Table):
    name: Name


class ExchangeEntry(_Table):
    name: Name
    vhost: Name = "/"
    type: str = "direct"
    durable: bool = True
    auto_delete: bool = False
    internal: bool = False
    arguments: Arguments = {}

    @field_validator("type")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in MATCHERS:
            raise ValueError(f"expected one of {', '.join(MATCHERS)}")
        return value

    @field_validator("arguments")
    @classmethod
    def _are_right(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            read_alternate("", "", value)
        except PreconditionFailed:
            raise ArgumentError("alternate-exchange", "expected a string") from None
        return value


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


class QueueEntry(_Table):
    name: Name
    vhost: Name = "/"
    durable: bool = True
    auto_delete: bool = False
    arguments: Arguments = {}

    @field_validator("arguments")
    @classmethod
    def _are_right(cls, value: dict[str, Any]) -> dict[str, Any]:
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

    def model_post_init(self, context: Any) -> None:
        if is_stream(self.arguments):
            try:
                check_flags(_NAMELESS, durable=self.durable, auto_delete=self.auto_delete, exclusive=False)
                check_name(self.name)
            except PreconditionFailed as error:
                raise ValueError(str(error).replace(_NAMELESS, "a stream")) from None


class TopicEntry(_Table):
    name: Name
    vhost: Name = "/"
    partitions: int = Field(1, ge=1, le=10_000)
    configs: dict[str, str | bool | int | float] = {}

    @field_validator("name")
    @classmethod
    def _is_name(cls, value: str) -> str:
        try:
            check_name(value)
        except InvalidTopicName as error:
            raise ValueError(f"expected a name: {error}") from None
        if value == OFFSETS_TOPIC:
            raise ValueError("expected another name: this is the broker's own topic")
        return value

    @field_validator("configs")
    @classmethod
    def _are_right(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, given in value.items():
            config = CONFIGS.get(name)
            if config is None:
                raise ArgumentError(name, "there is no such topic configuration")
            if not config.allows(_topic_text(given)):
                raise ArgumentError(name, f"expected {config.expected}")
        return value


def _topic_text(value: str | bool | int | float) -> str:
    """A topic's configurations are texts; TOML has better ones."""
    return str(value).lower() if isinstance(value, bool) else str(value)


class BindingEntry(_Table):
    vhost: Name = "/"
    source: Name
    destination: Name
    destination_type: Literal["queue", "exchange", "topic"] = QUEUE
    routing_key: Short = ""
    arguments: Arguments = {}


class Config(_Table):
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


# ---- reading ----

_RABBITMQ_NAMES: Final = {
    "RABBITMQ_DEFAULT_USER": ("default_user", "name"),
    "RABBITMQ_DEFAULT_PASS": ("default_user", "password"),
    "RABBITMQ_DEFAULT_VHOST": ("default_user", "vhost"),
}
_SHORT_NAMES: Final = {
    "AMQP": ("listeners", "amqp"),
    "KAFKA": ("listeners", "kafka"),
    "MANAGEMENT": ("listeners", "management"),
    "METRICS": ("listeners", "metrics"),
}
_PREFIX: Final = "LEVERET_"
# Of the environment, and no settings.
_NO_SETTINGS: Final = frozenset({"CONFIG"})
# Kubernetes tells every pod where a service is, and so one that is called leveret.
_OF_KUBERNETES: Final = re.compile(
    r"(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_.+)?)"
)
_PORT_OF_KUBERNETES: Final = re.compile(r"(tcp|udp|sctp)://.*")


def read_config(
    file: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any] | None = None
) -> Config:
    """The settings of a file, with the environment over them and the flags over both.

    `flags` has the names of the top level and of the listeners; None is "not given". Raises ConfigError.
    """
    found: dict[str, Any] = {}
    if file is not None:
        try:
            found = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: {error}") from None
        _validate(found, str(file))  # whose mistake it is must be clear
    for path, value, origin in _from_environment(environment):
        _put(found, path, value)
        _validate(found, origin)
    for name, value in (flags or {}).items():
        if value is not None:
            _put(found, ("listeners", name) if name in Listeners.model_fields else (name,), value)
            _validate(found, f"--{name}")
    return _validate(found, str(file or "defaults"))


def _from_environment(environment: Mapping[str, str]) -> list[tuple[tuple[str, ...], Any, str]]:
    found: list[tuple[tuple[str, ...], Any, str]] = []
    for name, value in sorted(environment.items()):
        if name in _RABBITMQ_NAMES:
            found.append((_RABBITMQ_NAMES[name], value, name))
        elif name.startswith(_PREFIX) and _is_setting(rest := name.removeprefix(_PREFIX), value):
            path = _SHORT_NAMES.get(rest) or tuple(rest.lower().split("__"))
            found.append((path, value, name))
    return found


def _is_setting(name: str, value: str) -> bool:
    if name in _NO_SETTINGS or _OF_KUBERNETES.fullmatch(name):
        return False
    return not (name.endswith("PORT") and _PORT_OF_KUBERNETES.fullmatch(value))


def _put(found: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        inner = found.get(name)
        found[name] = dict(inner) if isinstance(inner, dict) else {}
        found = found[name]
    found[path[-1]] = value


def _validate(found: dict[str, Any], origin: str) -> Config:
    try:
        return Config.model_validate(found)
    except ValidationError as error:
        raise ConfigError("\n".join(_lines(error, origin))) from None


def _lines(error: ValidationError, origin: str) -> list[str]:
    lines = []
    for problem in error.errors():
        where = _spoken_path(problem["loc"])
        value = problem["input"]
        reason = problem.get("ctx", {}).get("error")
        if isinstance(reason, ArgumentError):
            where, value = f"{where}.{reason.argument}", value[reason.argument]
        lines.append(
            f"{origin}: {where}: {_spoken_problem(problem, reason)}"
            f"{'' if where.endswith(_SECRETS) else _spoken_value(problem['type'], value)}"
        )
    return lines


def _spoken_path(place: tuple[int | str, ...]) -> str:
    """`queue[2].arguments`; the first entry is `queue[0]`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


_SPOKEN: Final = {
    "missing": "this key is missing",
    "extra_forbidden": "there is no such key",
    "int_type": "expected an integer",
    "int_parsing": "expected an integer",
    "int_from_float": "expected an integer",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "string_type": "expected a string",
    "list_type": "expected a list",
    "path_type": "expected a path",
    "finite_number": "expected a number that is finite",
    "dict_type": "expected a table",
    "model_type": "expected a table",
    "model_attributes_type": "expected a table",
}
_TABLES: Final = ("user", "permission", "vhost", "exchange", "queue", "binding", "topic")
# What nobody wants to read in a log.
_SECRETS: Final = ("password", "password_hash")
_BOUNDS: Final = {
    "greater_than_equal": ">= {ge}",
    "greater_than": "> {gt}",
    "less_than_equal": "<= {le}",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "literal_error": "{expected}",
}


def _spoken_problem(problem: Any, reason: Exception | None) -> str:
    kind = problem["type"]
    if reason is not None:
        return str(reason)
    if kind in _BOUNDS:
        return f"expected {_BOUNDS[kind].format(**problem['ctx'])}"
    if kind == "list_type" and problem["loc"][-1] in _TABLES:
        return f"expected tables, as [[{problem['loc'][-1]}]] begins one"
    return _SPOKEN.get(kind) or str(problem["msg"])


def _spoken_value(kind: str, value: Any) -> str:
    if kind in ("missing", "extra_forbidden") or isinstance(value, dict | list):
        return ""
    return f", got {json.dumps(value, default=str)}"


# ---- for each layer ----


def node_options(config: Config) -> NodeOptions:
    limits = config.limits
    return NodeOptions(
        data=os.fspath(config.data),
        name=config.name,
        queue_memory_max=limits.queue_memory,
        queues_memory_max=limits.queues_memory,
        segment_size_max=limits.segment_size,
        partitions_max=limits.partitions,
        groups=GroupOptions(
            vhost=config.kafka.vhost,
            groups_max=config.kafka.groups_max,
            size_max=config.kafka.groups_memory,
            limits=GroupLimits(
                initial_rebalance_delay_ms=config.kafka.initial_rebalance_delay_ms,
                session_timeout_min_ms=config.kafka.session_timeout_min_ms,
                session_timeout_max_ms=config.kafka.session_timeout_max_ms,
                size_max=config.kafka.group_size_max,
            ),
            retention_ms=int(config.kafka.offsets_retention_s * 1000),
        ),
        memory_limit=limits.memory,
        disk_free_limit=limits.disk_free,
    )


def amqp_options(config: Config) -> AmqpOptions:
    amqp = config.amqp
    return AmqpOptions(
        product=amqp.product,
        version=amqp.version,
        own_version=__version__,
        cluster_name=config.name,
        channel_max=amqp.channel_max,
        frame_max=amqp.frame_max,
        heartbeat_s=amqp.heartbeat_s,
        connection_max=config.limits.connections,
        message_size_max=amqp.message_size_max,
        handshake_timeout_s=amqp.handshake_timeout_s,
        close_timeout_s=amqp.close_timeout_s,
        refused_delay_s=amqp.refused_delay_s,
        loopback_users=frozenset(config.loopback_users),
        transaction_size_max=amqp.transaction_size_max,
    )


def kafka_options(config: Config) -> KafkaOptions:
    kafka = config.kafka
    return KafkaOptions(
        vhost=kafka.vhost,
        anonymous_user=kafka.anonymous_user,
        loopback_users=frozenset(config.loopback_users),
        advertised_host=kafka.advertised.host if kafka.advertised is not None else "",
        advertised_port=kafka.advertised.port if kafka.advertised is not None else 0,
        auto_create_topics=kafka.auto_create_topics,
        partitions=kafka.partitions,
        connections_max=config.limits.connections,
        request_size_max=kafka.request_size_max,
        requests_size_max=kafka.requests_memory,
        fetch_size_max=kafka.fetch_size_max,
        idle_timeout_s=kafka.idle_timeout_s,
        login_timeout_s=kafka.login_timeout_s,
    )


def management_options(config: Config) -> ManagementOptions:
    amqp = config.amqp
    return ManagementOptions(
        product=amqp.product,
        version=amqp.version,
        own_version=__version__,
        cluster_name=config.name,
        connection_max=config.limits.connections,
        message_size_max=amqp.message_size_max,
        loopback_users=frozenset(config.loopback_users),
    )


def declarations(config: Config) -> Declarations:
    return Declarations(
        default_user=UserDeclaration(
            config.default_user.name,
            password=config.default_user.password,
            tags=("administrator",),
            permissions=(PermissionDeclaration(config.default_user.vhost),),
        ),
        vhosts=tuple(entry.name for entry in config.vhost),
        users=tuple(
            UserDeclaration(
                user.name,
                password=user.password,
                password_hash=user.password_hash,
                hashing_algorithm=user.hashing_algorithm,
                tags=tuple(user.tags),
                permissions=tuple(
                    PermissionDeclaration(entry.vhost, entry.configure, entry.write, entry.read)
                    for entry in user.permission
                ),
            )
            for user in config.user
        ),
        exchanges=tuple(
            ExchangeDeclaration(
                entry.vhost,
                entry.name,
                entry.type,
                entry.durable,
                entry.auto_delete,
                entry.internal,
                entry.arguments,
            )
            for entry in config.exchange
        ),
        queues=tuple(
            QueueDeclaration(entry.vhost, entry.name, entry.durable, entry.auto_delete, entry.arguments)
            for entry in config.queue
        ),
        bindings=tuple(
            BindingDeclaration(
                entry.vhost,
                entry.source,
                entry.destination_type,
                entry.destination,
                entry.routing_key,
                entry.arguments,
            )
            for entry in config.binding
        ),
        topics=tuple(
            TopicDeclaration(
                entry.vhost,
                entry.name,
                entry.partitions,
                {name: _topic_text(value) for name, value in entry.configs.items()},
            )
            for entry in config.topic
        ),
    )
