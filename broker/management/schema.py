"""The bodies of requests: what each may hold, and what is said about one that is wrong.

Limits: the names and keys of AMQP have at most 255 bytes, other texts that are kept 4,096; at most 64 tags; a topic
        gets at most 10,000 partitions, as with one request of Kafka's; what a body holds besides is ignored.
Spec:   RabbitMQ: booleans may be strings; no body, and null, are an empty object.
Why:    pydantic takes a tenth of a second to import, so that `api` loads this file, in a thread, for the first request
        that may have a body. The functions that read one import its class themselves.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)

from broker.management.errors import bad_request
from broker.management.tables import checked

_SHORT_MAX: Final = 255
_TEXT_MAX: Final = 4096
_TAGS_MAX: Final = 64
_GOT_MAX: Final = 60
_PARTITIONS_MAX: Final = 10_000
_LONG_MAX: Final = 2**63 - 1
_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _flag(value: Any) -> Any:
    if value in ("true", "false"):
        return value == "true"
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def _table(value: Any) -> Any:
    """PHP's encoder writes an empty table as []."""
    if value == [] or value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError("expected an object")
    return checked(value)


def _at_most(size_max: int) -> AfterValidator:
    def check(value: str) -> str:
        size = len(value.encode())
        if size > size_max:
            raise ValueError(f"expected at most {size_max} bytes, this has {size}")
        return value

    return AfterValidator(check)


def _texts(value: Any) -> Any:
    """Names and values; a number or a flag is the text that Kafka has for it."""
    if not isinstance(value, dict):
        raise ValueError("expected an object")
    found = {}
    for name, one in value.items():
        if not isinstance(one, str | int):
            raise ValueError(f"{name}: expected a string, a whole number, true or false")
        found[name] = str(one).lower() if isinstance(one, bool) else str(one)
    return found


def _tags(value: Any) -> Any:
    """`"a,b"`, or a list."""
    if isinstance(value, str):
        value = [tag.strip() for tag in value.split(",") if tag.strip()]
    if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
        raise ValueError("expected a string with commas, or a list of strings")
    if len(value) > _TAGS_MAX:
        raise ValueError(f"expected at most {_TAGS_MAX} tags, these are {len(value)}")
    return tuple(value)


Flag = Annotated[bool, BeforeValidator(_flag)]
Table = Annotated[dict[str, Any], BeforeValidator(_table)]
Short = Annotated[StrictStr, _at_most(_SHORT_MAX)]
Text = Annotated[StrictStr, _at_most(_TEXT_MAX)]
Texts = Annotated[dict[str, str], BeforeValidator(_texts)]
Tags = Annotated[tuple[Short, ...], BeforeValidator(_tags)]
Octet = Annotated[int, Field(ge=0, le=255)]
Partitions = Annotated[list[StrictInt], Field(min_length=1, max_length=_PARTITIONS_MAX, fail_fast=True)]


class Body(BaseModel):
    """What a request brings."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    @classmethod
    @cache
    def needed(cls) -> tuple[str, ...]:
        """The keys that must be there."""
        return tuple(name for name, entry in cls.model_fields.items() if entry.is_required())


class QueueBody(Body):
    """Not durable unless it is said, as with RabbitMQ."""

    durable: Flag = False
    auto_delete: Flag = False
    arguments: Table = {}


class ExchangeBody(Body):
    type: Short = "direct"
    durable: Flag = False
    auto_delete: Flag = False
    internal: Flag = False
    arguments: Table = {}


class QueueActionBody(Body):
    action: Literal["sync", "cancel_sync"]


class BindingBody(Body):
    routing_key: Short = ""
    arguments: Table = {}


class TopicBody(Body):
    """What is left out stays as it is; a new topic has one partition."""

    partitions: Annotated[int, Field(ge=1, le=_PARTITIONS_MAX)] | None = None
    configs: Texts | None = None


End = Literal["earliest", "latest"]


def _place(value: Any) -> Any:
    if value in get_args(End) or (type(value) is int and 0 <= value <= _LONG_MAX):
        return value
    raise ValueError(f"expected {', '.join(get_args(End))} or an offset")


def _moment(value: Any) -> Any:
    """Milliseconds since 1970; a text without a zone is UTC."""
    if type(value) is int and 0 <= value <= _LONG_MAX:
        return value
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError("expected milliseconds, or a time as 2026-01-31T12:00:00Z") from None
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    return max((found - _BEGINNING) // timedelta(milliseconds=1), 0)


class OffsetsBody(Body):
    """Where a group is to go on: either `to` or `time`; in all partitions if none is named."""

    topic: StrictStr
    partitions: Partitions | None = None
    to: Annotated[int | End | None, BeforeValidator(_place)] = None
    time: Annotated[int | None, BeforeValidator(_moment)] = None

    @model_validator(mode="after")
    def _is_one_place(self) -> OffsetsBody:
        if (self.to is None) == (self.time is None):
            raise ValueError("expected either to or time")
        return self


class ClusterNameBody(Body):
    name: Short


class VhostBody(Body):
    description: Text | None = None
    tags: Tags | None = None
    default_queue_type: Literal["classic", "undefined"] | None = None
    tracing: Flag = False


class UserBody(Body):
    """Without a password and a hash, nobody logs in with a password."""

    tags: Tags
    password: Text | None = None
    password_hash: Text | None = None
    hashing_algorithm: StrictStr = "rabbit_password_hashing_sha256"


class UsersBody(Body):
    users: Annotated[list[StrictStr], Field(fail_fast=True)]


class PermissionBody(Body):
    configure: Text
    write: Text
    read: Text


class PropertiesBody(Body):
    """The properties of a message."""

    content_type: Short | None = None
    content_encoding: Short | None = None
    headers: Table | None = None
    delivery_mode: Octet | None = None
    priority: Octet | None = None
    correlation_id: Short | None = None
    reply_to: Short | None = None
    expiration: Short | None = None
    message_id: Short | None = None
    timestamp: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None
    type: Short | None = None
    user_id: Short | None = None
    app_id: Short | None = None
    cluster_id: Short | None = None


def _properties(value: Any) -> Any:
    return {} if value == [] else value


class PublishBody(Body):
    routing_key: Short
    properties: Annotated[PropertiesBody, BeforeValidator(_properties)]
    payload: StrictStr
    payload_encoding: Literal["string", "base64"]


AckMode = Literal["ack_requeue_true", "ack_requeue_false", "reject_requeue_true", "reject_requeue_false"]


class GetBody(Body):
    count: int
    ackmode: AckMode
    encoding: Literal["auto", "base64"]
    truncate: Annotated[int, Field(ge=0)] | None = None


# ---- reading ----

B = TypeVar("B", bound=Body)

_EMPTY: Final = (b"", b"null", b"undefined")
_EXPECTED: Final = {
    "missing": "this key is missing",
    "string_type": "expected a string",
    "string_unicode": "expected text",
    "int_type": "expected an integer",
    "int_parsing": "expected an integer",
    "int_from_float": "expected an integer",
    "list_type": "expected a list",
    "too_short": "expected one at least",
    "dict_type": "expected an object",
    "model_type": "expected an object",
}


def parse(kind: type[B], raw: bytes) -> B:
    """Raises Refused; its text says which key is wrong, what was expected and what came."""
    raw = raw.strip()
    try:
        return kind.model_validate_json(b"{}" if raw in _EMPTY else raw)
    except ValidationError as error:
        raise bad_request("; ".join(_line(problem) for problem in error.errors(include_url=False))) from None


def _line(problem: Any) -> str:
    kind = problem["type"]
    if kind == "json_invalid":
        return f"not_json: {problem['ctx']['error']}"
    where = ".".join(map(str, problem["loc"])) or "the body"
    match kind:
        case "value_error":
            text = str(problem["ctx"]["error"])
        case "literal_error":
            text = f"expected {problem['ctx']['expected']}"
        case "greater_than_equal":
            text = f"expected a number >= {problem['ctx']['ge']}"
        case "less_than_equal":
            text = f"expected a number <= {problem['ctx']['le']}"
        case "less_than":
            text = f"expected a number < {problem['ctx']['lt']}"
        case _:
            text = _EXPECTED.get(kind, problem["msg"])
    return f"{where}: {text}{_got(kind, problem['input'])}"


def _got(kind: str, value: Any) -> str:
    if kind == "missing":
        return ""
    text = json.dumps(value[:_GOT_MAX] if isinstance(value, str) else value, default=str)
    return f", got {text if len(text) <= _GOT_MAX else text[:_GOT_MAX] + '...'}"
