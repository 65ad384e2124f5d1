"""What runs while a connection is open: one task that reads, one that writes, one for heartbeats.

Flow:   the reader gives each channel what came for it; the writer sends what is in the outbox, all of it
        at once; the third says something when nothing else was said, and hears when the broker is silent.
Shape:  open -> close sent -> close-ok came -> over
        open -> close came: answered -> over
        open -> the socket ended, or the broker fell silent: over
Limits: nothing is read while a consumer without acknowledgements has its buffer full, unless somebody
        waits for an answer; then `OVERRUN` octets at most, after which such consumers are cancelled.
        Closing takes at most `CLOSE_S`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
from anyio import CancelScope, Event

from broker.amqp import methods
from broker.amqp.connection import Event as AmqpEvent
from broker.amqp.connection import HeaderReceived, HeaderRefused, State
from broker.amqp.errors import ProtocolError, RemoteProtocolError
from broker.amqp.frames import HEARTBEAT_FRAME, MethodReceived, ProtocolFailed
from broker.amqp.spec import ReplyCode
from leveret.calls import CLOSE_S
from leveret.confirms import Reason
from leveret.consumer import Consumer
from leveret.errors import ConnectionClosed, TooManyChannels
from leveret.handshake import LOST, Link
from leveret.outbox import Outbox

if TYPE_CHECKING:
    from leveret.channel import Channel

OVERRUN: Final = 64 * 1024 * 1024
_RECEIVE_SIZE_MIN: Final = 4 * 1024
_RECEIVE_SIZE_MAX: Final = 256 * 1024


class Traffic:
    """The running part of a connection."""

    def __init__(self, link: Link) -> None:
        self.frame_max = link.codec.frame_max
        self.reason: Reason | None = None
        """Why the connection is closed, once it is."""
        self.blocked: str | None = None
        """Why the broker takes no messages at the moment, in its words."""
        self._link = link
        self._codec = link.codec
        self._stream = link.stream
        self._outbox = Outbox()
        self._channels: dict[int, Channel] = {}
        self._next_channel = 1
        self._scope = CancelScope(shield=True)
        self._ended = Event()
        self._wake: Event | None = None
        """Set for the writer, when it sleeps."""
        self._change: Event | None = None
        """Set when publishers may have reason to go on."""
        self._overfull: dict[Consumer, None] = {}
        self._resume: Event | None = None
        """Set when there may be reason to read on."""
        self._read_while_overfull = 0
        self._wrote = self._heard = True

    # ---- for channels ----

    def add(self, channel: Channel) -> int:
        """Its number. Raises TooManyChannels, ConnectionClosed."""
        self.check()
        highest = self._link.channel_max
        if len(self._channels) >= highest:
            raise TooManyChannels(f"all {highest} channels of the connection are open")
        number = self._next_channel
        while number in self._channels:
            number = number % highest + 1
        self._next_channel = number % highest + 1
        self._channels[number] = channel
        return number

    def remove(self, number: int) -> None:
        """Nothing can come for this channel any more."""
        self._channels.pop(number, None)

    def check(self) -> None:
        """Raises ConnectionClosed."""
        if self.reason is not None:
            raise self.reason()

    def send(self, octets: bytes) -> None:
        """Put octets behind what is to be sent."""
        self._outbox.put(octets)
        if self._wake is not None:
            self._wake_writer()
        if self._resume is not None:
            self._wake_reader()

    def acknowledge(self, channel: int, tag: int, unsettled: dict[int, None]) -> None:
        self._outbox.acknowledge(channel, tag, unsettled)
        if self._wake is not None:
            self._wake_writer()

    @property
    def holds_publishers(self) -> bool:
        return self.blocked is not None or self._outbox.full

    async def changed(self) -> None:
        """Until something may have happened that publishers wait for."""
        if self._change is None:
            self._change = Event()
        await self._change.wait()

    def note_change(self) -> None:
        if self._change is not None:
            self._change.set()
            self._change = None

    def is_overfull(self, consumer: Consumer) -> None:
        self._overfull[consumer] = None

    def has_room(self, consumer: Consumer) -> None:
        self._overfull.pop(consumer, None)
        if not self._overfull:
            self._read_while_overfull = 0
            self._wake_reader()

    # ---- the tasks ----

    async def run(self) -> None:
        """Until the connection is over, however it ends."""
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._read)
                    tasks.start_soon(self._write)
                    if self._link.heartbeat_s:
                        tasks.start_soon(self._beat)
        finally:
            self._fail(partial(ConnectionClosed, None, "the connection is closed"))
            with CancelScope(shield=True):
                await anyio.aclose_forcefully(self._stream)
            self._ended.set()

    async def _read(self) -> None:
        size = _RECEIVE_SIZE_MIN
        try:
            self._handle_all(self._link.events)
            while True:
                if self._overfull:
                    await self._wait_for_room()
                octets = await self._stream.receive(size)
                self._heard = True
                self._handle_all(self._codec.receive(octets))
                if self._codec.state is State.CLOSED:
                    self._wake_writer()
                    return
                if self._overfull:
                    self._count_overfull(len(octets))
                if len(octets) == size:
                    size = min(4 * size, _RECEIVE_SIZE_MAX)
                elif len(octets) * 64 < size:
                    size = max(size // 4, _RECEIVE_SIZE_MIN)
        except LOST as error:
            self._lost(_spoken(error))

    async def _wait_for_room(self) -> None:
        while self._overfull and self.reason is None and not self._awaited():
            self._resume = Event()
            await self._resume.wait()

    def _awaited(self) -> bool:
        """Somebody waits for an answer, which may stand behind more messages."""
        return any(channel._is_awaited() for channel in self._channels.values())

    def _count_overfull(self, octets: int) -> None:
        self._read_while_overfull += octets
        if self._read_while_overfull > OVERRUN:
            for consumer in list(self._overfull):
                consumer._overrun()

    async def _write(self) -> None:
        outbox = self._outbox
        try:
            while True:
                if not outbox:
                    if self._codec.state is State.CLOSED:
                        self._scope.cancel()
                    self._wake = Event()
                    await self._wake.wait()
                    continue
                for octets in outbox.take():
                    await self._stream.send(octets)
                self._wrote = True
                outbox.sent()
                self.note_change()
        except LOST as error:
            self._lost(_spoken(error))

    async def _beat(self) -> None:
        """Each half interval: say something if we were silent, and notice if the broker is."""
        seconds = self._link.heartbeat_s
        silent = 0
        beats = False
        while silent <= 4:
            await anyio.sleep(seconds / 2)
            # What was written may have been the last heartbeat.
            beats = (beats or not self._wrote) and not self._outbox
            if beats:
                self.send(HEARTBEAT_FRAME)
            self._wrote = False
            silent = 0 if self._heard or self._resume is not None else silent + 1
            self._heard = False
        self._lost(f"the broker said nothing for more than two heartbeats of {seconds} s")

    def _wake_writer(self) -> None:
        if self._wake is not None:
            self._wake.set()
            self._wake = None

    def _wake_reader(self) -> None:
        if self._resume is not None:
            self._resume.set()
            self._resume = None

    # ---- coming in ----

    def _handle_all(self, events: list[AmqpEvent]) -> None:
        try:
            for event in events:
                self._handle(event)
        except ProtocolError as error:
            if self.reason is None:
                self._fail(
                    partial(ConnectionClosed, error.code.value, f"the broker broke a rule: {error.text}")
                )
                self._say_close(error.code.value, error.reply_text, error.class_id, error.method_id)

    def _handle(self, event: AmqpEvent) -> None:
        if isinstance(event, ProtocolFailed):
            raise event.error
        assert not isinstance(event, HeaderReceived | HeaderRefused), "which come to servers"
        channel = self._channels.get(event.channel)
        if channel is not None:
            channel._handle(event)
        elif isinstance(event, MethodReceived) and not event.channel:
            self._handle_own(event.method)
        else:
            text = f"something came for channel {event.channel}, which is not open"
            raise RemoteProtocolError(ReplyCode.CHANNEL_ERROR, text)

    def _handle_own(self, method: methods.Method) -> None:
        if isinstance(method, methods.ConnectionBlocked):
            self.blocked = method.reason
        elif isinstance(method, methods.ConnectionUnblocked):
            self.blocked = None
            self.note_change()
        elif isinstance(method, methods.ConnectionClose):
            self._fail(partial(ConnectionClosed, method.reply_code, method.reply_text))
            self.send(self._codec.send(methods.ConnectionCloseOk()))

    # ---- ending ----

    async def close(self) -> None:
        """Say goodbye; returns when the connection is over, cancelled or not."""
        if self.reason is None:
            self._fail(partial(ConnectionClosed, None, "the connection was closed by this side"))
            self._say_close(ReplyCode.SUCCESS, "goodbye")
        with CancelScope(shield=True):
            await self._ended.wait()

    def _say_close(self, code: int, text: str, class_id: int = 0, method_id: int = 0) -> None:
        self.send(self._codec.send(methods.ConnectionClose(code, text, class_id, method_id)))

    def _lost(self, text: str) -> None:
        """The socket is of no use any more."""
        self._fail(partial(ConnectionClosed, None, text))
        self._scope.cancel()

    def _fail(self, reason: Reason) -> None:
        """Everybody who waits hears the reason; what is left to do has a deadline."""
        if self.reason is not None:
            return
        self.reason = reason
        self._scope.deadline = anyio.current_time() + CLOSE_S
        for channel in list(self._channels.values()):
            channel._fail(reason)
        self.note_change()
        self._wake_reader()


def _spoken(error: BaseException) -> str:
    if isinstance(error, anyio.EndOfStream):
        return "the broker closed the socket without saying why"
    return f"the connection was lost: {error.__cause__ or error or type(error).__name__}"
