"""The properties of a content: read whole for whoever asks, read for a few facts for every message.

Flow:   frames asks `facts_of` for the properties octets of every message; clients, management and
        dead-lettering decode and encode them whole.
Shape:  flags u16 (bit 15 first property, bit 0 another flag word follows) | the properties that are set
Limits: 14 properties; a second flag word is refused. Facts and plans are remembered for 4,096 each and
        forgotten together when full.
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
# A number with fewer digits is below that.
_EXPIRATION_DIGITS: Final = len(str(EXPIRATION_MS_MAX))

_FLAGS = struct.Struct(">H")
_U32 = struct.Struct(">I")
_unpack_u32 = _U32.unpack_from

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


class Facts:
    """What routing and queues must know of the properties of a message.

    Messages with the same facts share one object, as long as the cache holds it: `is` tells whether a run
    goes on.
    """

    __slots__ = (
        "asks_direct_reply",
        "expiration_problem",
        "expires",
        "has_copies",
        "has_headers",
        "persistent",
        "priority",
        "user_id",
    )

    def __init__(
        self,
        *,
        persistent: bool = False,
        priority: int = 0,
        expires: bool = False,
        expiration_problem: str = "",
        user_id: str | None = None,
        has_headers: bool = False,
        has_copies: bool = False,
        asks_direct_reply: bool = False,
    ) -> None:
        self.persistent = persistent
        self.priority = priority
        self.expires = expires
        """The expiration property is set; `expiration_ms` reads it, as it may differ in each message."""
        self.expiration_problem = expiration_problem
        """Why the expiration property is no number of milliseconds, in RabbitMQ's words; "" when it is."""
        self.user_id = user_id
        self.has_headers = has_headers
        self.has_copies = has_copies
        """The headers may name CC or BCC: at least they hold these bytes."""
        self.asks_direct_reply = asks_direct_reply


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

_CACHED_COUNT_MAX: Final = 4096

# Steps of a plan: how far the next property reaches, and whether it matters.
_SKIP_STRING: Final = 0
_SKIP_TIMESTAMP: Final = 1
_HEADERS: Final = 2
_DELIVERY_MODE: Final = 3
_PRIORITY: Final = 4
_REPLY_TO: Final = 5
_EXPIRATION: Final = 6
_USER_ID: Final = 7

_STEPS: Final = {
    "headers": _HEADERS,
    "delivery_mode": _DELIVERY_MODE,
    "priority": _PRIORITY,
    "reply_to": _REPLY_TO,
    "expiration": _EXPIRATION,
    "timestamp": _SKIP_TIMESTAMP,
    "user_id": _USER_ID,
}
# Flag word to the steps through the properties that follow it.
_plans: dict[bytes, tuple[int, ...]] = {}
# By what a message has: priority | the bits below, and by its user id and what is wrong with its expiration.
_facts: dict[tuple[int, bytes, str], Facts] = {(0, b"", ""): NO_FACTS}
_plain_facts: dict[int, Facts] = {0: NO_FACTS}
_PERSISTENT: Final = 1 << 8
_HAS_HEADERS: Final = 1 << 9
_HAS_COPIES: Final = 1 << 10
_ASKS_DIRECT_REPLY: Final = 1 << 11
_EXPIRES: Final = 1 << 12


def facts_of(raw: bytes) -> Facts:
    """The facts of the properties `raw`.

    Raises RemoteProtocolError as `split` does.
    """
    return facts_at(raw, 0, len(raw))


def facts_at(buffer: bytes, at: int, end: int) -> Facts:
    """The facts of the properties that lie from `at` to `end` in a buffer: read in one pass, without a copy.

    Every message with a header of its own comes here. The plain form is `split`, at five times the cost.
    Raises RemoteProtocolError as `split` does.
    """
    flags = buffer[at : at + 2]
    plan = _plans.get(flags)
    if plan is None:
        plan = _plan_of(buffer[at:end])
    at += 2
    code = 0
    user_id = b""
    problem = ""
    try:
        for step in plan:
            if step == _SKIP_STRING:
                at += 1 + buffer[at]
            elif step == _DELIVERY_MODE:
                if buffer[at] == PERSISTENT:
                    code |= _PERSISTENT
                at += 1
            elif step == _HEADERS:
                start = at
                at += 4 + _unpack_u32(buffer, at)[0]
                if at - start > 4:
                    code |= _HAS_HEADERS
                    if buffer.find(b"CC", start, at) > 0 and _name_copies(buffer[start:at]):
                        code |= _HAS_COPIES
            elif step == _SKIP_TIMESTAMP:
                at += 8
            elif step == _PRIORITY:
                code |= buffer[at]
                at += 1
            else:
                start = at + 1
                at = start + buffer[at]
                if step == _REPLY_TO:
                    if buffer[start:at] == _DIRECT_REPLY:
                        code |= _ASKS_DIRECT_REPLY
                elif step == _EXPIRATION:
                    code |= _EXPIRES
                    problem = _expiration_problem(buffer[start:at])
                else:
                    user_id = buffer[start - 1 : at]
    except (IndexError, struct.error):
        at = -1
    if at != end:
        raise _misfit()
    if user_id or problem:
        return _rare_facts(code, user_id, problem)
    return _plain_facts.get(code) or _make_facts(code)


def _plan_of(raw: bytes) -> tuple[int, ...]:
    """Raises RemoteProtocolError for flags without meaning."""
    split(raw)
    flags = _FLAGS.unpack_from(raw)[0]
    plan = tuple(_STEPS.get(name, _SKIP_STRING) for name, flag, _ in _LAYOUT if flags & flag)
    if len(_plans) >= _CACHED_COUNT_MAX:
        _plans.clear()
    _plans[raw[:2]] = plan
    return plan


def _name_copies(table: bytes) -> bool:
    return b"\x02CC" in table or b"\x03BCC" in table


def _make_facts(code: int) -> Facts:
    if len(_plain_facts) >= _CACHED_COUNT_MAX:
        _plain_facts.clear()
    facts = _plain_facts[code] = _facts_from(code, b"", "")
    return facts


def _rare_facts(code: int, user_id: bytes, problem: str) -> Facts:
    facts = _facts.get((code, user_id, problem))
    if facts is None:
        facts = _facts_from(code, user_id, problem)
        if len(_facts) >= _CACHED_COUNT_MAX:
            _facts.clear()
        _facts[code, user_id, problem] = facts
    return facts


def _facts_from(code: int, user_id: bytes, problem: str) -> Facts:
    return Facts(
        persistent=bool(code & _PERSISTENT),
        priority=code & 0xFF,
        expires=bool(code & _EXPIRES) and not problem,
        expiration_problem=problem,
        user_id=wire.read_shortstr(user_id, 0)[0] if user_id else None,
        has_headers=bool(code & _HAS_HEADERS),
        has_copies=bool(code & _HAS_COPIES),
        asks_direct_reply=bool(code & _ASKS_DIRECT_REPLY),
    )


# ---- expiration ----


def expiration_ms(buffer: bytes, at: int) -> int:
    """The expiration of a message, with properties from `at` on, whose facts say that it expires."""
    plan = _plans.get(buffer[at : at + 2]) or _plan_of(buffer[at:])
    at += 2
    for step in plan:
        if step in (_SKIP_STRING, _REPLY_TO):
            at += 1 + buffer[at]
        elif step == _HEADERS:
            at += 4 + _unpack_u32(buffer, at)[0]
        elif step == _EXPIRATION:
            return int(buffer[at + 1 : at + 1 + buffer[at]])
        else:  # a delivery mode or a priority: the timestamp lies behind the expiration
            at += 1
    raise AssertionError("properties without an expiration")


def _expiration_problem(raw: bytes) -> str:
    """Why `raw` is no number of milliseconds, in RabbitMQ's words; "" when it is one."""
    if raw.isdigit() and len(raw) < _EXPIRATION_DIGITS:
        return ""
    text = raw.decode(errors="replace")
    digits = text[1:] if text[:1] in "+-" else text
    leading = digits[: len(digits) - len(digits.lstrip("0123456789"))]
    if not leading:
        return f"invalid expiration '{text}': no_integer"
    if leading != digits:
        return f"invalid expiration '{text}': {{leftover_string,\"{digits[len(leading) :]}\"}}"
    value = int(text)
    if value < 0:
        return f"invalid expiration '{text}': {{value_negative,{value}}}"
    if value > EXPIRATION_MS_MAX:
        return f"invalid expiration '{text}': {{value_too_large,{value}}}"
    return ""
