"""A raw AMQP client for tests: it sends what it is told to, right or wrong, and shows what comes back.

Flow:   `Client.connect` shakes hands; `client.channel(1)` opens a channel; `call` sends a method and gives its
        answer, `send` only sends, `next` gives what came next. `write` sends octets as they are.
Limits: every wait ends after `WAIT_S`, which the loopback never needs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import trio

from broker.amqp import content, methods, properties
from broker.amqp.connection import Connection, Event, Role
from broker.amqp.frames import AckRun, ContentReceived, Deliveries, MethodReceived, ProtocolFailed
from broker.amqp.methods import Method
from broker.amqp.properties import Properties
from broker.amqp.spec import PROTOCOL_HEADER
from patience import WAIT_S

# What RabbitMQ's own clients announce.
CAPABILITIES = {
    "publisher_confirms": True,
    "basic.nack": True,
    "consumer_cancel_notify": True,
    "connection.blocked": True,
    "authentication_failure_close": True,
}

M = TypeVar("M", bound=Method)


class Ended(Exception):
    """The broker closed the socket."""


class Refused(Exception):
    """The broker closed the channel or the connection instead of answering."""

    def __init__(self, method: methods.ChannelClose | methods.ConnectionClose) -> None:
        super().__init__(f"{method.reply_code} {method.reply_text}")
        self.method = method


@dataclass(frozen=True)
class Message:
    """What basic.deliver, get-ok or return brought."""

    method: Method
    properties: Properties
    body: bytes

    def __repr__(self) -> str:
        return f"Message({self.method.name}, {len(self.body)} octets: {self.body[:40]!r})"

    @property
    def tag(self) -> int:
        return self.method.delivery_tag  # type: ignore[attr-defined]

    @property
    def redelivered(self) -> bool:
        return self.method.redelivered  # type: ignore[attr-defined]

    @property
    def headers(self) -> Mapping[str, Any]:
        return self.properties.headers or {}


@dataclass(frozen=True)
class Confirm:
    """A basic.ack or basic.nack from the broker."""

    tag: int
    multiple: bool
    ack: bool


def _message(method: Method, closed: bytes) -> Message:
    decoded = properties.decode(content.properties_of(closed))
    return Message(method, decoded, content.body_of(closed))


class Client:
    """One connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.codec = Connection(Role.CLIENT, 1 << 31)
        self.tune = methods.ConnectionTune()
        self.server_properties: Mapping[str, Any] = {}
        self._inboxes: dict[int, deque[Any]] = {}

    @classmethod
    async def dial(cls, address: tuple[str, int]) -> Client:
        """A connected socket on which nothing was said yet."""
        with trio.fail_after(WAIT_S):
            return cls(await trio.open_tcp_stream(*address))

    @classmethod
    async def connect(
        cls,
        address: tuple[str, int],
        *,
        user: str = "guest",
        password: str = "guest",
        vhost: str = "/",
        capabilities: Mapping[str, bool] = CAPABILITIES,
        frame_max: int | None = None,
        channel_max: int | None = None,
        heartbeat: int = 0,
    ) -> Client:
        """Through the whole handshake; what is None is taken as the broker offers it."""
        client = await cls.dial(address)
        try:
            await client.log_in(user, password, capabilities=capabilities)
            await client.tune_ok(frame_max=frame_max, channel_max=channel_max, heartbeat=heartbeat)
            await client.open(vhost)
        except BaseException:
            client.drop()
            raise
        return client

    async def log_in(
        self, user: str, password: str, *, capabilities: Mapping[str, bool] = CAPABILITIES
    ) -> None:
        """Up to connection.tune. Raises Refused."""
        await self.start()
        response = f"\0{user}\0{password}".encode()
        await self.say(methods.ConnectionStartOk({"capabilities": capabilities}, "PLAIN", response))
        self.tune = await self.expect(methods.ConnectionTune)

    async def start(self) -> None:
        await self.write(PROTOCOL_HEADER)
        self.server_properties = (await self.expect(methods.ConnectionStart)).server_properties

    async def tune_ok(
        self, *, frame_max: int | None = None, channel_max: int | None = None, heartbeat: int = 0
    ) -> None:
        frame_max = self.tune.frame_max if frame_max is None else frame_max
        channel_max = self.tune.channel_max if channel_max is None else channel_max
        self.codec.frame_max = frame_max or 1 << 31
        await self.say(methods.ConnectionTuneOk(channel_max, frame_max, heartbeat))

    async def open(self, vhost: str) -> None:
        """Raises Refused."""
        await self.say(methods.ConnectionOpen(vhost))
        await self.expect(methods.ConnectionOpenOk)

    async def channel(self, number: int = 1) -> Channel:
        """Open one."""
        channel = Channel(self, number)
        await channel.call(methods.ChannelOpen(), methods.ChannelOpenOk)
        return channel

    # ---- out ----

    async def write(self, octets: bytes) -> None:
        with trio.fail_after(WAIT_S):
            await self.stream.send_all(octets)

    async def say(self, method: Method) -> None:
        """Send a method of channel 0 that is allowed now."""
        await self.write(self.codec.send(method))

    async def close(self) -> None:
        """As the protocol wants it, up to the end of the socket."""
        await self.say(methods.ConnectionClose(200, "bye", 0, 0))
        await self.expect(methods.ConnectionCloseOk)
        await self.ended()

    def drop(self) -> None:
        """Close the socket and say nothing."""
        self.stream.socket.close()

    # ---- in ----

    async def next(self, number: int = 0) -> Any:
        """What came next on a channel: a Method, Message or Confirm. Raises Ended."""
        inbox = self._inboxes.setdefault(number, deque())
        while not inbox:
            if number and self._inboxes.get(0):
                raise Refused(self._inboxes[0].popleft())
            await self._receive()
        return inbox.popleft()

    def came(self, number: int = 0) -> list[Any]:
        """All that is there of a channel and was not looked at."""
        inbox = self._inboxes.setdefault(number, deque())
        found = list(inbox)
        inbox.clear()
        return found

    async def expect(self, kind: type[M], number: int = 0) -> M:
        """The next answer on a channel, which must be of this kind. Raises Refused for a close instead.

        Deliveries, returns, confirms and cancels that come before it stay for `next`.
        """
        passed = []
        while isinstance(came := await self.next(number), Message | Confirm | methods.BasicCancel):
            passed.append(came)
        self._inboxes[number].extendleft(reversed(passed))
        closes = (methods.ChannelClose, methods.ConnectionClose)
        if isinstance(came, closes) and kind not in closes:
            raise Refused(came)
        assert isinstance(came, kind), f"expected {kind.__name__}, got {came}"
        return came

    async def refused(self) -> methods.ConnectionClose:
        """The broker closes the connection: answer it, and wait until it has closed the socket."""
        while not isinstance(came := await self.next(), methods.ConnectionClose):
            assert isinstance(came, methods.ConnectionBlocked | methods.ConnectionUnblocked), came
        await self.write(methods.encode(0, methods.ConnectionCloseOk()))
        await self.ended()
        return came

    async def ended(self) -> None:
        """Wait until the broker has closed the socket."""
        try:
            while True:
                await self._receive()
        except Ended:
            return

    async def _receive(self) -> None:
        with trio.fail_after(WAIT_S):
            try:
                data = await self.stream.receive_some(1 << 18)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.drop()
                raise Ended from None
        if not data:
            self.drop()
            raise Ended
        for event in self.codec.receive(data):
            self._sort(event)

    def _sort(self, event: Event) -> None:
        assert not isinstance(event, ProtocolFailed), event
        inbox = self._inboxes.setdefault(event.channel, deque())  # type: ignore[union-attr]
        if isinstance(event, AckRun):
            tags = [event.last] if event.multiple else range(event.first, event.last + 1)
            inbox += [Confirm(tag, event.multiple, True) for tag in tags]
        elif isinstance(event, ContentReceived):
            inbox.append(_message(event.method, event.content))
        elif isinstance(event, Deliveries):
            envelope = event.envelope
            around = (envelope.redelivered, envelope.exchange, envelope.routing_key)
            for tag, closed in enumerate(event.contents, event.first):
                inbox.append(_message(methods.BasicDeliver(envelope.consumer_tag, tag, *around), closed))
        else:
            assert isinstance(event, MethodReceived)
            method = event.method
            if isinstance(method, methods.BasicNack):
                inbox.append(Confirm(method.delivery_tag, method.multiple, False))
            else:
                inbox.append(method)


class Channel:
    """One channel, as the client sees it."""

    def __init__(self, client: Client, number: int) -> None:
        self.client = client
        self.number = number

    async def send(self, *wanted: Method) -> None:
        await self.client.write(b"".join(methods.encode(self.number, method) for method in wanted))

    async def call(self, method: Method, answer: type[M]) -> M:
        """Send a method and return its answer. Raises Refused."""
        await self.send(method)
        return await self.expect(answer)

    async def next(self) -> Any:
        return await self.client.next(self.number)

    async def expect(self, kind: type[M]) -> M:
        return await self.client.expect(kind, self.number)

    async def message(self) -> Message:
        """The next delivery, return or get."""
        came = await self.next()
        assert isinstance(came, Message), came
        return came

    async def messages(self, count: int) -> list[Message]:
        return [await self.message() for _ in range(count)]

    async def bodies(self, count: int) -> list[bytes]:
        return [message.body for message in await self.messages(count)]

    async def publish(
        self,
        body: bytes = b"",
        *,
        to: str = "",
        exchange: str = "",
        mandatory: bool = False,
        frame_max: int | None = None,
        **props: Any,
    ) -> None:
        """`to` is the routing key; what else is named is a property."""
        await self.client.write(
            self.publishing(body, to=to, exchange=exchange, mandatory=mandatory, frame_max=frame_max, **props)
        )

    def publishing(
        self,
        body: bytes = b"",
        *,
        to: str = "",
        exchange: str = "",
        mandatory: bool = False,
        frame_max: int | None = None,
        **props: Any,
    ) -> bytes:
        """The frames of a publish."""
        method = methods.BasicPublish(0, exchange, to, mandatory, False)
        raw = properties.encode(Properties(**props))
        frame_max = self.client.codec.frame_max if frame_max is None else frame_max
        return methods.encode(self.number, method) + content.build(self.number, raw, body, frame_max)

    async def declare(self, queue: str = "", **options: Any) -> methods.QueueDeclareOk:
        return await self.call(methods.QueueDeclare(queue=queue, **options), methods.QueueDeclareOk)

    async def depth(self, queue: str) -> int:
        """How many messages are ready in it."""
        return (await self.declare(queue, passive=True)).message_count

    async def exchange(self, name: str, type: str = "direct", **options: Any) -> None:
        method = methods.ExchangeDeclare(exchange=name, type=type, **options)
        await self.call(method, methods.ExchangeDeclareOk)

    async def bind(
        self, queue: str, exchange: str, key: str = "", arguments: Mapping[str, Any] | None = None
    ) -> None:
        method = methods.QueueBind(queue=queue, exchange=exchange, routing_key=key, arguments=arguments or {})
        await self.call(method, methods.QueueBindOk)

    async def consume(self, queue: str = "", **options: Any) -> str:
        """Returns the consumer tag."""
        method = methods.BasicConsume(queue=queue, **options)
        return (await self.call(method, methods.BasicConsumeOk)).consumer_tag

    async def qos(self, count: int, *, shared: bool = False) -> None:
        await self.call(methods.BasicQos(0, count, shared), methods.BasicQosOk)

    async def get(self, queue: str = "", *, no_ack: bool = False) -> Message | None:
        await self.send(methods.BasicGet(queue=queue, no_ack=no_ack))
        came = await self.next()
        if isinstance(came, methods.BasicGetEmpty):
            return None
        assert isinstance(came, Message), came
        return came

    async def ack(self, tag: int, *, multiple: bool = False) -> None:
        await self.send(methods.BasicAck(tag, multiple))

    async def nack(self, tag: int, *, multiple: bool = False, requeue: bool = True) -> None:
        await self.send(methods.BasicNack(tag, multiple, requeue))

    async def reject(self, tag: int, *, requeue: bool = True) -> None:
        await self.send(methods.BasicReject(tag, requeue))

    async def confirm_mode(self) -> None:
        await self.call(methods.ConfirmSelect(), methods.ConfirmSelectOk)

    async def confirms(self, upto: int, *, since: int = 1) -> dict[int, bool]:
        """The answers to the publishes numbered `since` to `upto`: True for an ack."""
        found: dict[int, bool] = {}
        while len(found) < upto - since + 1:
            came = await self.next()
            assert isinstance(came, Confirm), came
            low = min(set(range(since, upto + 1)) - found.keys()) if came.multiple else came.tag
            found.update({number: came.ack for number in range(low, came.tag + 1) if number not in found})
        return found

    async def settle(self) -> None:
        """Returns when all that was sent before has had its effects, and those that concern us are here."""
        inbox = self.client.came(self.number)
        # What an event leads to goes out behind the answers of the same pass: hence twice.
        for _ in range(2):
            await self.send(methods.ChannelFlow(active=True))
            while not isinstance(came := await self.next(), methods.ChannelFlowOk):
                inbox.append(came)
        self.client._inboxes[self.number].extendleft(reversed(inbox))

    async def came(self) -> list[Any]:
        """All that has come until now and was not looked at: what follows from what was sent is among it."""
        await self.settle()
        return self.client.came(self.number)

    async def close(self) -> None:
        await self.call(methods.ChannelClose(200, "bye", 0, 0), methods.ChannelCloseOk)

    async def refused(self) -> methods.ChannelClose:
        """The broker closes this channel; answers it."""
        closed = await self.expect(methods.ChannelClose)
        await self.send(methods.ChannelCloseOk())
        return closed
