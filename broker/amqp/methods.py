"""The methods of AMQP 0-9-1 and RabbitMQ's additions: one class a method, fields in wire order.

Flow:   frames gives a method frame's payload to `decode`; whoever answers gives a method to `encode`.
Shape:  class id u16 | method id u16 | arguments; consecutive bits share octets, lowest first.
Spec:   amqp0-9-1.xml, with exchange.bind/unbind, basic.nack, confirm, connection.blocked/unblocked and
        update-secret from RabbitMQ's own. `exchange.unbind-ok` is 51, not 41.

Checklist for a new method: add the class here; it is then decoded, encoded and covered by the round-trip
test; name a handler for it in `broker/server/amqp/` after it in snake case.
"""

from __future__ import annotations

import inspect
import struct
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, TypeAlias, dataclass_transform

from broker.amqp import wire
from broker.amqp.errors import LocalProtocolError, RemoteProtocolError
from broker.amqp.spec import FRAME_END, FRAME_METHOD, ReplyCode

# The wire types: what a field's annotation says is what codes it.
Octet: TypeAlias = int
Short: TypeAlias = int
Long: TypeAlias = int
LongLong: TypeAlias = int
ShortStr: TypeAlias = str
LongStr: TypeAlias = bytes
Bit: TypeAlias = bool
Table: TypeAlias = Mapping[str, Any]

Reader: TypeAlias = Callable[[bytes, int], tuple[Any, int]]
Writer: TypeAlias = Callable[[Any], bytes]

_READERS: dict[str, Reader] = {
    "Octet": wire.read_u8,
    "Short": wire.read_u16,
    "Long": wire.read_u32,
    "LongLong": wire.read_u64,
    "ShortStr": wire.read_shortstr,
    "LongStr": wire.read_longstr,
    "Table": wire.read_table,
}
_WRITERS: dict[str, Writer] = {
    "Octet": struct.Struct(">B").pack,
    "Short": struct.Struct(">H").pack,
    "Long": struct.Struct(">I").pack,
    "LongLong": struct.Struct(">Q").pack,
    "ShortStr": wire.shortstr,
    "LongStr": wire.longstr,
    "Table": wire.table,
}
_FRAME_START = struct.Struct(">BHI")
_METHOD_ID = struct.Struct(">HH")

NO_FIELDS: Final[Table] = {}

BY_ID: dict[tuple[int, int], type[Method]] = {}

# Methods that came before, as basic.get in a loop, by their payloads.
_repeated: dict[bytes, Method] = {}
_REPEATED_MAX: Final = 1024
_REPEATED_SIZE_MAX: Final = 128


@dataclass_transform(frozen_default=True)
class Method:
    """What every method has.

    A dataclass to mypy. At run time one generic constructor serves all: sixty generated ones would
    cost a tenth of a second at every start.
    """

    id: ClassVar[tuple[int, int]]
    name: ClassVar[str]
    layout: ClassVar[tuple[tuple[str, str], ...]]
    """(field name, wire type) in wire order."""
    names: ClassVar[tuple[str, ...]]
    repeats: ClassVar[bool]
    """A client in a loop sends it again with the same arguments."""

    def __init_subclass__(cls, *, id: tuple[int, int], name: str, repeats: bool = False) -> None:
        cls.id = id
        cls.name = name
        # Annotations are strings here (PEP 563), and so name the wire type itself.
        cls.layout = tuple(inspect.get_annotations(cls).items())
        cls.names = tuple([name for name, _ in cls.layout])
        cls.repeats = repeats
        BY_ID[id] = cls

    def __init__(self, *values: Any, **named: Any) -> None:
        names = self.names
        if len(values) > len(names) or (named and not named.keys() <= set(names[len(values) :])):
            raise TypeError(f"{type(self).__name__} has the fields {', '.join(names)}")
        self.__dict__.update(zip(names, values, strict=False))
        self.__dict__.update(named)

    def values(self) -> list[Any]:
        """The fields' values in wire order."""
        return [getattr(self, name) for name in self.names]

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.values() == other.values()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name, _ in self.layout)
        return f"{type(self).__name__}({shown})"


def decode(payload: bytes) -> Method:
    """The method in the payload of a method frame.

    Raises RemoteProtocolError: 503 for an unknown method, 502 for arguments cut short or run on.
    """
    known = _repeated.get(payload)
    if known is not None:
        return known
    if len(payload) < 4:
        raise RemoteProtocolError(ReplyCode.FRAME_ERROR, "a method frame of less than 4 octets")
    ids = _METHOD_ID.unpack_from(payload)
    cls = BY_ID.get(ids)
    if cls is None:
        raise RemoteProtocolError(ReplyCode.COMMAND_INVALID, "unimplemented method", *ids)
    values: list[Any] = []
    at, bit, octet = 4, 0, 0
    for _, kind in cls.layout:
        if kind == "Bit":
            if bit == 0:
                octet, at = wire.read_u8(payload, at)
            values.append(bool(octet >> bit & 1))
            bit = (bit + 1) % 8
        else:
            bit = 0
            value, at = _READERS[kind](payload, at)
            values.append(value)
    if at != len(payload):
        raise wire.syntax_error(f"{len(payload) - at} octets behind the arguments of {cls.name}")
    method = cls(*values)
    if cls.repeats and len(payload) <= _REPEATED_SIZE_MAX:
        if len(_repeated) >= _REPEATED_MAX:
            _repeated.clear()
        _repeated[payload] = method
    return method


def encode_payload(method: Method) -> bytes:
    """Class id, method id and arguments.

    Raises LocalProtocolError for a value that does not fit its type.
    """
    parts = [_METHOD_ID.pack(*method.id)]
    octet, bit = 0, 0
    for name, kind in method.layout:
        value = getattr(method, name)
        if kind == "Bit":
            octet |= bool(value) << bit
            bit += 1
            continue
        if bit:
            parts.append(bytes([octet]))
            octet = bit = 0
        try:
            parts.append(_WRITERS[kind](value))
        except struct.error as error:
            raise LocalProtocolError(
                ReplyCode.SYNTAX_ERROR, f"{name} of {method.name} cannot be {value!r}: {error}", *method.id
            ) from None
    if bit:
        parts.append(bytes([octet]))
    return b"".join(parts)


def encode(channel: int, method: Method) -> bytes:
    """The whole method frame."""
    payload = encode_payload(method)
    return b"%b%b%c" % (
        _FRAME_START.pack(FRAME_METHOD, channel, len(payload)),
        payload,
        FRAME_END,
    )


# ---- connection ----


class ConnectionStart(Method, id=(10, 10), name="connection.start"):
    version_major: Octet = 0
    version_minor: Octet = 9
    server_properties: Table = NO_FIELDS
    mechanisms: LongStr = b"PLAIN AMQPLAIN"
    locales: LongStr = b"en_US"


class ConnectionStartOk(Method, id=(10, 11), name="connection.start-ok"):
    client_properties: Table = NO_FIELDS
    mechanism: ShortStr = "PLAIN"
    response: LongStr = b""
    locale: ShortStr = "en_US"


class ConnectionSecure(Method, id=(10, 20), name="connection.secure"):
    challenge: LongStr = b""


class ConnectionSecureOk(Method, id=(10, 21), name="connection.secure-ok"):
    response: LongStr = b""


class ConnectionTune(Method, id=(10, 30), name="connection.tune"):
    channel_max: Short = 0
    frame_max: Long = 0
    heartbeat: Short = 0


class ConnectionTuneOk(Method, id=(10, 31), name="connection.tune-ok"):
    channel_max: Short = 0
    frame_max: Long = 0
    heartbeat: Short = 0


class ConnectionOpen(Method, id=(10, 40), name="connection.open"):
    virtual_host: ShortStr = "/"
    reserved_1: ShortStr = ""
    reserved_2: Bit = False


class ConnectionOpenOk(Method, id=(10, 41), name="connection.open-ok"):
    reserved_1: ShortStr = ""


class ConnectionClose(Method, id=(10, 50), name="connection.close"):
    reply_code: Short = 0
    reply_text: ShortStr = ""
    class_id: Short = 0
    method_id: Short = 0


class ConnectionCloseOk(Method, id=(10, 51), name="connection.close-ok"):
    pass


class ConnectionBlocked(Method, id=(10, 60), name="connection.blocked"):
    reason: ShortStr = ""


class ConnectionUnblocked(Method, id=(10, 61), name="connection.unblocked"):
    pass


class ConnectionUpdateSecret(Method, id=(10, 70), name="connection.update-secret"):
    new_secret: LongStr = b""
    reason: ShortStr = ""


class ConnectionUpdateSecretOk(Method, id=(10, 71), name="connection.update-secret-ok"):
    pass


# ---- channel ----


class ChannelOpen(Method, id=(20, 10), name="channel.open"):
    reserved_1: ShortStr = ""


class ChannelOpenOk(Method, id=(20, 11), name="channel.open-ok"):
    reserved_1: LongStr = b""


class ChannelFlow(Method, id=(20, 20), name="channel.flow"):
    active: Bit = True


class ChannelFlowOk(Method, id=(20, 21), name="channel.flow-ok"):
    active: Bit = True


class ChannelClose(Method, id=(20, 40), name="channel.close"):
    reply_code: Short = 0
    reply_text: ShortStr = ""
    class_id: Short = 0
    method_id: Short = 0


class ChannelCloseOk(Method, id=(20, 41), name="channel.close-ok"):
    pass


# ---- access (of AMQP 0-8; always granted) ----


class AccessRequest(Method, id=(30, 10), name="access.request"):
    realm: ShortStr = ""
    exclusive: Bit = False
    passive: Bit = True
    active: Bit = True
    write: Bit = True
    read: Bit = True


class AccessRequestOk(Method, id=(30, 11), name="access.request-ok"):
    ticket: Short = 1


# ---- exchange ----


class ExchangeDeclare(Method, id=(40, 10), name="exchange.declare"):
    ticket: Short = 0
    exchange: ShortStr = ""
    type: ShortStr = "direct"
    passive: Bit = False
    durable: Bit = False
    auto_delete: Bit = False
    internal: Bit = False
    nowait: Bit = False
    arguments: Table = NO_FIELDS


class ExchangeDeclareOk(Method, id=(40, 11), name="exchange.declare-ok"):
    pass


class ExchangeDelete(Method, id=(40, 20), name="exchange.delete"):
    ticket: Short = 0
    exchange: ShortStr = ""
    if_unused: Bit = False
    nowait: Bit = False


class ExchangeDeleteOk(Method, id=(40, 21), name="exchange.delete-ok"):
    pass


class ExchangeBind(Method, id=(40, 30), name="exchange.bind"):
    ticket: Short = 0
    destination: ShortStr = ""
    source: ShortStr = ""
    routing_key: ShortStr = ""
    nowait: Bit = False
    arguments: Table = NO_FIELDS


class ExchangeBindOk(Method, id=(40, 31), name="exchange.bind-ok"):
    pass


class ExchangeUnbind(Method, id=(40, 40), name="exchange.unbind"):
    ticket: Short = 0
    destination: ShortStr = ""
    source: ShortStr = ""
    routing_key: ShortStr = ""
    nowait: Bit = False
    arguments: Table = NO_FIELDS


class ExchangeUnbindOk(Method, id=(40, 51), name="exchange.unbind-ok"):
    pass


# ---- queue ----


class QueueDeclare(Method, id=(50, 10), name="queue.declare"):
    ticket: Short = 0
    queue: ShortStr = ""
    passive: Bit = False
    durable: Bit = False
    exclusive: Bit = False
    auto_delete: Bit = False
    nowait: Bit = False
    arguments: Table = NO_FIELDS


class QueueDeclareOk(Method, id=(50, 11), name="queue.declare-ok"):
    queue: ShortStr = ""
    message_count: Long = 0
    consumer_count: Long = 0


class QueueBind(Method, id=(50, 20), name="queue.bind"):
    ticket: Short = 0
    queue: ShortStr = ""
    exchange: ShortStr = ""
    routing_key: ShortStr = ""
    nowait: Bit = False
    arguments: Table = NO_FIELDS


class QueueBindOk(Method, id=(50, 21), name="queue.bind-ok"):
    pass


class QueuePurge(Method, id=(50, 30), name="queue.purge"):
    ticket: Short = 0
    queue: ShortStr = ""
    nowait: Bit = False


class QueuePurgeOk(Method, id=(50, 31), name="queue.purge-ok"):
    message_count: Long = 0


class QueueDelete(Method, id=(50, 40), name="queue.delete"):
    ticket: Short = 0
    queue: ShortStr = ""
    if_unused: Bit = False
    if_empty: Bit = False
    nowait: Bit = False


class QueueDeleteOk(Method, id=(50, 41), name="queue.delete-ok"):
    message_count: Long = 0


class QueueUnbind(Method, id=(50, 50), name="queue.unbind"):
    ticket: Short = 0
    queue: ShortStr = ""
    exchange: ShortStr = ""
    routing_key: ShortStr = ""
    arguments: Table = NO_FIELDS


class QueueUnbindOk(Method, id=(50, 51), name="queue.unbind-ok"):
    pass


# ---- basic ----


class BasicQos(Method, id=(60, 10), name="basic.qos"):
    prefetch_size: Long = 0
    prefetch_count: Short = 0
    global_: Bit = False


class BasicQosOk(Method, id=(60, 11), name="basic.qos-ok"):
    pass


class BasicConsume(Method, id=(60, 20), name="basic.consume"):
    ticket: Short = 0
    queue: ShortStr = ""
    consumer_tag: ShortStr = ""
    no_local: Bit = False
    no_ack: Bit = False
    exclusive: Bit = False
    nowait: Bit = False
    arguments: Table = NO_FIELDS


class BasicConsumeOk(Method, id=(60, 21), name="basic.consume-ok"):
    consumer_tag: ShortStr = ""


class BasicCancel(Method, id=(60, 30), name="basic.cancel"):
    consumer_tag: ShortStr = ""
    nowait: Bit = False


class BasicCancelOk(Method, id=(60, 31), name="basic.cancel-ok"):
    consumer_tag: ShortStr = ""


class BasicPublish(Method, id=(60, 40), name="basic.publish"):
    ticket: Short = 0
    exchange: ShortStr = ""
    routing_key: ShortStr = ""
    mandatory: Bit = False
    immediate: Bit = False


class BasicReturn(Method, id=(60, 50), name="basic.return"):
    reply_code: Short = 0
    reply_text: ShortStr = ""
    exchange: ShortStr = ""
    routing_key: ShortStr = ""


class BasicDeliver(Method, id=(60, 60), name="basic.deliver"):
    consumer_tag: ShortStr = ""
    delivery_tag: LongLong = 0
    redelivered: Bit = False
    exchange: ShortStr = ""
    routing_key: ShortStr = ""


class BasicGet(Method, id=(60, 70), name="basic.get", repeats=True):
    ticket: Short = 0
    queue: ShortStr = ""
    no_ack: Bit = False


class BasicGetOk(Method, id=(60, 71), name="basic.get-ok"):
    delivery_tag: LongLong = 0
    redelivered: Bit = False
    exchange: ShortStr = ""
    routing_key: ShortStr = ""
    message_count: Long = 0


class BasicGetEmpty(Method, id=(60, 72), name="basic.get-empty"):
    reserved_1: ShortStr = ""


class BasicAck(Method, id=(60, 80), name="basic.ack"):
    delivery_tag: LongLong = 0
    multiple: Bit = False


class BasicReject(Method, id=(60, 90), name="basic.reject"):
    delivery_tag: LongLong = 0
    requeue: Bit = True


class BasicRecoverAsync(Method, id=(60, 100), name="basic.recover-async"):
    requeue: Bit = False


class BasicRecover(Method, id=(60, 110), name="basic.recover"):
    requeue: Bit = False


class BasicRecoverOk(Method, id=(60, 111), name="basic.recover-ok"):
    pass


class BasicNack(Method, id=(60, 120), name="basic.nack"):
    delivery_tag: LongLong = 0
    multiple: Bit = False
    requeue: Bit = True


# ---- confirm, tx ----


class ConfirmSelect(Method, id=(85, 10), name="confirm.select"):
    nowait: Bit = False


class ConfirmSelectOk(Method, id=(85, 11), name="confirm.select-ok"):
    pass


class TxSelect(Method, id=(90, 10), name="tx.select"):
    pass


class TxSelectOk(Method, id=(90, 11), name="tx.select-ok"):
    pass


class TxCommit(Method, id=(90, 20), name="tx.commit", repeats=True):
    pass


class TxCommitOk(Method, id=(90, 21), name="tx.commit-ok"):
    pass


class TxRollback(Method, id=(90, 30), name="tx.rollback", repeats=True):
    pass


class TxRollbackOk(Method, id=(90, 31), name="tx.rollback-ok"):
    pass


# Methods that a content follows.
WITH_CONTENT: frozenset[tuple[int, int]] = frozenset(
    {BasicPublish.id, BasicReturn.id, BasicDeliver.id, BasicGetOk.id}
)
