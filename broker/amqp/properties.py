"""The properties of a content: read whole for whoever asks, read for a few facts for every message.

Flow:   frames asks `facts_of` for the properties octets of every message; clients, management and
        dead-lettering decode and encode them whole.
Shape:  flags u16 (bit 15 first property, bit 0 another flag word follows) | the properties that are set
Limits: 14 properties; a second flag word is refused. The cache of facts holds 4,096 distinct octet
        strings of at most 512 octets each and is emptied when full.
Spec:   AMQP 0-9-1 section 4.2.6; the order is the class definition of `basic`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from broker.amqp import wire
from broker.amqp.errors import LocalProtocolError, RemoteProtocolError
from broker.amqp.spec import DIRECT_REPLY_TO, ReplyCode

PERSISTENT: Final = 2

# RabbitMQ's ?MAX_EXPIRY_TIMER: ten years.
EXPIRATION_MS_MAX: Final = 315_360_000_000

_FLAGS = struct.Struct(">H")
_U32 = struct.Struct(">I")

# (name, flag, kind) in wire order.
_LAYOUT: Final = (
    ("content_type", 1 << 15, "s"),
    ("content_encoding", 1 << 14, "s"),
    ("headers", 1 << 13, "F"),
    ("delivery_mode", 1 << 12, "B"),
    ("priority", 1 << 11, "B"),
    ("correlation_id", 1 << 10, "s"),
    ("reply_to", 1 << 9, "s"),
    ("expiration", 1 << 8, "s"),
    ("message_id", 1 << 7, "s"),
    ("timestamp", 1 << 6, "T"),
    ("type", 1 << 5, "s"),
    ("user_id", 1 << 4, "s"),
    ("app_id", 1 << 3, "s"),
    ("cluster_id", 1 << 2, "s"),
)
_KNOWN_FLAGS: Final = sum(flag for _, flag, _ in _LAYOUT)
_DIRECT_REPLY: Final = DIRECT_REPLY_TO.encode()


@dataclass(slots=True, frozen=True, kw_only=True)
class Properties:
    """The properties of a message, decoded; None is "not set"."""

    content_type: str | None = None
    content_encoding: str | None = None
    headers: Mapping[str, Any] | None = None
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    message_id: str | None = None
    timestamp: datetime | int | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None
    cluster_id: str | None = None


@dataclass(slots=True, frozen=True, eq=False)
class Facts:
    """What routing and queues must know of the properties.

    Messages with the same facts share one object, as long as the cache holds it: `is` tells whether a run
    goes on.
    """

    persistent: bool = False
    priority: int = 0
    expiration_ms: int | None = None
    expiration_problem: str = ""
    """Why the expiration property is no number of milliseconds, in RabbitMQ's words; "" when it is."""
    user_id: str | None = None
    has_headers: bool = False
    has_copies: bool = False
    """The headers name CC or BCC, or at least hold these octets somewhere."""
    asks_direct_reply: bool = False


def _misfit() -> RemoteProtocolError:
    return RemoteProtocolError(ReplyCode.SYNTAX_ERROR, "the properties do not fill their content header")


def split(raw: bytes) -> dict[str, bytes]:
    """Property name to the octets of its value, for whoever changes a few and keeps the rest as it is.

    Raises RemoteProtocolError for properties that are cut short, run on, or that nobody defined.
    """
    if len(raw) < 2:
        raise RemoteProtocolError(ReplyCode.SYNTAX_ERROR, "a content header without property flags")
    flags = _FLAGS.unpack_from(raw)[0]
    if flags & ~_KNOWN_FLAGS:
        raise RemoteProtocolError(ReplyCode.SYNTAX_ERROR, f"unknown property flags {flags:#06x}")
    values = {}
    at = start = 2
    try:
        for name, flag, kind in _LAYOUT:
            if flags & flag:
                if kind == "s":
                    at += 1 + raw[at]
                elif kind == "F":
                    at += 4 + _U32.unpack_from(raw, at)[0]
                else:
                    at += 1 if kind == "B" else 8
                values[name] = raw[start:at]
                start = at
    except (IndexError, struct.error):
        at = len(raw) + 1
    if at != len(raw):
        raise _misfit()
    return values


def join(values: Mapping[str, bytes]) -> bytes:
    """The octets of properties as `split` gives them."""
    flags = sum(flag for name, flag, _ in _LAYOUT if name in values)
    return _FLAGS.pack(flags) + b"".join([values[name] for name, _, _ in _LAYOUT if name in values])


def decode(raw: bytes) -> Properties:
    """Raises RemoteProtocolError as `split` does, and for headers or strings that are malformed."""
    decoded: dict[str, Any] = {}
    kinds = {name: kind for name, _, kind in _LAYOUT}
    for name, octets in split(raw).items():
        match kinds[name]:
            case "s":
                decoded[name] = wire.read_shortstr(octets, 0)[0]
            case "F":
                decoded[name] = wire.read_table(octets, 0)[0]
            case "T":
                decoded[name] = wire.read_timestamp(octets, 0)[0]
            case _:
                decoded[name] = octets[0]
    return Properties(**decoded)


def encode(properties: Properties) -> bytes:
    """Raises LocalProtocolError for a value that does not fit its type."""
    values = {}
    for name, _, kind in _LAYOUT:
        value = getattr(properties, name)
        if value is None:
            continue
        match kind:
            case "s":
                values[name] = wire.shortstr(value)
            case "F":
                values[name] = wire.table(value)
            case "T":
                values[name] = wire.timestamp(value)
            case _ if 0 <= value <= 255:
                values[name] = bytes([value])
            case _:
                raise LocalProtocolError(
                    ReplyCode.SYNTAX_ERROR, f"{name} cannot be {value}: it has one octet"
                )
    return join(values)


# ---- facts ----

NO_FACTS: Final = Facts()
"""Of a message without any property that matters."""

_CACHED_OCTETS_MAX: Final = 512
_CACHED_COUNT_MAX: Final = 4096
_facts_by_octets: dict[bytes, Facts] = {}
_facts_by_key: dict[tuple[bytes, ...], Facts] = {(b"",) * 6: NO_FACTS}
# Flag word to the (name, kind) of the properties that follow it.
_plans: dict[bytes, tuple[tuple[str, str], ...]] = {}
_NAMES_OF_FACTS: Final = frozenset(
    {"headers", "delivery_mode", "priority", "expiration", "user_id", "reply_to"}
)


def facts_of(raw: bytes) -> Facts:
    """The facts of properties octets, from memory where these octets came before.

    Raises RemoteProtocolError as `split` does.
    """
    known = _facts_by_octets.get(raw)
    if known is not None:
        return known
    key = _key_of_facts(raw)
    facts = _facts_by_key.get(key)
    if facts is None:
        facts = _read_facts(*key)
        if len(_facts_by_key) >= _CACHED_COUNT_MAX:
            _facts_by_key.clear()
        _facts_by_key[key] = facts
    if len(raw) <= _CACHED_OCTETS_MAX:
        if len(_facts_by_octets) >= _CACHED_COUNT_MAX:
            _facts_by_octets.clear()
        _facts_by_octets[raw] = facts
    return facts


def _key_of_facts(raw: bytes) -> tuple[bytes, ...]:
    """The octets that facts depend on, read in one pass: every message with an id of its own comes here.

    The plain form is `split`, at five times the cost.
    """
    plan = _plans.get(raw[:2])
    if plan is None:
        split(raw)
        flags = _FLAGS.unpack_from(raw)[0]
        plan = tuple(
            (name if name in _NAMES_OF_FACTS else "", kind) for name, flag, kind in _LAYOUT if flags & flag
        )
        if len(_plans) >= _CACHED_COUNT_MAX:
            _plans.clear()
        _plans[raw[:2]] = plan
    headers = mode = priority = expiration = user_id = reply_to = b""
    at = 2
    try:
        for name, kind in plan:
            start = at
            if kind == "s":
                at += 1 + raw[at]
            elif kind == "F":
                at += 4 + _U32.unpack_from(raw, at)[0]
            else:
                at += 1 if kind == "B" else 8
            if not name:
                continue
            if name == "delivery_mode":
                mode = raw[start:at]
            elif name == "headers":
                if at - start > 4:
                    table = raw[start:at]
                    headers = b"C" if b"\x02CC" in table or b"\x03BCC" in table else b"H"
            elif name == "priority":
                priority = raw[start:at]
            elif name == "expiration":
                expiration = raw[start:at]
            elif name == "user_id":
                user_id = raw[start:at]
            elif raw[start + 1 : at] == _DIRECT_REPLY:
                reply_to = b"R"
    except (IndexError, struct.error):
        at = -1
    if at != len(raw):
        raise _misfit()
    return mode, priority, expiration, user_id, headers, reply_to


def _read_facts(
    mode: bytes,
    priority: bytes,
    expiration: bytes,
    user_id: bytes,
    headers: bytes,
    reply_to: bytes,
) -> Facts:
    expiration_ms, problem = _read_expiration(expiration) if expiration else (None, "")
    return Facts(
        persistent=mode == b"\x02",
        priority=priority[0] if priority else 0,
        expiration_ms=expiration_ms,
        expiration_problem=problem,
        user_id=wire.read_shortstr(user_id, 0)[0] if user_id else None,
        has_headers=bool(headers),
        has_copies=headers == b"C",
        asks_direct_reply=bool(reply_to),
    )


def _read_expiration(octets: bytes) -> tuple[int | None, str]:
    text = octets[1:].decode(errors="replace")
    digits = text[1:] if text[:1] in "+-" else text
    leading = digits[: len(digits) - len(digits.lstrip("0123456789"))]
    if not leading:
        return None, f"invalid expiration '{text}': no_integer"
    if leading != digits:
        return (
            None,
            f"invalid expiration '{text}': {{leftover_string,\"{digits[len(leading) :]}\"}}",
        )
    value = int(text)
    if value < 0:
        return None, f"invalid expiration '{text}': {{value_negative,{value}}}"
    if value > EXPIRATION_MS_MAX:
        return None, f"invalid expiration '{text}': {{value_too_large,{value}}}"
    return value, ""
