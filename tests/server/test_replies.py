"""What a client is told when it asks for what cannot be: the code, the exact text, the method at fault, what is closed.

RabbitMQ's client libraries and their test suites compare these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest

from amqp_client import Channel, Client
from broker.amqp import content, methods, properties
from broker.amqp.methods import Method
from broker.amqp.properties import Properties

CHANNEL, CONNECTION = "channel", "connection"


@dataclass(frozen=True)
class Publish:
    """A basic.publish with its content."""

    to: str = ""
    exchange: str = ""
    body: bytes = b""
    immediate: bool = False
    properties: Properties = Properties()  # noqa: RUF009

    def frames(self, channel: int) -> bytes:
        method = methods.BasicPublish(0, self.exchange, self.to, False, self.immediate)
        raw = properties.encode(self.properties)
        return methods.encode(channel, method) + content.build(channel, raw, self.body, 131_072)


Said: TypeAlias = Method | Publish | bytes


@dataclass(frozen=True)
class Case:
    """What is sent on channel 1, all of it at once; the last of it is at fault."""

    name: str
    said: tuple[Said, ...]
    code: int
    text: str
    at: type[Method] | tuple[int, int]
    closes: str = CHANNEL

    @property
    def ids(self) -> tuple[int, int]:
        return self.at if isinstance(self.at, tuple) else self.at.id


def queue(name: str, **options: Any) -> methods.QueueDeclare:
    return methods.QueueDeclare(queue=name, **options)


def exchange(name: str, type: str = "direct", **options: Any) -> methods.ExchangeDeclare:
    return methods.ExchangeDeclare(exchange=name, type=type, **options)


def bind(queue: str, exchange: str, key: str = "", **arguments: Any) -> methods.QueueBind:
    arguments = {name.replace("_", "-"): value for name, value in arguments.items()}
    return methods.QueueBind(queue=queue, exchange=exchange, routing_key=key, arguments=arguments)


def unbind(queue: str, exchange: str, key: str = "") -> methods.QueueUnbind:
    return methods.QueueUnbind(queue=queue, exchange=exchange, routing_key=key)


def bind_exchange(destination: str, source: str) -> methods.ExchangeBind:
    return methods.ExchangeBind(destination=destination, source=source)


def consume(queue: str, tag: str = "", **options: Any) -> methods.BasicConsume:
    return methods.BasicConsume(queue=queue, consumer_tag=tag, **options)


DECLARE, BIND, UNBIND = methods.QueueDeclare, methods.QueueBind, methods.QueueUnbind
CONSUME, GET, PUBLISH = methods.BasicConsume, methods.BasicGet, methods.BasicPublish
EXCHANGE, DELETE = methods.ExchangeDeclare, methods.QueueDelete

NO_QUEUE = "NOT_FOUND - no queue 'nope' in vhost '/'"
NO_EXCHANGE = "NOT_FOUND - no exchange 'nope' in vhost '/'"
NO_LAST = "NOT_FOUND - no previously declared queue"
DEFAULT = "ACCESS_REFUSED - operation not permitted on the default exchange"
IN_EXCLUSIVE_USE = "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use"
VOLATILE = "ACCESS_REFUSED - cannot bind or unbind to a volatile (direct reply-to) queue"
LOCKED = (
    "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'. It could be originally "
    "declared on another connection or the exclusive property value does not match that of the original "
    "declaration."
)
REPLY_TO = "amq.rabbitmq.reply-to"
# What a codec of ours would not write.
HEADER = methods.encode(1, methods.BasicPublish()) + content.build(1, b"\0\0", b"x", 0)
HEADER_ONLY = HEADER[len(methods.encode(1, methods.BasicPublish())) :]


def different(key: str, received: str, current: str, what: str = "queue 'q'") -> str:
    return (
        f"PRECONDITION_FAILED - inequivalent arg '{key}' for {what} in vhost '/': "
        f"received {received} but current is {current}"
    )


def invalid(key: str, reason: str) -> str:
    return f"PRECONDITION_FAILED - invalid arg '{key}' for queue 'q' in vhost '/': {reason}"


def argument(key: str, value: Any, reason: str) -> Case:
    text = invalid(key, reason)
    return Case(f"argument {key} {value}", (queue("q", arguments={key: value}),), 406, text, DECLARE)


NOT_FOUND = [
    Case("passive declare of no queue", (queue("nope", passive=True),), 404, NO_QUEUE, DECLARE),
    Case("consume from no queue", (consume("nope"),), 404, NO_QUEUE, CONSUME),
    Case("get from no queue", (methods.BasicGet(queue="nope"),), 404, NO_QUEUE, GET),
    Case("purge no queue", (methods.QueuePurge(queue="nope"),), 404, NO_QUEUE, methods.QueuePurge),
    Case("bind no queue", (bind("nope", "amq.direct"),), 404, NO_QUEUE, BIND),
    Case("bind to no exchange", (queue("q"), bind("q", "nope")), 404, NO_EXCHANGE, BIND),
    Case("bind no queue to no exchange", (bind("nope", "nope"),), 404, NO_EXCHANGE, BIND),
    Case("bind no exchange", (bind_exchange("nope", "amq.direct"),), 404, NO_EXCHANGE, methods.ExchangeBind),
    Case("bind to no source", (bind_exchange("amq.direct", "nope"),), 404, NO_EXCHANGE, methods.ExchangeBind),
    Case("passive declare of no exchange", (exchange("nope", passive=True),), 404, NO_EXCHANGE, EXCHANGE),
    Case("publish to no exchange", (Publish("k", "nope"),), 404, NO_EXCHANGE, PUBLISH),
    Case("consume from no last queue", (consume(""),), 404, NO_LAST, CONSUME),
    Case("get from no last queue", (methods.BasicGet(queue=""),), 404, NO_LAST, GET),
    Case("purge no last queue", (methods.QueuePurge(queue=""),), 404, NO_LAST, methods.QueuePurge),
    Case("delete no last queue", (methods.QueueDelete(queue=""),), 404, NO_LAST, DELETE),
    Case("bind no last queue", (bind("", "amq.direct", "k"),), 404, NO_LAST, BIND),
    Case("unbind no last queue", (unbind("", "amq.direct", "k"),), 404, NO_LAST, UNBIND),
    Case(
        "passive declare without a name",
        (queue("", passive=True),),
        404,
        "NOT_FOUND - no queue '' in vhost '/'",
        DECLARE,
    ),
    Case(
        "address of a requester that is gone",
        (queue(f"{REPLY_TO}.gone", passive=True),),
        404,
        f"NOT_FOUND - no queue '{REPLY_TO}.gone' in vhost '/'",
        DECLARE,
    ),
]

REFUSED = [
    Case("declare the default exchange", (exchange(""),), 403, DEFAULT, EXCHANGE),
    Case("passively declare the default exchange", (exchange("", passive=True),), 403, DEFAULT, EXCHANGE),
    Case(
        "delete the default exchange",
        (methods.ExchangeDelete(exchange=""),),
        403,
        DEFAULT,
        methods.ExchangeDelete,
    ),
    Case("bind to the default exchange", (queue("q"), bind("q", "", "k")), 403, DEFAULT, BIND),
    Case("bind no queue to the default exchange", (bind("nope", "", "k"),), 403, DEFAULT, BIND),
    Case("unbind from the default exchange", (queue("q"), unbind("q", "", "k")), 403, DEFAULT, UNBIND),
    Case("bind the default exchange", (bind_exchange("", "amq.direct"),), 403, DEFAULT, methods.ExchangeBind),
    Case("bind it as source", (bind_exchange("amq.direct", ""),), 403, DEFAULT, methods.ExchangeBind),
    Case(
        "delete a system exchange",
        (methods.ExchangeDelete(exchange="amq.direct"),),
        403,
        "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed",
        methods.ExchangeDelete,
    ),
    Case(
        "delete a system exchange that is not there",
        (methods.ExchangeDelete(exchange="amq.nope"),),
        403,
        "ACCESS_REFUSED - deletion of system exchange 'amq.nope' in vhost '/' not allowed",
        methods.ExchangeDelete,
    ),
    Case(
        "a queue with a reserved name",
        (queue("amq.mine"),),
        403,
        "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'",
        DECLARE,
    ),
    Case(
        "an exchange with a reserved name",
        (exchange("amq.mine"),),
        403,
        "ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'",
        EXCHANGE,
    ),
    Case(
        "publish to an internal exchange",
        (exchange("inner", internal=True), Publish("k", "inner")),
        403,
        "ACCESS_REFUSED - cannot publish to internal exchange 'inner' in vhost '/'",
        PUBLISH,
    ),
    Case(
        "consume exclusively what somebody consumes",
        (queue("q"), consume("q"), consume("q", exclusive=True)),
        403,
        IN_EXCLUSIVE_USE,
        CONSUME,
    ),
    Case(
        "consume what somebody consumes exclusively",
        (queue("q"), consume("q", exclusive=True), consume("q")),
        403,
        IN_EXCLUSIVE_USE,
        CONSUME,
    ),
    Case("bind the direct reply queue", (bind(REPLY_TO, "amq.direct", "k"),), 403, VOLATILE, BIND),
    Case("unbind the direct reply queue", (unbind(REPLY_TO, "amq.direct", "k"),), 403, VOLATILE, UNBIND),
]

DIFFERENT = [
    Case(
        "durable",
        (queue("q"), queue("q", durable=True)),
        406,
        different("durable", "'true'", "'false'"),
        DECLARE,
    ),
    Case(
        "auto_delete",
        (queue("q", auto_delete=True), queue("q")),
        406,
        different("auto_delete", "'false'", "'true'"),
        DECLARE,
    ),
    Case(
        "an argument that was not there",
        (queue("q"), queue("q", arguments={"x-message-ttl": 10})),
        406,
        different("x-message-ttl", "the value '10' of type 'signedint'", "none"),
        DECLARE,
    ),
    Case(
        "an argument that is missing now",
        (queue("q", arguments={"x-message-ttl": 10}), queue("q")),
        406,
        different("x-message-ttl", "none", "the value '10' of type 'signedint'"),
        DECLARE,
    ),
    Case(
        "an argument with another value",
        (queue("q", arguments={"x-expires": 10_000}), queue("q", arguments={"x-expires": 20_000})),
        406,
        different("x-expires", "'20000'", "'10000'"),
        DECLARE,
    ),
    Case(
        "a text with another value",
        (
            queue("q", arguments={"x-overflow": "drop-head"}),
            queue("q", arguments={"x-overflow": "reject-publish"}),
        ),
        406,
        different("x-overflow", "'reject-publish'", "'drop-head'"),
        DECLARE,
    ),
    Case("exclusive", (queue("q"), queue("q", exclusive=True)), 405, LOCKED, DECLARE),
    Case("not exclusive", (queue("q", exclusive=True), queue("q")), 405, LOCKED, DECLARE),
    Case(
        "exchange type",
        (exchange("x"), exchange("x", "fanout")),
        406,
        different("type", "'fanout'", "'direct'", "exchange 'x'"),
        EXCHANGE,
    ),
    Case(
        "exchange durable",
        (exchange("x"), exchange("x", durable=True)),
        406,
        different("durable", "'true'", "'false'", "exchange 'x'"),
        EXCHANGE,
    ),
    Case(
        "exchange auto_delete",
        (exchange("x"), exchange("x", auto_delete=True)),
        406,
        different("auto_delete", "'true'", "'false'", "exchange 'x'"),
        EXCHANGE,
    ),
    Case(
        "exchange internal",
        (exchange("x"), exchange("x", internal=True)),
        406,
        different("internal", "'true'", "'false'", "exchange 'x'"),
        EXCHANGE,
    ),
    Case(
        "alternate exchange",
        (exchange("x"), exchange("x", arguments={"alternate-exchange": "other"})),
        406,
        different("alternate-exchange", "the value 'other' of type 'longstr'", "none", "exchange 'x'"),
        EXCHANGE,
    ),
    Case(
        "a system exchange",
        (exchange("amq.direct", "fanout", durable=True),),
        406,
        different("type", "'fanout'", "'direct'", "exchange 'amq.direct'"),
        EXCHANGE,
    ),
]

ARGUMENTS = [
    argument("x-expires", 0, "{value_zero,0}"),
    argument("x-expires", -1, "{value_negative,-1}"),
    argument("x-expires", "10", '"expected integer, got longstr"'),
    argument("x-message-ttl", -1, "{value_negative,-1}"),
    argument("x-message-ttl", 315_360_000_001, "{value_too_large,315360000001}"),
    argument("x-message-ttl", "soon", '"expected integer, got longstr"'),
    argument("x-max-length", -1, "{value_negative,-1}"),
    argument("x-max-length", "many", '"expected integer, got longstr"'),
    argument("x-max-length", True, '"expected integer, got bool"'),
    argument("x-max-length-bytes", -5, "{value_negative,-5}"),
    argument("x-max-length-bytes", 1.5, '"expected integer, got double"'),
    argument("x-overflow", "explode", "invalid_overflow"),
    argument("x-overflow", 1, "{unacceptable_type,signedint}"),
    argument("x-dead-letter-routing-key", "k", "routing_key_but_no_dlx_defined"),
    Case(
        "a dead letter exchange that is no text",
        (queue("q", arguments={"x-dead-letter-exchange": 1}),),
        406,
        "PRECONDITION_FAILED - invalid type 'signedint' for arg 'x-dead-letter-exchange' in queue 'q' in vhost '/'",
        DECLARE,
    ),
    Case(
        "an alternate exchange that is no text",
        (exchange("x", arguments={"alternate-exchange": 1}),),
        406,
        "PRECONDITION_FAILED - invalid type 'signedint' for arg 'alternate-exchange' in exchange 'x' in vhost '/'",
        EXCHANGE,
    ),
    Case(
        "a queue type that nobody has",
        (queue("q", arguments={"x-queue-type": "round"}),),
        406,
        invalid("x-queue-type", "\"unsupported queue type 'round'\""),
        DECLARE,
    ),
    Case(
        "an exchange type that nobody has",
        (exchange("x", "round"),),
        406,
        "PRECONDITION_FAILED - unknown exchange type 'round'",
        EXCHANGE,
    ),
    Case(
        "a headers binding that matches nothing known",
        (queue("q"), bind("q", "amq.headers", x_match="some")),
        406,
        'PRECONDITION_FAILED - Invalid x-match field value <<"some">>; '
        "expected all, any, all-with-x, or any-with-x",
        BIND,
    ),
    Case(
        "a headers binding with a number for x-match",
        (queue("q"), bind("q", "amq.headers", x_match=1)),
        406,
        "PRECONDITION_FAILED - Invalid x-match field type signedint (value 1); expected longstr",
        BIND,
    ),
    Case(
        "a consumer's priority that is no number",
        (queue("q"), consume("q", arguments={"x-priority": "high"})),
        406,
        invalid("x-priority", '"expected integer, got longstr"'),
        CONSUME,
    ),
]

UNKNOWN_TAG = "PRECONDITION_FAILED - unknown delivery tag "
IN_USE = [
    Case("ack", (methods.BasicAck(1, False),), 406, UNKNOWN_TAG + "1", methods.BasicAck),
    Case("ack of 0", (methods.BasicAck(0, False),), 406, UNKNOWN_TAG + "0", methods.BasicAck),
    Case("ack up to", (methods.BasicAck(7, True),), 406, UNKNOWN_TAG + "7", methods.BasicAck),
    Case("nack", (methods.BasicNack(2, False, True),), 406, UNKNOWN_TAG + "2", methods.BasicNack),
    Case("nack up to", (methods.BasicNack(2, True, True),), 406, UNKNOWN_TAG + "2", methods.BasicNack),
    Case("reject", (methods.BasicReject(3, True),), 406, UNKNOWN_TAG + "3", methods.BasicReject),
    Case("reject of 0", (methods.BasicReject(0, True),), 406, UNKNOWN_TAG + "0", methods.BasicReject),
    Case(
        "ack twice",
        (
            queue("q"),
            Publish("q"),
            methods.BasicGet(queue="q"),
            methods.BasicAck(1, False),
            methods.BasicAck(1, False),
        ),
        406,
        UNKNOWN_TAG + "1",
        methods.BasicAck,
    ),
    Case(
        "ack of what was not to be acknowledged",
        (queue("q"), Publish("q"), methods.BasicGet(queue="q", no_ack=True), methods.BasicAck(1, False)),
        406,
        UNKNOWN_TAG + "1",
        methods.BasicAck,
    ),
    Case(
        "delete a queue in use",
        (queue("q"), consume("q"), methods.QueueDelete(queue="q", if_unused=True)),
        406,
        "PRECONDITION_FAILED - queue 'q' in vhost '/' in use",
        DELETE,
    ),
    Case(
        "delete a queue that is not empty",
        (queue("q"), Publish("q"), methods.QueueDelete(queue="q", if_empty=True)),
        406,
        "PRECONDITION_FAILED - queue 'q' in vhost '/' not empty",
        DELETE,
    ),
    Case(
        "delete an exchange in use",
        (
            exchange("x"),
            queue("q"),
            bind("q", "x"),
            methods.ExchangeDelete(exchange="x", if_unused=True),
        ),
        406,
        "PRECONDITION_FAILED - exchange 'x' in vhost '/' in use",
        methods.ExchangeDelete,
    ),
]

MESSAGES = [
    Case(
        "expiration that is no number",
        (Publish(properties=Properties(expiration="soon")),),
        406,
        "PRECONDITION_FAILED - invalid expiration 'soon': no_integer",
        PUBLISH,
    ),
    Case(
        "expiration with a unit",
        (Publish(properties=Properties(expiration="10s")),),
        406,
        "PRECONDITION_FAILED - invalid expiration '10s': {leftover_string,\"s\"}",
        PUBLISH,
    ),
    Case(
        "expiration in the past",
        (Publish(properties=Properties(expiration="-1")),),
        406,
        "PRECONDITION_FAILED - invalid expiration '-1': {value_negative,-1}",
        PUBLISH,
    ),
    Case(
        "somebody else's user-id",
        (Publish(properties=Properties(user_id="eve")),),
        406,
        "PRECONDITION_FAILED - user_id property set to 'eve' but authenticated user was 'guest'",
        PUBLISH,
    ),
    Case(
        "a request without a reply consumer",
        (Publish("q", properties=Properties(reply_to=REPLY_TO)),),
        406,
        "PRECONDITION_FAILED - fast reply consumer does not exist",
        PUBLISH,
    ),
    Case(
        "a reply consumer that acknowledges",
        (consume(REPLY_TO),),
        406,
        "PRECONDITION_FAILED - reply consumer cannot acknowledge",
        CONSUME,
    ),
    Case(
        "a second reply consumer",
        (consume(REPLY_TO, no_ack=True), consume(REPLY_TO, no_ack=True)),
        406,
        "PRECONDITION_FAILED - reply consumer already set",
        CONSUME,
    ),
]

MODES = [
    Case(
        "tx after confirm",
        (methods.ConfirmSelect(), methods.TxSelect()),
        406,
        "PRECONDITION_FAILED - cannot switch from confirm to tx mode",
        methods.TxSelect,
    ),
    Case(
        "confirm after tx",
        (methods.TxSelect(), methods.ConfirmSelect()),
        406,
        "PRECONDITION_FAILED - cannot switch from tx to confirm mode",
        methods.ConfirmSelect,
    ),
    Case(
        "commit without tx",
        (methods.TxCommit(),),
        406,
        "PRECONDITION_FAILED - channel is not transactional",
        methods.TxCommit,
    ),
    Case(
        "rollback without tx",
        (methods.TxRollback(),),
        406,
        "PRECONDITION_FAILED - channel is not transactional",
        methods.TxRollback,
    ),
]

HARD = [
    Case(
        "a consumer tag twice",
        (queue("q"), consume("q", "c"), consume("q", "c")),
        530,
        "NOT_ALLOWED - attempt to reuse consumer tag 'c'",
        CONSUME,
        CONNECTION,
    ),
    Case(
        "immediate",
        (Publish(immediate=True),),
        540,
        "NOT_IMPLEMENTED - immediate=true",
        PUBLISH,
        CONNECTION,
    ),
    Case(
        "prefetch size",
        (methods.BasicQos(10, 0, False),),
        540,
        "NOT_IMPLEMENTED - prefetch_size!=0 (10)",
        methods.BasicQos,
        CONNECTION,
    ),
    Case(
        "recover without requeue",
        (methods.BasicRecover(False),),
        540,
        "NOT_IMPLEMENTED - requeue=false",
        methods.BasicRecover,
        CONNECTION,
    ),
    Case(
        "recover-async without requeue",
        (methods.BasicRecoverAsync(False),),
        540,
        "NOT_IMPLEMENTED - requeue=false",
        methods.BasicRecoverAsync,
        CONNECTION,
    ),
    Case(
        "flow off",
        (methods.ChannelFlow(False),),
        540,
        "NOT_IMPLEMENTED - active=false",
        methods.ChannelFlow,
        CONNECTION,
    ),
    Case(
        "a channel opened twice",
        (methods.ChannelOpen(),),
        504,
        "CHANNEL_ERROR - second 'channel.open' seen",
        methods.ChannelOpen,
        CONNECTION,
    ),
    Case(
        "a method that only brokers send",
        (methods.QueueDeclareOk("q", 0, 0),),
        503,
        "COMMAND_INVALID - unimplemented method",
        methods.QueueDeclareOk,
        CONNECTION,
    ),
    Case(
        "a method of channel 0",
        (methods.ConnectionClose(200, "bye", 0, 0),),
        503,
        "COMMAND_INVALID - unimplemented method",
        methods.ConnectionClose,
        CONNECTION,
    ),
    Case(
        "a delivery from a client",
        (
            methods.encode(1, methods.BasicDeliver("c", 1, False, "", "")),
            HEADER_ONLY,
        ),
        503,
        "COMMAND_INVALID - unimplemented method",
        methods.BasicDeliver,
        CONNECTION,
    ),
    Case(
        "a method on a channel that is not open",
        (methods.encode(2, queue("q")),),
        504,
        "CHANNEL_ERROR - expected 'channel.open'",
        DECLARE,
        CONNECTION,
    ),
    Case(
        "a publish on a channel that is not open",
        (Publish("q").frames(2),),
        504,
        "CHANNEL_ERROR - expected 'channel.open'",
        PUBLISH,
        CONNECTION,
    ),
    Case(
        "channel 0 opened",
        (methods.encode(0, methods.ChannelOpen()),),
        504,
        "CHANNEL_ERROR - unexpected method in connection state running",
        methods.ChannelOpen,
        CONNECTION,
    ),
    Case(
        "a queue declared on channel 0",
        (methods.encode(0, queue("q")),),
        504,
        "CHANNEL_ERROR - unexpected method in connection state running",
        DECLARE,
        CONNECTION,
    ),
    Case(
        "start-ok again",
        (methods.encode(0, methods.ConnectionStartOk({}, "PLAIN", b"\0guest\0guest", "en_US")),),
        504,
        "CHANNEL_ERROR - unexpected method in connection state running",
        methods.ConnectionStartOk,
        CONNECTION,
    ),
    Case(
        "open again",
        (methods.encode(0, methods.ConnectionOpen("/")),),
        504,
        "CHANNEL_ERROR - unexpected method in connection state running",
        methods.ConnectionOpen,
        CONNECTION,
    ),
    Case(
        "a method that nobody knows",
        (b"\x01\0\x01\0\0\0\x04\0\x3c\x03\xe7\xce",),
        503,
        "COMMAND_INVALID - unimplemented method",
        (60, 999),
        CONNECTION,
    ),
    Case(
        "a method where a header must come",
        (methods.encode(1, methods.BasicPublish()), queue("q")),
        505,
        "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead",
        (60, 40),
        CONNECTION,
    ),
    Case(
        "a body where a header must come",
        (methods.encode(1, methods.BasicPublish()), b"\x03\0\x01\0\0\0\x01x\xce"),
        505,
        "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead",
        (60, 40),
        CONNECTION,
    ),
    Case(
        "a header without a method",
        (HEADER_ONLY,),
        505,
        "UNEXPECTED_FRAME - expected method frame, got non method frame instead",
        (0, 0),
        CONNECTION,
    ),
    Case(
        "a body without a method",
        (b"\x03\0\x01\0\0\0\x01x\xce",),
        505,
        "UNEXPECTED_FRAME - expected method frame, got non method frame instead",
        (0, 0),
        CONNECTION,
    ),
    Case(
        "a method where a body must come",
        (HEADER[: -len(b"\x03\0\x01\0\0\0\x01x\xce")], queue("q")),
        505,
        "UNEXPECTED_FRAME - expected content body, got non content body frame instead",
        (60, 40),
        CONNECTION,
    ),
    Case(
        "a header where a body must come",
        (HEADER[: -len(b"\x03\0\x01\0\0\0\x01x\xce")], HEADER_ONLY),
        505,
        "UNEXPECTED_FRAME - expected content body, got non content body frame instead",
        (60, 40),
        CONNECTION,
    ),
    Case(
        "a header of another class",
        (
            methods.encode(1, methods.BasicPublish()),
            b"\x02\0\x01\0\0\0\x0e\0\x3d\0\0\0\0\0\0\0\0\0\0\0\0\xce",
        ),
        505,
        "UNEXPECTED_FRAME - expected content header for class 60, got one for class 61 instead",
        (60, 40),
        CONNECTION,
    ),
    Case(
        "a frame of no known type",
        (b"\x09\0\x01\0\0\0\x00\xce",),
        501,
        "FRAME_ERROR - type 9, all octets = <<>>: unknown_frame",
        (0, 0),
        CONNECTION,
    ),
    Case(
        "a frame with another end",
        (b"\x01\0\x01\0\0\0\x04\0\x14\0\x0a\0",),
        501,
        "FRAME_ERROR - type 1, all octets = <<0,20,0,10>>: {invalid_frame_end_marker,0}",
        (0, 0),
        CONNECTION,
    ),
    Case(
        "a frame over the limit",
        (b"\x03\0\x01\0\x10\0\0" + bytes(32),),
        501,
        "FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,1048576,131064}",
        (0, 0),
        CONNECTION,
    ),
    Case(
        "a heartbeat on a channel",
        (b"\x08\0\x01\0\0\0\x00\xce",),
        505,
        "UNEXPECTED_FRAME - type 8, all octets = <<>>",
        (0, 0),
        CONNECTION,
    ),
    Case(
        "a name that is no UTF-8",
        (b"\x01\0\x01\0\0\0\x0d\0\x32\0\x0a\0\0\x01\xff\0\0\0\0\0\xce",),
        501,
        "FRAME_ERROR - Malformed UTF-8 in shortstr",
        (0, 0),
        CONNECTION,
    ),
]

TABLE = [*NOT_FOUND, *REFUSED, *DIFFERENT, *ARGUMENTS, *IN_USE, *MESSAGES, *MODES, *HARD]


async def outcome(client: Client, case: Case) -> tuple[str, int, str, tuple[int, int]]:
    """What is closed, with which code and text, and which method is said to be at fault."""
    channel = await client.channel(1)
    await client.write(b"".join(_octets(said) for said in case.said))
    if case.closes == CONNECTION:
        closed: Any = await client.refused()
    else:
        closed = await _channel_closed(channel)
        await client.close()
    what = CHANNEL if isinstance(closed, methods.ChannelClose) else CONNECTION
    return what, closed.reply_code, closed.reply_text, (closed.class_id, closed.method_id)


def _octets(said: Said) -> bytes:
    if isinstance(said, bytes):
        return said
    return said.frames(1) if isinstance(said, Publish) else methods.encode(1, said)


async def _channel_closed(channel: Channel) -> methods.ChannelClose:
    while not isinstance(came := await channel.next(), methods.ChannelClose):
        pass
    await channel.send(methods.ChannelCloseOk())
    return came


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.name)
async def test_reply(client, case):
    assert await outcome(client, case) == (case.closes, case.code, case.text, case.ids)
