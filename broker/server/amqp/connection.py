"""One AMQP connection: its socket, the handshake, channel 0, and what waits to be sent.

Flow:   the pump says readable: what came is parsed and carried out at once; what is to go out is collected
        and sent with one call at the end of the pass. Nothing here awaits; a login runs in a task.
Limits: reads stop while more than `_OUTBOX_HIGH` octets wait to be sent, while a definition becomes durable,
        and, for publishers, while an alarm is on or the disk does not keep up; what was read already waits when `_OUTBOX_MAX` are to be
        sent, or when its share of a pass is over: then it goes on in a later pass. Parts of messages have a limit for
        all connections together (`unfinished.py`). Handshake and closing have deadlines.
Spec:   AMQP 0-9-1 section 2.2.4; RabbitMQ's rabbit_reader for texts, heartbeats and connection.blocked.
"""

from __future__ import annotations

import fcntl
import logging
import socket
import struct
import termios
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, Final

from broker.amqp import frames, methods, wire
from broker.amqp.connection import (
    Connection,
    Event,
    HeaderReceived,
    HeaderRefused,
    Role,
    State,
)
from broker.amqp.errors import ProtocolError
from broker.amqp.frames import MethodReceived, ProtocolFailed, Publishes
from broker.amqp.spec import FRAME_SIZE_MIN, PROTOCOL_HEADER, ReplyCode
from broker.model.queue import Queue
from broker.model.user import Permission, User
from broker.model.vhost import Vhost
from broker.node.flusher import Commit
from broker.node.peers import ConnectionSnapshot
from broker.node.scheduler import Timer
from broker.server.amqp.channel import Channel, ids_of
from broker.server.amqp.options import MECHANISMS
from broker.server.amqp.unfinished import SMALL
from broker.storage.errors import StorageError

if TYPE_CHECKING:
    from broker.server.amqp.server import AmqpServer

logger = logging.getLogger("broker.server")

# How much is read at once: it grows while reads are full. Room for 256 KiB costs a read of a hundred
# octets more than the read itself.
_RECEIVE_SIZE_MIN: Final = 4 * 1024
_RECEIVE_SIZE_MAX: Final = 256 * 1024
# Above the first, consumers get nothing more and nothing is read; above the second, nothing more is carried
# out of what was read, and replies are dropped.
_OUTBOX_HIGH: Final = 1024 * 1024
_OUTBOX_MAX: Final = 64 * 1024 * 1024
# Frames, or runs of them, that are parsed at once; and runs of messages that are published before the clock is
# looked at for the first time: each may go to a thousand queues.
_RUNS_MAX: Final = 256
_RUNS_MIN: Final = 8
# Joining is cheaper than gathering, unless the pieces are as large as this on average.
_GATHER_SIZE: Final = 16 * 1024
_GATHER_MAX: Final = 512
_OWNED_SLACK: Final = 64
# Half intervals without a word after which a peer is gone: RabbitMQ takes two to three intervals.
_SILENT_CHECKS_MAX: Final = 4


class AmqpConnection:
    """A client."""

    __slots__ = (
        "_behind",
        "_blocked",
        "_broken",
        "_connected_at_ms",
        "_deadline",
        "_delayed",
        "_descriptor",
        "_draining",
        "_ending",
        "_gone",
        "_heard",
        "_heartbeat",
        "_heartbeat_s",
        "_held",
        "_here",
        "_keeps",
        "_mechanism",
        "_outbox",
        "_outbox_size",
        "_over",
        "_owned_max",
        "_paused",
        "_peer",
        "_reading",
        "_receive_size",
        "_sent_at_beat",
        "_silent_checks",
        "_slowed",
        "_socket",
        "_starved",
        "_told_blocked",
        "_unread",
        "_unsent",
        "_writing",
        "channel_max",
        "channels",
        "client_properties",
        "codec",
        "exclusive_queues",
        "frame_max",
        "name",
        "node",
        "received_count",
        "received_octets",
        "sent_count",
        "sent_octets",
        "server",
        "user",
        "vhost",
    )

    def __init__(
        self,
        server: AmqpServer,
        sock: socket.socket,
        peer: tuple[str, int],
        here: tuple[str, int],
    ) -> None:
        self.server = server
        self.node = server.node
        self.name = f"{peer[0]}:{peer[1]} -> {here[0]}:{here[1]}"
        self.codec = Connection(Role.SERVER, server.options.message_size_max)
        self.frame_max = FRAME_SIZE_MIN
        self.channel_max = server.options.channel_max
        self.channels: dict[int, Channel] = {}
        self.user: User | None = None
        self.vhost: Vhost = server.no_vhost
        self.exclusive_queues: dict[Queue, None] = {}
        self._owned_max = _OWNED_SLACK
        self.client_properties: dict[str, Any] = {}
        self._socket = sock
        self._descriptor = sock.fileno()
        self._peer, self._here = peer, here
        self._connected_at_ms = self.node.clock.now_ms()
        self._mechanism = ""
        self._heartbeat_s = 0
        self._outbox: list[bytes] = []
        self._outbox_size = 0
        # What goes out behind the answer to the method that is carried out; None if there is no such method.
        self._behind: list[bytes] | None = None
        self._unsent = memoryview(b"")
        self._receive_size = _RECEIVE_SIZE_MIN
        self._reading = True
        self._writing = False
        self._ending = False
        self._starved = False
        # What came while we wait for the disk or for a password; None when we do not.
        self._held: list[Event] | None = None
        # What came, and waits for room in the outbox or for a later pass.
        self._delayed: list[Event] = []
        # It keeps parts of messages that are counted, and is not read while others' are in the way.
        self._keeps = False
        self._paused = False
        self._blocked = False
        self._told_blocked = False
        self._slowed = False
        # We have closed it: what came before the client knew is not carried out.
        self._over = False
        # The client has closed it, and may still be sending: what comes is read and discarded.
        self._draining = False
        self._gone = False
        # By a bug of ours: consumers have no room until it is closed.
        self._broken = False
        self._deadline: Timer | None = self.node.scheduler.after(
            int(server.options.handshake_timeout_s * 1000), partial(self.guard, self._handshake_timed_out)
        )
        self._heartbeat: Timer | None = None
        self._heard = True
        self._sent_at_beat = 0
        self._silent_checks = 0
        self._unread = 0
        self.received_octets = self.received_count = self.sent_octets = self.sent_count = 0

    # ---- what the pump calls ----

    def fileno(self) -> int:
        return self._descriptor

    def readable(self) -> None:
        if not self._reading:
            return  # not any more, since the pump asked the system
        if self._held is not None:  # most clients wait for the answer, and say nothing that must not be read
            self._update_watch()
            return
        try:
            data = self._socket.recv(self._receive_size)
        except BlockingIOError:
            return
        except OSError as error:
            self.lost(error.strerror or "read failed")
            return
        if not data:
            self.lost("the peer closed the socket")
            return
        self._heard = True
        size = len(data)
        if size == self._receive_size:
            self._receive_size = min(4 * size, _RECEIVE_SIZE_MAX)
        elif size * 64 < self._receive_size:
            self._receive_size = max(self._receive_size // 4, _RECEIVE_SIZE_MIN)
        self.received_octets += size
        self.received_count += 1
        self.receive(data)

    def hung_up(self) -> None:
        if self._reading:
            self.readable()  # which says why
        elif not self._can_go_on:
            self.lost("the peer hung up")

    def writable(self) -> None:
        self._send_unsent()
        if not self._unsent:
            self.flush()
        if self._starved and not self.congested:
            self._starved = False
            self.resume()
            for channel in self.channels.values():
                channel.wake_consumers()
        self._update_watch()

    def resume(self) -> None:
        delayed, self._delayed = self._delayed, []
        self._carry_out(delayed)
        self._carry_out_more()
        self._update_watch()

    def failed(self, error: Exception) -> None:
        """A bug of ours: this connection ends, the others live. A failure of the disk is raised again."""
        if isinstance(error, StorageError):
            raise error
        logger.error("connection %s: closed after an error of ours", self.name, exc_info=error)
        self._broken = True
        if self._gone:
            return
        try:
            self.fail(ProtocolError(ReplyCode.INTERNAL_ERROR, "internal error"))
        except Exception:
            logger.exception("connection %s: closing failed too", self.name)
            self.lost("an error of ours")

    def guard(self, call: Callable[[], None]) -> None:
        """Call it for somebody to whom a bug in it is nothing."""
        try:
            call()
        except Exception as error:
            self.failed(error)

    # ---- coming in ----

    def receive(self, data: bytes) -> None:
        """Carry out what these octets complete, as far as there is time in this pass."""
        self._carry_out(self.codec.receive(data, _RUNS_MAX))
        if self._delayed or self.codec.more:
            self._carry_out_more()
            self._update_watch()
        kept = self.codec.kept
        if (kept > SMALL or self._keeps) and not self._gone:
            self._keeps = kept > SMALL
            self.server.unfinished.keep(self, kept)

    def _carry_out_more(self) -> None:
        """What came in one piece with what has been answered now, or with much else."""
        ends = self.server.pump.share_ends
        while self._can_go_on and not self._delayed and time.perf_counter() <= ends:
            self._carry_out(self.codec.receive(b"", _RUNS_MAX))

    @property
    def _can_go_on(self) -> bool:
        """What came only waits for a later pass."""
        return (bool(self._delayed) or self.codec.more) and self._held is None and not self.overfull

    def _carry_out(self, events: list[Event]) -> None:
        channels = self.channels
        share_ends = self.server.pump.share_ends
        clock = time.perf_counter
        portion = _RUNS_MIN
        for index, event in enumerate(events):
            if self._held is not None:
                self._held += events[index:]
                return
            if self._outbox_size > _OUTBOX_MAX:
                self._delayed += events[index:]
                self._starved = True
                return
            if index and clock() > share_ends:
                self._delayed += events[index:]
                return
            if self._gone:
                return
            if self._over and not _is_of_closing(event):
                continue
            number = event.channel
            channel = channels.get(number)
            if channel is not None:
                if type(event) is Publishes and len(event.runs) > portion:
                    events.insert(index + 1, Publishes(number, event.runs[portion:]))
                    event = Publishes(number, event.runs[:portion])
                    portion *= 2
                channel.handle(event)  # type: ignore[arg-type]  # the others have a number of no channel
            elif isinstance(event, HeaderReceived | HeaderRefused | ProtocolFailed):
                self._handle_beginning(event)
            elif number == 0 and isinstance(event, MethodReceived):
                self._handle_own(event.method)
            else:
                self._handle_unopened(number, event)

    def _handle_beginning(self, event: HeaderReceived | HeaderRefused | ProtocolFailed) -> None:
        if isinstance(event, HeaderReceived):
            properties = self.server.options.server_properties(self.node.cluster.name)
            self.send(self.codec.send(methods.ConnectionStart(0, 9, properties, MECHANISMS, b"en_US")))
        elif isinstance(event, HeaderRefused):
            logger.info("connection %s: not AMQP 0-9-1: %r", self.name, event.octets)
            self.send(PROTOCOL_HEADER)
            self._close_after_flush()
        else:
            self.fail(event.error)

    def _handle_own(self, method: methods.Method) -> None:
        try:
            _CHANNEL_ZERO[type(method)](self, method)
        except ProtocolError as error:
            error.class_id, error.method_id = method.id
            self.fail(error)

    def _handle_unopened(self, number: int, event: frames.Event) -> None:
        method = event.method if isinstance(event, MethodReceived) else None
        if number == 0:
            text = f"unexpected method in connection state {self.codec.state.value}"
            self.fail(ProtocolError(ReplyCode.CHANNEL_ERROR, text, *ids_of(event)))
        elif isinstance(method, methods.ChannelOpen):
            self._open_channel(number)
        elif not isinstance(method, methods.ChannelCloseOk):
            self.fail(ProtocolError(ReplyCode.CHANNEL_ERROR, "expected 'channel.open'", *ids_of(event)))

    def _open_channel(self, number: int) -> None:
        count = len(self.channels)
        if count >= self.channel_max:
            text = f"number of channels opened ({count}) has reached the negotiated channel_max ({self.channel_max})"
            self.fail(ProtocolError(ReplyCode.NOT_ALLOWED, text))
            return
        self.channels[number] = Channel(self, number)
        self.node.metrics.channels_opened += 1
        self.send(methods.encode(number, methods.ChannelOpenOk()))

    def hold(self, commit: Commit, then: Callable[[], None]) -> None:
        """Carry out nothing more until the commit is safe; then `then`, and what came meanwhile."""
        assert self._held is None
        self._held = []
        commit.waiters.append(partial(self.guard, partial(self._release, then)))

    def _release(self, then: Callable[[], None]) -> None:
        if self._listens:
            then()
            self._go_on()

    @property
    def _listens(self) -> bool:
        """There is still somebody to answer: neither the peer has gone nor have we sent it away."""
        return not self._gone and self.codec.state not in (State.CLOSING, State.CLOSED)

    def _go_on(self) -> None:
        """Carry out what came while we waited, and read again."""
        held, self._held = self._held or [], None
        self._carry_out(held)
        self._carry_out_more()
        self._update_watch()

    def _start(self, call: Callable[..., Awaitable[None]], *arguments: str) -> None:
        """Carry out nothing more until this task has ended, which says `_go_on` if there is more to do."""
        self._held = []
        self._update_watch()
        self.server.start_soon(self._run, call, *arguments)

    async def _run(self, call: Callable[..., Awaitable[None]], *arguments: str) -> None:
        try:
            await call(*arguments)
        except Exception as error:
            self.failed(error)
        self.node.end_pass()

    # ---- going out ----

    def send(self, octets: bytes) -> None:
        """Put octets behind what is to be sent at the end of this pass."""
        if not self._outbox or self._unsent:  # `flush` also sees when it is too much
            self.server.flush_soon(self)
        self._outbox.append(octets)
        self._outbox_size += len(octets)

    @contextmanager
    def answering(self) -> Iterator[list[bytes]]:
        """What `send_behind` is given meanwhile is not sent but put into this list."""
        behind: list[bytes] = []
        self._behind = behind
        try:
            yield behind
        finally:
            self._behind = None

    def send_behind(self, octets: bytes) -> None:
        """Send what follows from a method, which may be one that this client gets an answer to first."""
        if self._behind is None:
            self.send(octets)
        else:
            self._behind.append(octets)

    @property
    def congested(self) -> bool:
        """The client does not take what it asked for: consumers have no room."""
        if self._outbox_size > _OUTBOX_HIGH:
            self._starved = True
            return True
        return self._broken

    def fail_soon(self, error: Exception) -> None:
        """As `failed`, at the end of this pass."""
        self._broken = True
        self.server.fail_soon(self, error)

    @property
    def unsent_size(self) -> int:
        """Bytes that wait for the socket."""
        return self._outbox_size

    @property
    def overfull(self) -> bool:
        return self._outbox_size > _OUTBOX_MAX

    def flush(self) -> None:
        """Send what has been collected, as far as the socket takes it."""
        if self._gone:
            return
        if self._outbox and not self._unsent:
            self._send_outbox()
        if self._outbox_size or self._starved or not self._reading:
            self._update_watch()

    def _send_outbox(self) -> None:
        outbox, self._outbox = self._outbox, []
        self.sent_count += 1
        if len(outbox) > 1 and (self._outbox_size < _GATHER_SIZE * len(outbox) or len(outbox) > _GATHER_MAX):
            outbox = [b"".join(outbox)]
        try:
            sent = self._socket.send(outbox[0]) if len(outbox) == 1 else self._socket.sendmsg(outbox)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.lost(error.strerror or "write failed")
            return
        self.sent_octets += sent
        self._outbox_size -= sent
        if self._outbox_size:
            self._keep_unsent(outbox, sent)

    def _keep_unsent(self, pieces: list[bytes], sent: int) -> None:
        """Keep what the socket did not take, as it is: a large message is not copied for each slow consumer."""
        at = 0
        while sent >= len(pieces[at]):
            sent -= len(pieces[at])
            at += 1
        self._unsent = memoryview(pieces[at])[sent:]
        self._outbox = pieces[at + 1 :]

    def _send_unsent(self) -> None:
        try:
            while self._unsent:
                sent = self._socket.send(self._unsent)
                self.sent_octets += sent
                self._outbox_size -= sent
                self._unsent = self._unsent[sent:]
        except BlockingIOError:
            return
        except OSError as error:
            self.lost(error.strerror or "write failed")

    def _update_watch(self) -> None:
        """Tell the pump what to wait for."""
        if self._gone:
            return
        # Whoever waits for room hears of it from the pump, even if all was sent at once.
        writing = bool(self._unsent) or self._starved
        reading = self.able and not self._paused
        if self.codec.state is State.CLOSED:
            if not self._unsent and not self._outbox and not self._hang_up():
                return
            reading = self._draining
        if self._can_go_on:
            self.server.pump.defer(self)
        # Whoever is blocked may be so for hours: it must not stay that long when its peer has gone.
        ending = self._blocked and not reading
        if (reading, writing, ending) != (self._reading, self._writing, self._ending):
            self._reading, self._writing, self._ending = reading, writing, ending
            self.server.pump.watch(self, reading=reading, writing=writing, ending=ending)

    # ---- what it keeps of messages ----

    @property
    def able(self) -> bool:
        return not (
            self._held is not None
            or self._delayed
            or self.codec.more
            or self._blocked
            or self._slowed
            or self._outbox_size > _OUTBOX_HIGH
        )

    @property
    def unread(self) -> int:
        unread: int = struct.unpack("i", fcntl.ioctl(self._descriptor, termios.FIONREAD, b"\0" * 4))[0]
        return unread

    def pause(self) -> None:
        self._paused = True
        self._update_watch()

    def unpause(self) -> None:
        self._paused = False
        self._update_watch()

    def give_up(self, size_max: int) -> None:
        self._keeps = self._paused = False
        self.codec.give_up()
        text = f"a message was not finished in time while those of all connections hold more than {size_max} octets"
        self.guard(lambda: self.fail(ProtocolError(ReplyCode.RESOURCE_ERROR, text)))

    # ---- publishers and alarms ----

    def slow_down(self, commit: Commit) -> None:
        """It publishes faster than the disk writes: nothing more is read from it until this is done."""
        if not self._slowed:
            self._slowed = True
            commit.waiters.append(partial(self.guard, self._speed_up))
            self._update_watch()

    def _speed_up(self) -> None:
        self._slowed = False
        self._update_watch()

    def block(self) -> None:
        """It published while an alarm is on: nothing more is read from it until that is off."""
        if self._blocked:
            return
        self._blocked = True
        if self.capability("connection.blocked") and self.codec.state is State.RUNNING:
            self._told_blocked = True
            self.send(self.codec.send(methods.ConnectionBlocked(self.node.alarms.reason)))
        self._update_watch()

    def unblock(self) -> None:
        if not self._blocked:
            return
        self._blocked = False
        if self._told_blocked and self.codec.state is State.RUNNING:
            self.send(self.codec.send(methods.ConnectionUnblocked()))
        self._told_blocked = False
        self._silent_checks = 0
        self._update_watch()

    # ---- the handshake ----

    @property
    def permission(self) -> Permission | None:
        """What the user may do in the virtual host now."""
        return self.user.permissions.get(self.vhost.name) if self.user is not None else None

    def capability(self, name: str) -> bool:
        """Whether the client announced it."""
        capabilities = self.client_properties.get("capabilities")
        return isinstance(capabilities, dict) and capabilities.get(name) is True

    def _start_ok(self, method: methods.ConnectionStartOk) -> None:
        self.client_properties = dict(method.client_properties)
        self._mechanism = method.mechanism
        name, password = _credentials(method)
        self._start(self._login, name, password)

    async def _login(self, name: str, password: str) -> None:
        user = await self.node.accounts.login(name, password)
        if user is not None and name in self.server.options.loopback_users and not self._from_loopback():
            logger.warning(
                "connection %s: user '%s' can only connect from this machine",
                self.name,
                name,
            )
            user = None
        if not self._listens:
            return
        if user is None:
            self.node.metrics.logins_failed += 1
            self._refuse(name)
            return
        self.node.metrics.logins += 1
        self.user = user
        options = self.server.options
        tune = methods.ConnectionTune(options.channel_max, options.frame_max, options.heartbeat_s)
        self.send(self.codec.send(tune))
        self._go_on()

    def _from_loopback(self) -> bool:
        address = ip_address(self._peer[0].partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return address.is_loopback

    def _refuse(self, name: str) -> None:
        """Whoever cannot hear why is only closed; either way not at once, as guessing must take time."""
        logger.warning("connection %s: login of user '%s' refused", self.name, name)
        if self.capability("authentication_failure_close"):
            text = (
                f"Login was refused using authentication mechanism {self._mechanism}. "
                "For details see the broker logfile."
            )
            self.fail(ProtocolError(ReplyCode.ACCESS_REFUSED, text))
        self._set_deadline(self.server.options.refused_delay_s, lambda: self.lost(""))

    def _tune_ok(self, method: methods.ConnectionTuneOk) -> None:
        options = self.server.options
        _check_tuned("frame_max", method.frame_max, FRAME_SIZE_MIN, options.frame_max)
        _check_tuned("channel_max", method.channel_max, 1, options.channel_max)
        self.frame_max = self.codec.frame_max = method.frame_max or 1 << 31
        self.channel_max = method.channel_max or 65_535
        self._heartbeat_s = method.heartbeat
        if self._heartbeat_s:
            self._heartbeat = self.node.scheduler.after(
                self._heartbeat_s * 500, partial(self.guard, self._beat)
            )

    def _open(self, method: methods.ConnectionOpen) -> None:
        name = method.virtual_host
        user = self.user
        assert user is not None
        if self.server.connection_count > self.server.options.connection_max:
            limit = self.server.options.connection_max
            raise ProtocolError(
                ReplyCode.NOT_ALLOWED,
                f"connection refused: node connection limit ({limit}) is reached",
            )
        vhost = self.node.topology.vhosts.get(name)
        if vhost is None:
            raise ProtocolError(ReplyCode.NOT_ALLOWED, f"vhost {name} not found")
        if name not in user.permissions:
            raise ProtocolError(
                ReplyCode.NOT_ALLOWED,
                f"access to vhost '{name}' refused for user '{user.name}'",
            )
        self.vhost = vhost
        self._cancel_deadline()
        self.send(self.codec.send(methods.ConnectionOpenOk()))
        self.node.metrics.connections_opened += 1
        self.server.opened(self)
        logger.info("connection %s: user '%s' opened vhost '%s'", self.name, user.name, name)

    def _update_secret(self, method: methods.ConnectionUpdateSecret) -> None:
        """Users of the internal database do not expire: any secret is right, and none changes anything."""
        if self.codec.state is State.RUNNING:  # a close in the same piece is answered alone
            self.send(self.codec.send(methods.ConnectionUpdateSecretOk()))

    # ---- heartbeats and deadlines ----

    def _beat(self) -> None:
        """Each half interval: send a heartbeat if nothing else was sent in it, and check that the peer lives.

        A heartbeat of the last half interval does not count as sent. The first one is sent always: what
        the handshake sent may be almost as old as the connection.
        """
        if self._gone:
            return
        self._heartbeat = self.node.scheduler.after(self._heartbeat_s * 500, partial(self.guard, self._beat))
        self._silent_checks = 0 if self._is_alive() else self._silent_checks + 1
        self._heard = False
        if self._silent_checks > _SILENT_CHECKS_MAX:
            logger.warning("connection %s: missed heartbeats of %d s", self.name, self._heartbeat_s)
            self.lost("")
            return
        if self._sent_at_beat in (0, self.sent_octets) and not self._unsent:
            self.send(frames.HEARTBEAT_FRAME)
            self.flush()
        self._sent_at_beat = self.sent_octets

    def _is_alive(self) -> bool:
        """It has said something in this half interval, or is not listened to."""
        if self._reading:
            return self._heard
        if self._outbox_size <= _OUTBOX_HIGH:
            return True
        # It takes too little of what it asked for, so that nothing is read. One that lives still sends us
        # heartbeats, which pile up; one that is gone would keep its messages until TCP gives it up.
        before, self._unread = self._unread, self.unread
        return self.sent_octets != self._sent_at_beat or self._unread != before

    def _handshake_timed_out(self) -> None:
        logger.warning(
            "connection %s: handshake timed out in state %s",
            self.name,
            self.codec.state.value,
        )
        self.lost("")

    def _stop_heartbeats(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            self._heartbeat = None

    def _set_deadline(self, seconds: float, call: Callable[[], None]) -> None:
        self._cancel_deadline()
        self._deadline = self.node.scheduler.after(int(seconds * 1000), partial(self.guard, call))

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    # ---- closing ----

    def fail(self, error: ProtocolError, channel: Channel | None = None) -> None:
        """Close the channel, or for a hard error the connection, with the code of the error."""
        if channel is not None and not error.code.closes_connection:
            logger.warning("connection %s channel %d: %s", self.name, channel.number, error)
            channel.release()
            channel.closing = True
            channel.send(methods.ChannelClose(error.code, error.reply_text, error.class_id, error.method_id))
            return
        logger.warning("connection %s: %s", self.name, error)
        self.close(error)

    def close(self, error: ProtocolError) -> None:
        """Tell the client, let go of everything it had, and wait a while for its answer."""
        if self.codec.state in (State.CLOSED, State.CLOSING):
            return
        self._over = True
        if self.codec.state is State.ANSWER_CLOSE:  # its own close came in the same piece: that is answered
            return
        if self.codec.state is State.HEADER:
            self._close_after_flush()
            return
        self._release_all()
        self.send(
            self.codec.send(
                methods.ConnectionClose(error.code, error.reply_text, error.class_id, error.method_id)
            )
        )
        self._blocked = False
        self._held = None
        self._delayed = []
        self._update_watch()
        self._set_deadline(self.server.options.close_timeout_s, lambda: self.lost(""))

    def close_by_operator(self, reason: str) -> None:
        error = ProtocolError(ReplyCode.CONNECTION_FORCED, reason)
        if self._listens:
            logger.info("connection %s: closed: %s", self.name, error)
        self.close(error)

    def _closed_by_peer(self, method: methods.ConnectionClose) -> None:
        # Some clients say 0 where all is well.
        usual = method.reply_code in (0, ReplyCode.SUCCESS)
        said = "" if usual else f": {method.reply_code} {method.reply_text!r}"
        logger.info("connection %s: closed by the client%s", self.name, said)
        # Exclusive queues are gone before close-ok is sent, so that a client can declare them again at once.
        self._release_all()
        self.send(self.codec.send(methods.ConnectionCloseOk()))
        self._draining = True
        self._close_after_flush()

    def _close_ok(self, method: methods.ConnectionCloseOk) -> None:
        self._close_after_flush()

    def _close_after_flush(self) -> None:
        self.codec.state = State.CLOSED
        self.codec.give_up()
        self._stop_heartbeats()
        self.server.close_soon(self)
        self._set_deadline(self.server.options.close_timeout_s, lambda: self.lost(""))

    def finish(self) -> None:
        """The codec is closed: when everything is sent, so is the socket."""
        self._update_watch()

    def _hang_up(self) -> bool:
        """Everything is sent: close the socket, or only our half of it; whether it is still there.

        The system answers data that comes for a closed socket with a reset, and the client may lose our
        close-ok by it. So the other half stays open until the client has closed it, or the deadline.
        """
        if not self._draining:
            self.lost("")
        elif self.server.drain(self):
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError:
                self.lost("")
        return not self._gone

    def forget_channel(self, channel: Channel) -> None:
        self.channels.pop(channel.number, None)

    def own(self, queue: Queue) -> None:
        """It is exclusive, and goes with this connection."""
        queues = self.exclusive_queues
        queues[queue] = None
        if len(queues) > self._owned_max:  # those that went by themselves, as auto-delete queues do
            self.exclusive_queues = {queue: None for queue in queues if not queue.deleted}
            self._owned_max = 2 * len(self.exclusive_queues) + _OWNED_SLACK

    def _release_all(self) -> None:
        self.node.take_in()
        for channel in list(self.channels.values()):
            if not channel.closing:
                channel.release()
        self.channels.clear()
        for queue in list(self.exclusive_queues):
            self.node.topology.delete_queue(self.vhost, queue)
        self.exclusive_queues.clear()

    def lost(self, why: str) -> None:
        """The socket is no more."""
        if self._gone:
            return
        self._gone = True
        if why and self.codec.state is State.RUNNING:
            self._log_loss(why)
        self._cancel_deadline()
        self._stop_heartbeats()
        self.server.pump.remove(self._descriptor)
        self._socket.close()
        self._outbox.clear()
        self._delayed.clear()
        self._unsent = memoryview(b"")
        self._release_all()
        self.server.closed(self)

    def _log_loss(self, why: str) -> None:
        """Unacknowledged deliveries go to other consumers: that is no loss."""
        lost = ", ".join(self._losses())
        level = logging.WARNING if lost else logging.INFO
        what = f"{why}; lost: {lost}" if lost else why
        logger.log(level, "connection %s: closed without connection.close: %s", self.name, what)

    def _losses(self) -> Iterator[str]:
        """What goes with the socket, and nothing brings back."""
        if self.codec.cut_short:
            yield "a request that was not complete"
        if self._held or self._delayed:
            yield "requests that were not carried out"
        open_ones = [channel.transaction for channel in self.channels.values() if channel.transaction]
        publishes = sum(transaction.publish_count for transaction in open_ones)
        acks = sum(transaction.ack_count for transaction in open_ones)
        if publishes or acks:
            yield f"transactions with {publishes} messages and {acks} acknowledgements"
        if self._outbox_size and any(
            channel.delivered_no_ack or channel.got_no_ack for channel in self.channels.values()
        ):
            yield f"{self._outbox_size} unsent bytes, which may hold deliveries without acknowledgement"

    # ---- showing ----

    @property
    def state(self) -> str:
        return "blocked" if self._blocked else "flow" if self._slowed else self.codec.state.value

    def snapshot(self) -> ConnectionSnapshot:
        return ConnectionSnapshot(
            self.name,
            "AMQP 0-9-1",
            self.state,
            self.user.name if self.user is not None else "",
            self.vhost.name,
            self._here[0],
            self._here[1],
            self._peer[0],
            self._peer[1],
            self._connected_at_ms,
            self.client_properties,
            self._mechanism,
            self.frame_max,
            self.channel_max,
            self._heartbeat_s,
            self.received_octets,
            self.received_count,
            self.sent_octets,
            self.sent_count,
            self._outbox_size,
            [channel.snapshot() for channel in self.channels.values()],
        )


_CHANNEL_ZERO: Final[dict[type[methods.Method], Callable[[AmqpConnection, Any], None]]] = {
    methods.ConnectionStartOk: AmqpConnection._start_ok,
    methods.ConnectionTuneOk: AmqpConnection._tune_ok,
    methods.ConnectionOpen: AmqpConnection._open,
    methods.ConnectionUpdateSecret: AmqpConnection._update_secret,
    methods.ConnectionClose: AmqpConnection._closed_by_peer,
    methods.ConnectionCloseOk: AmqpConnection._close_ok,
}


def _is_of_closing(event: Event) -> bool:
    method = event.method if isinstance(event, MethodReceived) and not event.channel else None
    return isinstance(method, methods.ConnectionClose | methods.ConnectionCloseOk)


def _credentials(method: methods.ConnectionStartOk) -> tuple[str, str]:
    """Name and password. Raises ProtocolError for a mechanism or a response that we do not know."""
    response = method.response
    if method.mechanism == "PLAIN":
        parts = response.split(b"\0")
        if len(parts) == 3:
            return parts[1].decode(errors="replace"), parts[2].decode(errors="replace")
    elif method.mechanism == "AMQPLAIN":
        # A field table without its length.
        fields = wire.read_table(len(response).to_bytes(4) + response, 0)[0]
        name, password = fields.get("LOGIN"), fields.get("PASSWORD")
        if isinstance(name, str) and isinstance(password, str):
            return name, password
    else:
        raise ProtocolError(
            ReplyCode.COMMAND_INVALID,
            f"unknown authentication mechanism '{method.mechanism}'",
        )
    raise ProtocolError(
        ReplyCode.SYNTAX_ERROR,
        f"the response is not one of mechanism {method.mechanism}",
    )


def _check_tuned(what: str, value: int, lowest: int, highest: int) -> None:
    """Raises ProtocolError if the client chose what it was not offered."""
    if value and value < lowest:
        raise ProtocolError(
            ReplyCode.NOT_ALLOWED,
            f"negotiated {what} = {value} is lower than the minimum allowed value ({lowest})",
        )
    if highest and (value == 0 or value > highest):
        said = "0 (no limit)" if value == 0 else str(value)
        raise ProtocolError(
            ReplyCode.NOT_ALLOWED,
            f"negotiated {what} = {said} is higher than the maximum allowed value ({highest})",
        )
