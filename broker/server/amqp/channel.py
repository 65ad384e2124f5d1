"""One channel: what it has, and which function carries out which method.

Flow:   the connection gives events; the handlers of `topology`, `consume`, `basic` and `transaction` do
        the work; errors of the model close the channel or, with a hard code, the connection.
Shape:  open -> close came: released, close-ok sent, gone
        open -> an error: released, close sent, `closing` -> close-ok came: gone
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from broker.amqp import frames, methods
from broker.amqp.envelope import Kind
from broker.amqp.errors import ProtocolError
from broker.amqp.frames import AckRun, ContentReceived, MethodReceived, OversizedContent, Publishes
from broker.amqp.methods import Method
from broker.amqp.spec import BASIC_CLASS, ReplyCode
from broker.model.channel import Ledger, Prefetch
from broker.model.consumers import Source
from broker.model.errors import ModelError
from broker.model.queue import Queue
from broker.model.user import Permission, Right
from broker.node.flusher import Commit
from broker.node.peers import ChannelSnapshot
from broker.server.amqp.confirms import Confirms
from broker.server.amqp.delivery import AmqpConsumer
from broker.server.amqp.errors import protocol_error

if TYPE_CHECKING:
    from broker.server.amqp.connection import AmqpConnection
    from broker.server.amqp.transaction import Transaction

Handler: TypeAlias = Callable[["Channel", Any], None]
H = TypeVar("H", bound=Callable[..., None])

HANDLERS: dict[type, Handler] = {}

_GRANTED_MAX: Final = 64


def handles(event: type) -> Callable[[H], H]:
    """Make a function the one that carries out a method, or another event of a channel."""

    def note(handler: H) -> H:
        HANDLERS[event] = handler
        return handler

    return note


class Channel:
    """One open channel of a connection."""

    __slots__ = (
        "_granted",
        "_granted_by",
        "_granted_version",
        "acknowledged",
        "closing",
        "confirms",
        "connection",
        "consumer_prefetch",
        "consumers",
        "delivered",
        "delivered_no_ack",
        "got",
        "got_no_ack",
        "last_queue",
        "ledger",
        "next_tag",
        "number",
        "prefetch",
        "published",
        "redelivered",
        "reply_tag",
        "reply_token",
        "returned",
        "transaction",
    )

    def __init__(self, connection: AmqpConnection, number: int) -> None:
        self.connection = connection
        self.number = number
        self.closing = False
        self.ledger = Ledger()
        self.prefetch = Prefetch()
        """Shared by all consumers of the channel: what `basic.qos` with `global` sets."""
        self.consumer_prefetch = 0
        """For the consumers that come next: what `basic.qos` without `global` sets."""
        self.consumers: dict[str, AmqpConsumer] = {}
        self.next_tag = 1
        self.confirms: Confirms | None = None
        self.transaction: Transaction | None = None
        self.last_queue = ""
        """The queue that was declared last here, which "" names."""
        self.reply_token = ""
        """Behind `amq.rabbitmq.reply-to.` while this channel consumes direct replies."""
        self.reply_tag = ""
        self.published = self.returned = 0
        self.delivered = self.delivered_no_ack = 0
        self.got = self.got_no_ack = 0
        self.acknowledged = self.redelivered = 0
        self._granted: set[Kind] = set()
        self._granted_by: Permission | None = None
        self._granted_version = -1

    # ---- coming in ----

    def handle(self, event: frames.Event) -> None:
        """Carry out one event. Errors end this channel or the connection, and never come out."""
        subject: Any = event
        if type(event) is MethodReceived:
            subject = event.method
            self.connection.node.take_in()
        if self.closing:
            self._handle_closing(type(subject))
            return
        try:
            handler = HANDLERS.get(type(subject))
            if handler is None:
                raise ProtocolError(ReplyCode.COMMAND_INVALID, "unimplemented method")
            handler(self, subject)
        except ModelError as error:
            self.connection.fail(protocol_error(error, *ids_of(event)), self)
        except ProtocolError as error:
            error.class_id, error.method_id = ids_of(event)
            self.connection.fail(error, self)

    def _handle_closing(self, kind: type) -> None:
        if kind is methods.ChannelCloseOk:
            self.connection.forget_channel(self)
        elif kind is methods.ChannelClose:
            self.send(methods.ChannelCloseOk())

    # ---- going out ----

    def send(self, method: Method) -> None:
        self.connection.send(methods.encode(self.number, method))

    def reply(
        self,
        method: Method,
        *,
        nowait: bool = False,
        after: Commit | None = None,
        behind: Sequence[bytes] = (),
    ) -> None:
        """Answer, and send `behind`, once `after` is safe; until then this connection carries out nothing more."""
        answer = None if nowait else method
        if after is None or after.done:
            self._answer(answer, behind)
        else:
            self.connection.hold(after, lambda: self._answer(answer, behind))

    def _answer(self, method: Method | None, behind: Sequence[bytes]) -> None:
        if method is not None and not self.closing:
            self.send(method)
        for octets in behind:
            self.connection.send(octets)

    # ---- rights ----

    def check(self, right: Right, kind: str, name: str) -> None:
        """Raises AccessRefused if the user has not this right."""
        connection = self.connection
        assert connection.user is not None
        connection.user.check(right, kind, name, connection.vhost.name)

    def check_any(self, kind: str, name: str) -> None:
        """Raises AccessRefused if the user has no right on it at all."""
        permission = self.connection.permission
        if permission is None or not (
            permission.allows(Right.READ, name) or permission.allows(Right.WRITE, name)
        ):
            self.check(Right.CONFIGURE, kind, name)

    def granted(self) -> set[Kind]:
        """Kinds of messages that may be published without another look at them, for the caller to add to.

        They are forgotten when exchanges or permissions change.
        """
        connection = self.connection
        version, permission = connection.vhost.version, connection.permission
        if self._granted_version != version or self._granted_by is not permission:
            self._granted_version, self._granted_by = version, permission
            self._granted.clear()
        elif len(self._granted) > _GRANTED_MAX:
            self._granted.clear()
        return self._granted

    # ---- counting ----

    def count_delivered(self, count: int, acks: bool, redelivered: bool) -> None:
        metrics = self.connection.node.metrics
        if acks:
            self.delivered += count
            metrics.messages_delivered_consume_manual_ack += count
        else:
            self.delivered_no_ack += count
            metrics.messages_delivered_consume_auto_ack += count
        if redelivered:
            self.redelivered += count
            metrics.messages_redelivered += count

    # ---- consumers ----

    def wake_consumers(self) -> None:
        """They may have room again, whatever their queue."""
        for consumer in self.consumers.values():
            consumer.queue.consumers.wake(consumer)
            self.connection.node.mark(consumer.queue)

    def forget_consumer(self, consumer: AmqpConsumer) -> None:
        self.consumers.pop(consumer.tag, None)

    def remove_consumer(self, consumer: AmqpConsumer) -> None:
        """Take it from its queue, which may go with its last consumer."""
        self.forget_consumer(consumer)
        queue = consumer.queue
        if queue.deleted:
            return
        node = self.connection.node
        queue.remove_consumer(consumer, node.clock.now_ms())
        if isinstance(queue, Queue) and queue.auto_delete and not len(queue.consumers):
            node.topology.delete_queue(self.connection.vhost, queue)
        else:
            node.mark(queue)

    # ---- ending ----

    def release(self) -> None:
        """Give everything back: consumers leave, what they had not acknowledged is ready again."""
        self.connection.node.take_in()  # before a queue goes with its last consumer
        for consumer in list(self.consumers.values()):
            self.remove_consumer(consumer)
        if self.transaction is not None:
            self.transaction.roll_back()
        self.requeue_all()
        if self.confirms is not None:
            self.confirms.closed = True
        if self.reply_token:
            self.connection.server.reply_channels.pop(self.reply_token, None)
            self.reply_token = ""
        self.transaction = None
        self.connection.node.metrics.channels_closed += 1

    def requeue_all(self) -> None:
        node = self.connection.node
        by_queue: dict[Source, list[Any]] = {}
        for entry in self.ledger.settle_all():
            by_queue.setdefault(entry.queue, []).append(entry.piece)
            entry.make_room(self.prefetch)
        for queue, pieces in by_queue.items():
            if not queue.deleted:
                queue.requeue(pieces, node.clock.now_ms())
                node.mark(queue)
        if self.prefetch.limit:
            self.wake_consumers()

    def snapshot(self) -> ChannelSnapshot:
        transaction = self.transaction
        return ChannelSnapshot(
            self.number,
            "closing" if self.closing else "running",
            self.confirms is not None,
            transaction is not None,
            self.ledger.count,
            self.confirms.unconfirmed if self.confirms is not None else 0,
            transaction.publish_count if transaction is not None else 0,
            transaction.ack_count if transaction is not None else 0,
            self.consumer_prefetch,
            self.prefetch.limit,
            self.published,
            self.confirms.confirmed if self.confirms is not None else 0,
            self.delivered,
            self.delivered_no_ack,
            self.got,
            self.got_no_ack,
            self.acknowledged,
            self.redelivered,
            self.returned,
            [consumer.snapshot() for consumer in self.consumers.values()],
        )


def ids_of(event: frames.Event) -> tuple[int, int]:
    """Class and method id of what is carried out, for the error that may come of it."""
    if isinstance(event, MethodReceived | ContentReceived):
        return event.method.id
    if isinstance(event, Publishes | OversizedContent):
        return methods.BasicPublish.id
    if isinstance(event, AckRun):
        return methods.BasicAck.id
    return BASIC_CLASS, 0


@handles(methods.ChannelOpen)
def channel_open(channel: Channel, method: methods.ChannelOpen) -> None:
    raise ProtocolError(ReplyCode.CHANNEL_ERROR, "second 'channel.open' seen")


@handles(methods.ChannelClose)
def channel_close(channel: Channel, method: methods.ChannelClose) -> None:
    channel.release()
    channel.send(methods.ChannelCloseOk())
    channel.connection.forget_channel(channel)


@handles(methods.ChannelCloseOk)
def channel_close_ok(channel: Channel, method: methods.ChannelCloseOk) -> None:
    """Of a close that nobody sent: RabbitMQ passes over it."""


@handles(methods.ChannelFlow)
def channel_flow(channel: Channel, method: methods.ChannelFlow) -> None:
    if not method.active:
        raise ProtocolError(ReplyCode.NOT_IMPLEMENTED, "active=false")
    channel.send(methods.ChannelFlowOk(active=True))


@handles(methods.ChannelFlowOk)
def channel_flow_ok(channel: Channel, method: methods.ChannelFlowOk) -> None:
    """Of a flow that nobody sent: nothing to do."""


@handles(methods.AccessRequest)
def access_request(channel: Channel, method: methods.AccessRequest) -> None:
    channel.send(methods.AccessRequestOk(ticket=1))
