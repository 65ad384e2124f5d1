"""A channel: publish, consume, get; and through `Topology` declare, bind and delete.

Flow:   methods go into the connection's outbox as frames; the connection gives what came for this
        channel to `_handle`, which wakes whoever waits for it and never waits itself.
Shape:  new -> open -> close sent -> gone
               open -> close came: answered at once, gone
Limits: `UNCONFIRMED_MAX` unconfirmed messages, and the outbox's limit; then publishers wait, as they do
        while the broker has blocked the connection or stopped the channel's flow.
Spec:   AMQP 0-9-1 with RabbitMQ's confirms, basic.nack, exchange bindings and consumer cancel notify.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack

from broker.amqp import methods
from broker.amqp.errors import ProtocolError, RemoteProtocolError
from broker.amqp.frames import AckRun, ContentReceived, Deliveries, DeliveryEnvelope, Event, MethodReceived
from broker.amqp.methods import Method
from broker.amqp.properties import Properties
from broker.amqp.spec import ReplyCode
from leveret import properties as property_octets
from leveret.calls import CLOSE_S, Call, Calls
from leveret.confirms import Batch, Confirms, OnReturn, Reason
from leveret.consumer import Consumer
from leveret.errors import ChannelClosed, InvalidValue, NotAllConfirmed
from leveret.message import Message, ReturnedMessage
from leveret.properties import PropertyFields
from leveret.publishing import Publishing
from leveret.topology import Topology
from leveret.traffic import Traffic

M = TypeVar("M", bound=Method)

_PREFETCH_MAX: Final = 65_535


class Channel(Topology):
    """Made by `Connection.channel`, and open inside `async with`.

    Any number of tasks may use it at the same time. When it ends, consumers end with it, and messages
    that are not settled go back into their queues.
    """

    def __init__(self, traffic: Traffic, on_return: OnReturn | None) -> None:
        self.number = 0
        """Which one it is, of its connection; 0 before it is open."""
        self._traffic = traffic
        self._reason: Reason | None = partial(ChannelClosed, None, "the channel is not open yet")
        self._calls = Calls()
        self._confirms = Confirms(on_return)
        self._confirming = False
        self._flows = True
        self._publishing: Publishing | None = None
        self._published_like: tuple[str, str, bool, bytes] | None = None
        self._consumers: dict[str, Consumer] = {}
        self._unsettled: dict[int, None] = {}
        self._next_consumer = 1
        self._closing: Call | None = None

    async def __aenter__(self) -> Self:
        """Raises TooManyChannels, ConnectionClosed."""
        if self.number:
            raise RuntimeError("a channel is opened once")
        self.number = self._traffic.add(self)
        self._reason = None
        try:
            await self._call(methods.ChannelOpen(), methods.ChannelOpenOk)
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()
        if self._closing is not None:
            await self._closing.settled(CLOSE_S)

    # ---- publishing ----

    async def publish(
        self,
        body: bytes,
        *,
        exchange: str = "",
        routing_key: str = "",
        mandatory: bool = False,
        persistent: bool = False,
        properties: Properties | None = None,
        **fields: Unpack[PropertyFields],
    ) -> None:
        """Returns when the broker has confirmed the message: it is safe as far as its queues are durable.

        `persistent` asks for it to survive the broker's restart; `fields` are single properties, and
        come before those of `properties`. It waits while the broker takes no messages. If it is
        cancelled, the message may have been published or not.

        Raises Unroutable if it is `mandatory` and no queue received it, PublishRefused if the broker did
        not take it, InvalidValue, ChannelClosed, ConnectionClosed.
        """
        octets = property_octets.encode(properties, persistent, fields)
        publishing = self._publishing_of(exchange, routing_key, mandatory, octets)
        batch = Batch(exchange, routing_key, mandatory)
        while self._must_wait():
            await self._traffic.changed()
        self._publish(publishing, batch, 0, body)
        try:
            await batch.wait(0)
        except BaseException:
            batch.abandoned = True
            raise
        if batch.failures:
            raise batch.failures[0]

    async def publish_many(
        self,
        bodies: Iterable[bytes] | AsyncIterable[bytes],
        *,
        window: int = 500,
        exchange: str = "",
        routing_key: str = "",
        mandatory: bool = False,
        persistent: bool = False,
        properties: Properties | None = None,
        **fields: Unpack[PropertyFields],
    ) -> int:
        """Publish a message for each body, with at most `window` of them unconfirmed.

        Returns their number when all are confirmed. After the first that fails no more are taken, and
        NotAllConfirmed says which ones failed. The rest is as with `publish`.
        """
        if window < 1:
            raise InvalidValue(f"the window must be at least 1, not {window}")
        octets = property_octets.encode(properties, persistent, fields)
        publishing = self._publishing_of(exchange, routing_key, mandatory, octets)
        batch = Batch(exchange, routing_key, mandatory)
        index = 0
        try:
            if isinstance(bodies, AsyncIterable):
                async for body in bodies:
                    if batch.outstanding >= window or self._must_wait():
                        await self._wait_for_window(batch, window)
                    if batch.failures:
                        break
                    self._publish(publishing, batch, index, body)
                    index += 1
            else:
                for body in bodies:
                    if batch.outstanding >= window or self._must_wait():
                        await self._wait_for_window(batch, window)
                    if batch.failures:
                        break
                    self._publish(publishing, batch, index, body)
                    index += 1
            await batch.wait(0)
        except BaseException:
            batch.abandoned = True
            raise
        if batch.failures:
            raise NotAllConfirmed(index, batch.failures)
        return index

    def _publishing_of(self, exchange: str, routing_key: str, mandatory: bool, octets: bytes) -> Publishing:
        self._check()
        like = (exchange, routing_key, mandatory, octets)
        publishing = self._publishing
        if publishing is None or like != self._published_like:
            publishing = Publishing(self.number, self._traffic.frame_max, *like)
            self._publishing, self._published_like = publishing, like
        return publishing

    def _must_wait(self) -> bool:
        """Raises ChannelClosed, ConnectionClosed."""
        if self._reason is not None:
            raise self._reason()
        return self._traffic.holds_publishers or self._confirms.full or not self._flows

    async def _wait_for_window(self, batch: Batch, window: int) -> None:
        """Wake when half of the window is free, and not for every confirm."""
        await batch.wait(window // 2)
        while self._must_wait():
            await self._traffic.changed()

    def _publish(self, publishing: Publishing, batch: Batch, index: int, body: bytes) -> None:
        octets = publishing.frames(body)
        if not self._confirming:
            self._confirming = True
            self._send(methods.ConfirmSelect(nowait=True))
        self._confirms.add(batch, index, body)
        self._traffic.send(octets)

    # ---- consuming ----

    def consume(
        self,
        queue: str,
        *,
        prefetch: int = 100,
        no_ack: bool = False,
        exclusive: bool = False,
        consumer_tag: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> Consumer:
        """The messages of a queue, to be iterated: see `Consumer`.

        `prefetch` is how many of them may be here and not settled. With `no_ack` the broker forgets each
        as it sends it, and `prefetch` is how many may be here before no more are read.
        """
        if not 1 <= prefetch <= _PREFETCH_MAX:
            raise InvalidValue(f"the prefetch must be from 1 to {_PREFETCH_MAX}, not {prefetch}")
        if not consumer_tag:
            consumer_tag = f"leveret-{self.number}-{self._next_consumer}"
            self._next_consumer += 1
        return Consumer(
            self,
            queue,
            consumer_tag,
            prefetch=prefetch,
            no_ack=no_ack,
            exclusive=exclusive,
            arguments=arguments or {},
        )

    async def get(self, queue: str, *, no_ack: bool = False) -> Message | None:
        """One message, or None if the queue is empty. A consumer is the better way to get many."""
        call = Call(
            methods.BasicGetOk,
            methods.BasicGetEmpty,
            answered=None if no_ack else self._got,
            unwanted=None if no_ack else self._give_back,
        )
        reply = await self._ask(methods.BasicGet(queue=queue, no_ack=no_ack), call).wait()
        if not isinstance(reply, methods.BasicGetOk):
            return None
        envelope = DeliveryEnvelope("", reply.redelivered, reply.exchange, reply.routing_key)
        return Message(self, envelope, reply.delivery_tag, call.content, no_ack, reply.message_count)

    def _got(self, reply: Method) -> None:
        if isinstance(reply, methods.BasicGetOk):
            self._unsettled[reply.delivery_tag] = None

    def _give_back(self, reply: Method) -> None:
        """Whoever asked for this message has gone."""
        if isinstance(reply, methods.BasicGetOk):
            self._requeue([reply.delivery_tag])

    # ---- for consumers and messages ----

    def _consume(self, consumer: Consumer) -> Call:
        """Raises InvalidValue, ChannelClosed, ConnectionClosed."""
        self._check()
        if consumer.tag in self._consumers:
            raise InvalidValue(f"the channel has a consumer with the tag {consumer.tag!r} already")
        method = methods.BasicConsume(
            queue=consumer.queue,
            consumer_tag=consumer.tag,
            no_ack=consumer.no_ack,
            exclusive=consumer.exclusive,
            arguments=consumer.arguments,
        )
        self._encode(method)
        if not consumer.no_ack:
            qos = methods.BasicQos(prefetch_count=consumer.prefetch)
            self._ask(qos, Call(methods.BasicQosOk))
        self._consumers[consumer.tag] = consumer
        call = Call(methods.BasicConsumeOk, answered=lambda _: self._agreed(consumer))
        return self._ask(method, call, consumer.tag)

    def _agreed(self, consumer: Consumer) -> None:
        consumer._agreed = True
        if consumer._cancelling is not None:
            self._ask_to_cancel(consumer, consumer._cancelling)

    def _cancel(self, consumer: Consumer) -> Call | None:
        """Its deliveries come until the broker has answered; None if it is not there any more."""
        if self._reason is not None or consumer.tag not in self._consumers:
            return None
        call = Call(methods.BasicCancelOk, answered=lambda _: self._consumers.pop(consumer.tag, None))
        # A channel of RabbitMQ crashes on the cancel of a consumer that its queue has not agreed to.
        if consumer._agreed:
            self._ask_to_cancel(consumer, call)
        return call

    def _ask_to_cancel(self, consumer: Consumer, call: Call) -> None:
        self._ask(methods.BasicCancel(consumer_tag=consumer.tag), call, consumer.tag)

    def _acknowledge(self, tag: int) -> None:
        self._check()
        self._traffic.acknowledge(self.number, tag, self._unsettled)

    def _refuse(self, tag: int, requeue: bool) -> None:
        self._check()
        # Acknowledgements that wait in the outbox go first, and must not go for this one, too.
        self._send(methods.BasicNack(delivery_tag=tag, requeue=requeue))
        del self._unsettled[tag]

    def _requeue(self, tags: Iterable[int]) -> None:
        """Give back what nobody has seen; on a closed channel the broker has done so."""
        if self._reason is None:
            for tag in tags:
                self._refuse(tag, True)

    def _is_overfull(self, consumer: Consumer) -> None:
        self._traffic.is_overfull(consumer)

    def _has_room(self, consumer: Consumer) -> None:
        self._traffic.has_room(consumer)

    # ---- questions and answers ----

    async def _call(self, method: Method, kind: type[M]) -> M:
        reply = await self._ask(method, Call(kind)).wait()
        assert isinstance(reply, kind)
        return reply

    def _ask(self, method: Method, call: Call, consumer_tag: str | None = None) -> Call:
        """Send a method; `consumer_tag` says whose it is. Raises InvalidValue, ChannelClosed, ConnectionClosed."""
        self._check()
        octets = self._encode(method)
        self._calls.add(call, consumer_tag)
        self._traffic.send(octets)
        return call

    def _send(self, method: Method) -> None:
        self._traffic.send(self._encode(method))

    def _encode(self, method: Method) -> bytes:
        try:
            octets = methods.encode(self.number, method)
        except ProtocolError as error:
            raise InvalidValue(f"{method.name}: {error.text}") from None
        except struct.error as error:
            raise InvalidValue(f"{method.name}: {error}") from None
        if len(octets) > self._traffic.frame_max:
            raise InvalidValue(
                f"{method.name} has {len(octets)} octets, a frame at most {self._traffic.frame_max}"
            )
        return octets

    def _check(self) -> None:
        if self._reason is not None:
            raise self._reason()

    # ---- coming in ----

    def _is_awaited(self) -> bool:
        """Somebody waits for an answer or a confirm."""
        return bool(self._calls or self._confirms or self._closing)

    def _handle(self, event: Event) -> None:
        """Raises RemoteProtocolError when the broker broke a rule."""
        if self._closing is not None:
            self._handle_closing(event)
        elif isinstance(event, Deliveries):
            self._deliver(event.envelope, event.first, event.contents)
        elif isinstance(event, AckRun):
            self._confirms.acknowledged(event.first, event.last, event.multiple)
            self._traffic.note_change()
        elif isinstance(event, MethodReceived):
            handler = _HANDLERS.get(type(event.method))
            if handler is not None:
                handler(self, event.method)
            else:
                self._calls.answer(event.method)
        elif isinstance(event, ContentReceived):
            self._handle_content(event.method, event.content)
        else:
            raise RemoteProtocolError(ReplyCode.RESOURCE_ERROR, f"too much for us: {event}")

    def _handle_closing(self, event: Event) -> None:
        """Nothing counts any more but the end."""
        method = event.method if isinstance(event, MethodReceived) else None
        if isinstance(method, methods.ChannelClose):
            self._send(methods.ChannelCloseOk())
        elif isinstance(method, methods.ChannelCloseOk):
            assert self._closing is not None
            self._traffic.remove(self.number)
            self._closing.answer(method)

    def _handle_content(self, method: Method, closed: bytes) -> None:
        if isinstance(method, methods.BasicDeliver):
            envelope = DeliveryEnvelope(
                method.consumer_tag, method.redelivered, method.exchange, method.routing_key
            )
            self._deliver(envelope, method.delivery_tag, [closed])
        elif isinstance(method, methods.BasicReturn):
            self._confirms.returned(
                ReturnedMessage(
                    method.reply_code, method.reply_text, method.exchange, method.routing_key, closed
                )
            )
        else:
            self._calls.answer(method, closed)

    def _deliver(self, envelope: DeliveryEnvelope, first: int, contents: list[bytes]) -> None:
        consumer = self._consumers.get(envelope.consumer_tag)
        if consumer is None:
            text = f"a delivery to the consumer {envelope.consumer_tag!r}, which is not there"
            raise RemoteProtocolError(ReplyCode.CHANNEL_ERROR, text)
        if not consumer.no_ack:
            self._unsettled.update(dict.fromkeys(range(first, first + len(contents))))
        consumer._deliver(envelope, first, contents)

    def _nacked(self, method: methods.BasicNack) -> None:
        self._confirms.refused(method.delivery_tag, method.multiple)
        self._traffic.note_change()

    def _consumer_cancelled(self, method: methods.BasicCancel) -> None:
        consumer = self._consumers.pop(method.consumer_tag, None)
        if consumer is not None:
            consumer._cancelled_by_broker()
        if not method.nowait:
            self._send(methods.BasicCancelOk(consumer_tag=method.consumer_tag))

    def _flow(self, method: methods.ChannelFlow) -> None:
        self._flows = method.active
        self._send(methods.ChannelFlowOk(active=method.active))
        self._traffic.note_change()

    def _closed_by_broker(self, method: methods.ChannelClose) -> None:
        self._send(methods.ChannelCloseOk())
        self._traffic.remove(self.number)
        self._fail(partial(ChannelClosed, method.reply_code, method.reply_text))

    # ---- ending ----

    def _close(self) -> None:
        """Everything here ends at once; the broker hears of it, unless it is closed already."""
        if self._reason is not None:
            return
        self._fail(partial(ChannelClosed, None, "the channel was closed by this side"))
        self._send(methods.ChannelClose(ReplyCode.SUCCESS, "goodbye"))
        self._closing = Call(methods.ChannelCloseOk)

    def _fail(self, reason: Reason) -> None:
        """Whoever waits hears the reason."""
        if self._closing is not None:
            self._closing.fail(reason)
        if self._reason is not None:
            return
        self._reason = reason
        self._calls.fail(reason)
        self._confirms.fail(reason)
        for consumer in list(self._consumers.values()):
            consumer._fail(reason)
        self._consumers.clear()
        self._unsettled.clear()
        self._traffic.note_change()


_HANDLERS: Final[dict[type[Method], Callable[[Channel, Any], None]]] = {
    methods.BasicNack: Channel._nacked,
    methods.BasicCancel: Channel._consumer_cancelled,
    methods.ChannelFlow: Channel._flow,
    methods.ChannelClose: Channel._closed_by_broker,
}
