"""Streams as AMQP declares them: queues of a type of their own, and topics here.

Flow:   `stream_configs` makes configurations of a topic from the arguments of a queue.
Limits: an interval has at most 12 digits.
Spec:   RabbitMQ's streams: durable, never exclusive or deleted by themselves; they keep everything unless they are told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from broker.model.arguments import OBSOLETE, STREAM, Arguments
from broker.model.errors import PreconditionFailed

# As much as the largest message that an AMQP client may be allowed to publish, and some.
_MESSAGE_SIZE_MAX: Final = 512 * 1024 * 1024
_SEGMENT_BYTES_MAX: Final = 3_000_000_000
_SEGMENT_BYTES_MIN: Final = 1024 * 1024
_IGNORED: Final = frozenset(
    {
        "x-queue-type",
        "x-initial-cluster-size",
        "x-stream-filter-size-bytes",
        "x-queue-leader-locator",
        *OBSOLETE,
    }
)
_INTERVAL: Final = re.compile(r"([0-9]{1,12})([YMDhms])")
_UNIT_MS: Final = {
    "Y": 365 * 86_400_000,
    "M": 30 * 86_400_000,
    "D": 86_400_000,
    "h": 3_600_000,
    "m": 60_000,
    "s": 1000,
}


def interval_ms(text: str) -> int | None:
    """`7D` or `5m`; None if it is not written like that."""
    found = _INTERVAL.fullmatch(text)
    return int(found[1]) * _UNIT_MS[found[2]] if found else None


def is_stream(arguments: Arguments) -> bool:
    return arguments.get("x-queue-type") == STREAM


def check_flags(of: str, *, durable: bool, auto_delete: bool, exclusive: bool) -> None:
    """Raises PreconditionFailed for what a stream cannot be; `of` says which."""
    for wrong, flag in (
        (exclusive, "exclusive-owner"),
        (auto_delete, "auto-delete"),
        (not durable, "non-durable"),
    ):
        if wrong:
            raise PreconditionFailed(f"invalid property '{flag}' for {of}")


def stream_configs(of: str, arguments: Arguments) -> dict[str, str]:
    """Configurations of the topic. Raises PreconditionFailed for the first argument that cannot be."""
    found = {"retention.ms": "-1", "max.message.bytes": str(_MESSAGE_SIZE_MAX)}
    for argument, value in arguments.items():
        if argument in STREAM_ARGUMENTS:
            config, reader = STREAM_ARGUMENTS[argument]
            text = reader(value)
            if text is None:
                raise PreconditionFailed(f"invalid arg '{argument}' for {of}: {value!r:.100}")
            found[config] = text
        elif argument.startswith("x-") and argument not in _IGNORED:
            raise PreconditionFailed(f"invalid arg '{argument}' for {of} of queue type rabbit_stream_queue")
    return found


def check_configs_agree(of: str, current: Mapping[str, str], arguments: Arguments) -> None:
    """Raises PreconditionFailed if an argument says something else than the topic's configurations."""
    configs = stream_configs(of, arguments)
    for argument, (config, _) in STREAM_ARGUMENTS.items():
        if argument in arguments and current.get(config) != configs[config]:
            raise PreconditionFailed(
                f"inequivalent arg '{argument}' for {of}: received '{arguments[argument]}' "
                f"but the topic has {config}={current.get(config, 'default')}"
            )


def _age(value: Any) -> str | None:
    found = interval_ms(value) if isinstance(value, str) else None
    return None if found is None else str(found)


def _bytes(value: Any) -> str | None:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _segment_bytes(value: Any) -> str | None:
    if _bytes(value) is None or value > _SEGMENT_BYTES_MAX:
        return None
    return str(min(max(value, _SEGMENT_BYTES_MIN), 2**31 - 1))


STREAM_ARGUMENTS: Final[Mapping[str, tuple[str, Callable[[Any], str | None]]]] = {
    "x-max-age": ("retention.ms", _age),
    "x-max-length-bytes": ("retention.bytes", _bytes),
    "x-stream-max-segment-size-bytes": ("segment.bytes", _segment_bytes),
}
