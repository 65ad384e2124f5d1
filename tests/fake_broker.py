"""The other end of a client's connection, played by a test: it says what it is told to.

Flow:   `play(client, broker)` runs both, connected in memory: `client` is given what connects it, `broker`
        a FakeBroker. There `expect` is what the client sent next, and `say` is sent to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import anyio
from anyio.abc import ByteStream
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

import leveret
from broker.amqp import content, methods, properties
from broker.amqp.connection import Connection, HeaderReceived, Role
from broker.amqp.frames import AckRun, MethodReceived, ProtocolFailed, Publishes
from broker.amqp.methods import Method
from broker.amqp.properties import Properties

M = TypeVar("M", bound=Method)

Connect: TypeAlias = Callable[..., leveret.Connection]

_CHUNKS = 16


class Pipe(ByteStream):
    """One end of a byte stream in memory; a few chunks fit into it, then sending waits."""

    def __init__(self, out: MemoryObjectSendStream[bytes], into: MemoryObjectReceiveStream[bytes]) -> None:
        self._out = out
        self._into = into
        self._rest = b""

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        octets = self._rest or await self._into.receive()
        self._rest = octets[max_bytes:]
        return octets[:max_bytes]

    async def send(self, item: bytes) -> None:
        await self._out.send(item)

    def holds_octets(self) -> bool:
        """There is something to receive at once."""
        held = self._into.statistics()
        return bool(self._rest or held.current_buffer_used or held.tasks_waiting_send)

    async def send_eof(self) -> None:
        await self._out.aclose()

    async def aclose(self) -> None:
        await self._out.aclose()
        await self._into.aclose()


def pipes() -> tuple[Pipe, Pipe]:
    """Two ends."""
    there, here = (anyio.create_memory_object_stream[bytes](_CHUNKS) for _ in range(2))
    return Pipe(there[0], here[1]), Pipe(here[0], there[1])


@dataclass(frozen=True)
class Published:
    """A message that the client published."""

    exchange: str
    routing_key: str
    mandatory: bool
    properties: Properties
    body: bytes


@dataclass(frozen=True)
class Acked:
    tag: int
    multiple: bool


@dataclass
class FakeBroker:
    """What the client says comes out of `expect`, one by one."""

    stream: Pipe
    heartbeat: int = 0
    frame_max: int = 131_072
    channel_max: int = 2047
    codec: Connection = field(default_factory=lambda: Connection(Role.SERVER, 1 << 30))
    start_ok: methods.ConnectionStartOk = field(default_factory=methods.ConnectionStartOk)
    tune_ok: methods.ConnectionTuneOk = field(default_factory=methods.ConnectionTuneOk)
    channel: int = 0
    """Where it came what `next` gave last."""
    _inbox: deque[tuple[int, Any]] = field(default_factory=deque)

    # ---- out ----

    async def write(self, octets: bytes) -> None:
        await self.stream.send(octets)

    async def say(self, *said: Method, channel: int = 1) -> None:
        """Methods on a channel, in one chunk."""
        await self.write(b"".join(methods.encode(channel, method) for method in said))

    async def say_own(self, method: Method) -> None:
        """A method on channel 0."""
        await self.write(self.codec.send(method))

    def with_content(
        self, method: Method, body: bytes = b"", *, channel: int = 1, raw: bytes | None = None
    ) -> bytes:
        """The octets of a method with a message; `raw` are its properties."""
        octets = properties.encode(Properties()) if raw is None else raw
        return methods.encode(channel, method) + content.build(channel, octets, body, self.frame_max)

    def deliveries(self, consumer_tag: str, first: int, *bodies: bytes, channel: int = 1) -> bytes:
        return b"".join(
            self.with_content(
                methods.BasicDeliver(consumer_tag=consumer_tag, delivery_tag=tag, routing_key="q"),
                body,
                channel=channel,
            )
            for tag, body in enumerate(bodies, first)
        )

    # ---- in ----

    async def next(self, channel: int | None = None) -> Any:
        """What the client said next, on whatever channel or, checked, on this one."""
        while not self._inbox:
            for event in self.codec.receive(await self.stream.receive()):
                self._take(event)
        self.channel, came = self._inbox.popleft()
        assert channel is None or self.channel == channel, f"{came} on channel {self.channel}"
        return came

    def _take(self, event: Any) -> None:
        match event:
            case HeaderReceived():
                self._inbox.append((0, event))
            case MethodReceived(channel, method):
                self._inbox.append((channel, method))
            case AckRun(channel, first, last, multiple):
                self._inbox += [(channel, Acked(tag, multiple)) for tag in range(first, last + 1)]
            case Publishes(channel, runs):
                for run in runs:
                    self._inbox += [(channel, _published(run.envelope, closed)) for closed in run.contents]
            case ProtocolFailed(error):
                raise error
            case _:
                raise AssertionError(event)

    async def expect(self, kind: type[M], channel: int | None = 1) -> M:
        came = await self.next(channel)
        assert isinstance(came, kind), f"expected {kind.__name__}, got {came}"
        return came

    async def published(self, channel: int = 1) -> Published:
        came = await self.next(channel)
        assert isinstance(came, Published), came
        return came

    async def acked(self, channel: int = 1) -> Acked:
        came = await self.next(channel)
        assert isinstance(came, Acked), came
        return came

    async def silent(self) -> bool:
        """The client has said nothing more, and will not before it hears something."""
        await anyio.wait_all_tasks_blocked()
        return not self._inbox and not self.stream.holds_octets()

    # ---- the usual ----

    async def start(self, mechanisms: bytes = b"PLAIN AMQPLAIN") -> None:
        """Up to start-ok."""
        assert isinstance(await self.next(0), HeaderReceived)
        await self.say_own(methods.ConnectionStart(0, 9, {"product": "fake"}, mechanisms, b"en_US"))
        self.start_ok = await self.expect(methods.ConnectionStartOk, 0)

    async def tune(self) -> None:
        """Up to connection.open."""
        await self.say_own(methods.ConnectionTune(self.channel_max, self.frame_max, self.heartbeat))
        self.tune_ok = await self.expect(methods.ConnectionTuneOk, 0)
        self.codec.frame_max = self.tune_ok.frame_max

    async def open(self) -> methods.ConnectionOpen:
        """The whole handshake."""
        await self.start()
        await self.tune()
        opened = await self.expect(methods.ConnectionOpen, 0)
        await self.say_own(methods.ConnectionOpenOk())
        return opened

    async def open_channel(self, channel: int = 1) -> None:
        await self.expect(methods.ChannelOpen, channel)
        await self.say(methods.ChannelOpenOk(), channel=channel)

    async def close_channel(self, channel: int = 1) -> None:
        await self.expect(methods.ChannelClose, channel)
        await self.say(methods.ChannelCloseOk(), channel=channel)

    async def close(self) -> None:
        """The client closes the connection."""
        await self.expect(methods.ConnectionClose, 0)
        await self.say_own(methods.ConnectionCloseOk())


def _published(envelope: Any, closed: bytes) -> Published:
    return Published(
        envelope.exchange,
        envelope.routing_key,
        envelope.mandatory,
        properties.decode(content.properties_of(closed)),
        content.body_of(closed),
    )


async def play(
    client: Callable[[Connect], Awaitable[None]],
    broker: Callable[[FakeBroker], Awaitable[None]],
    **options: int,
) -> None:
    """Both to their ends; `options` are fields of FakeBroker."""
    here, there = pipes()
    fake = FakeBroker(there, **options)

    async def dial(url: leveret.URL) -> ByteStream:
        return here

    def connect(url: str = "amqp://fake") -> leveret.Connection:
        return leveret.connect(url, dial=dial)

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(broker, fake)
            await client(connect)
    finally:
        with anyio.CancelScope(shield=True):
            await there.aclose()
