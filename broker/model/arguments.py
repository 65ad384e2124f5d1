"""The `x-` arguments of queues and exchanges: what they may be, and whether two declarations agree.

Flow:   a virtual host checks a declaration here before it makes or compares anything.
Limits: a time at most ten years, as RabbitMQ's timers.
Spec:   RabbitMQ's rabbit_amqqueue, declare_args and check_arguments; the reasons are Erlang terms there.

Checklist for a new queue argument: a reader in `_READERS`, a field in `QueueSettings`, a line in the
README's table of arguments; take it out of `_LATER` if it stands there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, TypeAlias

from broker.model.errors import PreconditionFailed
from broker.model.resource import spoken

Arguments: TypeAlias = Mapping[str, Any]

TIME_MS_MAX: Final = 315_360_000_000

_SHORT_SIZE_MAX: Final = 255

DROP_HEAD: Final = "drop-head"
REJECT_PUBLISH: Final = "reject-publish"
REJECT_PUBLISH_DLX: Final = "reject-publish-dlx"


@dataclass(slots=True, frozen=True)
class QueueSettings:
    """What a queue's arguments ask for; None is "not asked"."""

    message_ttl_ms: int | None = None
    expires_ms: int | None = None
    max_length: int | None = None
    max_length_bytes: int | None = None
    overflow: str = DROP_HEAD
    dead_letter_exchange: str | None = None
    dead_letter_routing_key: str | None = None

    @property
    def limited(self) -> bool:
        return self.max_length is not None or self.max_length_bytes is not None


class _Invalid(Exception):
    """The reason, as RabbitMQ prints it."""


def erlang_type(value: Any) -> str:
    """What Erlang calls the type of a field value. The width of integers is not kept: by size."""
    match value:
        case None:
            return "void"
        case bool():
            return "bool"
        case int():
            return "signedint" if -(2**31) <= value < 2**31 else "long"
        case float():
            return "double"
        case str():
            return "longstr"
        case bytes():
            return "binary"
        case datetime():
            return "timestamp"
        case Decimal():
            return "decimal"
        case Mapping():
            return "table"
    return "array"


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _Invalid(f'"expected integer, got {erlang_type(value)}"')
    return value


def _not_negative(value: Any) -> int:
    number = _integer(value)
    if number < 0:
        raise _Invalid(f"{{value_negative,{number}}}")
    return number


def _time(value: Any) -> int:
    number = _not_negative(value)
    if number > TIME_MS_MAX:
        raise _Invalid(f"{{value_too_large,{number}}}")
    return number


def _positive_time(value: Any) -> int:
    if _integer(value) == 0:
        raise _Invalid("{value_zero,0}")
    return _time(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _Invalid(f"{{unacceptable_type,{erlang_type(value)}}}")
    return value


def _routing_key(value: Any) -> str:
    """No longer than a message can carry one."""
    size = len(_text(value).encode())
    if size > _SHORT_SIZE_MAX:
        raise _Invalid(f"a routing key has at most {_SHORT_SIZE_MAX} octets, this one has {size}")
    return str(value)


def _overflow(value: Any) -> str:
    if _text(value) not in (DROP_HEAD, REJECT_PUBLISH, REJECT_PUBLISH_DLX):
        raise _Invalid("invalid_overflow")
    return str(value)


_READERS: Final[dict[str, tuple[str, Callable[[Any], Any]]]] = {
    "x-message-ttl": ("message_ttl_ms", _time),
    "x-expires": ("expires_ms", _positive_time),
    "x-max-length": ("max_length", _not_negative),
    "x-max-length-bytes": ("max_length_bytes", _not_negative),
    "x-overflow": ("overflow", _overflow),
    "x-dead-letter-exchange": ("dead_letter_exchange", _text),
    "x-dead-letter-routing-key": ("dead_letter_routing_key", _routing_key),
}

# Known, and not built yet: refused, so that nobody relies on what is not there.
_LATER: Final = frozenset({"x-max-priority", "x-single-active-consumer"})

# What only other types of queue have.
_OTHER_TYPES: Final = frozenset(
    {
        "x-consumer-timeout",
        "x-consumer-disconnected-timeout",
        "x-dead-letter-strategy",
        "x-delayed-retry-type",
        "x-delayed-retry-min",
        "x-delayed-retry-max",
        "x-delivery-limit",
        "x-initial-cluster-size",
        "x-max-age",
        "x-quorum-initial-group-size",
        "x-stream-filter-size-bytes",
        "x-stream-max-segment-size-bytes",
    }
)

# Of RabbitMQ 3 and before, and without meaning here; definitions files are full of them.
OBSOLETE: Final = frozenset(
    {
        "ha-mode",
        "ha-params",
        "x-ha-policy",
        "x-max-in-memory-bytes",
        "x-max-in-memory-length",
        "x-queue-leader-locator",
        "x-queue-master-locator",
        "x-queue-mode",
        "x-queue-version",
    }
)

# Two declarations of a queue must agree in these.
_COMPARED: Final = (*_READERS, *sorted(_LATER), "x-queue-type")

CLASSIC: Final = "classic"
STREAM: Final = "stream"


def read_queue_arguments(name: str, vhost: str, arguments: Arguments) -> QueueSettings:
    """Raises PreconditionFailed for the first argument with a value that cannot be."""
    _read_exchange("x-dead-letter-exchange", spoken("queue", name, vhost), arguments)
    found: dict[str, Any] = {}
    for key, value in arguments.items():
        try:
            if key in _READERS:
                field, reader = _READERS[key]
                found[field] = reader(value)
            elif key in _LATER and value not in (False, None):
                raise _Invalid("this version of the broker does not have it yet")
            elif key == "x-queue-type":
                _check_type(value)
        except _Invalid as reason:
            raise PreconditionFailed(
                f"invalid arg '{key}' for {spoken('queue', name, vhost)}: {reason}"
            ) from None
        if key in _OTHER_TYPES:
            raise PreconditionFailed(
                f"invalid arg '{key}' for {spoken('queue', name, vhost)} of queue type rabbit_classic_queue"
            )
    settings = QueueSettings(**found)
    if settings.dead_letter_routing_key is not None and settings.dead_letter_exchange is None:
        raise PreconditionFailed(
            f"invalid arg 'x-dead-letter-routing-key' for {spoken('queue', name, vhost)}: "
            "routing_key_but_no_dlx_defined"
        )
    return settings


def _check_type(value: Any) -> None:
    if _text(value) == "quorum":
        raise _Invalid(f"this version of the broker does not have queues of type '{value}' yet")
    if value != CLASSIC:
        raise _Invalid(f"\"unsupported queue type '{value}'\"")


def check_queue_arguments_agree(name: str, vhost: str, current: Arguments, received: Arguments) -> None:
    """Raises PreconditionFailed for the first argument in which they differ."""
    default = {"x-queue-type": CLASSIC}
    for key in _COMPARED:
        check_agree(
            key,
            spoken("queue", name, vhost),
            current.get(key, default.get(key)),
            received.get(key, default.get(key)),
        )


def check_agree(key: str, of: str, current: Any, received: Any) -> None:
    """Raises PreconditionFailed if an argument has another value now; None is "none"."""
    if current == received and isinstance(current, bool) == isinstance(received, bool):
        return
    if current is None or received is None:  # RabbitMQ names the type only then
        said, is_now = _spoken(received), _spoken(current)
    else:
        said, is_now = f"'{_plain(received)}'", f"'{_plain(current)}'"
    raise PreconditionFailed(f"inequivalent arg '{key}' for {of}: received {said} but current is {is_now}")


def check_property_agrees(key: str, of: str, current: Any, received: Any) -> None:
    """The same for what is no argument but a flag or a type: `received 'true' but current is 'false'`."""
    if current != received:
        raise PreconditionFailed(
            f"inequivalent arg '{key}' for {of}: received '{_plain(received)}' but current is '{_plain(current)}'"
        )


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _spoken(value: Any) -> str:
    if value is None:
        return "none"
    return f"the value '{_plain(value)}' of type '{erlang_type(value)}'"


def read_alternate(name: str, vhost: str, arguments: Arguments) -> str | None:
    """The name of the alternate exchange. Raises PreconditionFailed if it is no string."""
    return _read_exchange("alternate-exchange", spoken("exchange", name, vhost), arguments)


def _read_exchange(key: str, of: str, arguments: Arguments) -> str | None:
    """The name of an exchange, for which RabbitMQ has a text of its own if it is none."""
    value = arguments.get(key)
    if key in arguments and not isinstance(value, str):
        raise PreconditionFailed(f"invalid type '{erlang_type(value)}' for arg '{key}' in {of}")
    return value
