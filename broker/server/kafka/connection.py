"""One Kafka client: its socket, its requests in their order, and what waits to be sent.

Flow:   the pump says readable: requests are read and handled at once; a handler answers now or later. Answers
        are collected in the order of the requests and sent at the end of the pass with one call.
Limits: a frame has at most `request_size_max` octets, less before the login, and is not read while others' take too much
        memory (`request_room.py`). `_PENDING_MAX` requests may be unanswered, and nothing more is handled while `_OUTBOX_HIGH` octets wait to be sent, while a login is
        checked, or while the disk does not keep up or is full and the request is one to produce. When its share of
        a pass is over, it goes on in a later pass.
Spec:   Kafka answers the requests of a connection one after another; here a later one may be handled before an
        earlier one has its answer, but never answered before it.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, Final

from broker.kafka import api
from broker.kafka.api import Request
from broker.kafka.errors import RemoteProtocolError, UnsupportedVersion
from broker.model.user import Right, User
from broker.node.peers import ConnectionSnapshot
from broker.node.scheduler import Timer
from broker.server.kafka import sasl, versions
from broker.server.kafka.inbox import SMALL_SIZE, Inbox
from broker.server.kafka.outbox import Outbox, Part
from broker.server.kafka.reply import Reply
from broker.server.kafka.request_room import Share
from broker.storage.errors import StorageError

if TYPE_CHECKING:
    from broker.server.kafka.fetch import FetchSession
    from broker.server.kafka.scram import ScramExchange
    from broker.server.kafka.server import KafkaServer

logger = logging.getLogger("broker.server")

_RECEIVE_SIZE_MIN: Final = 4 * 1024
_RECEIVE_SIZE_MAX: Final = 1024 * 1024
_OUTBOX_HIGH: Final = 1024 * 1024
_PENDING_MAX: Final = 64


class KafkaConnection:
    """A client."""

    __slots__ = (
        "_connected_at_ms",
        "_deadline",
        "_descriptor",
        "_ending",
        "_handled_size",
        "_held",
        "_held_size",
        "_here",
        "_inbox",
        "_outbox",
        "_over",
        "_peer",
        "_reading",
        "_receive_size",
        "_replies",
        "_socket",
        "_writing",
        "client_id",
        "gone",
        "heard_ms",
        "mechanism",
        "name",
        "node",
        "raw_login",
        "received_count",
        "received_octets",
        "sent_count",
        "sent_octets",
        "scram",
        "server",
        "session",
        "software",
        "user",
    )

    def __init__(
        self, server: KafkaServer, sock: socket.socket, peer: tuple[str, int], here: tuple[str, int]
    ) -> None:
        self.server = server
        self.node = server.node
        self.name = f"{peer[0]}:{peer[1]} -> {here[0]}:{here[1]}"
        self.client_id = ""
        self.software = ("", "")
        self.mechanism = ""
        """Chosen by a handshake, "" before."""
        self.raw_login = False
        """What comes next is a token without a header, as after a handshake in version 0."""
        self.scram: ScramExchange | None = None
        """The exchange of messages that a login with SCRAM has begun."""
        self.session: FetchSession | None = None
        self.gone = False
        self._socket = sock
        self._descriptor = sock.fileno()
        self._peer, self._here = peer, here
        self._connected_at_ms = self.heard_ms = self.node.clock.now_ms()
        self.user: User | None = self._anonymous()
        options = server.options
        size_max = options.request_size_max if self.user else options.login_size_max
        self._inbox = Inbox(server.request_room, size_max, partial(self.guard, self._update_watch))
        self._replies: deque[Reply] = deque()
        self._deadline: Timer | None = None
        if self.user is None:
            wait_ms = int(options.login_timeout_s * 1000)
            self._deadline = self.node.scheduler.after(wait_ms, partial(self.guard, self._login_timed_out))
        # For how many reasons nothing more is handled, and octets of the requests that are kept for some of them.
        self._held = self._held_size = 0
        self._handled_size = 0
        self._outbox = Outbox()
        self._receive_size = _RECEIVE_SIZE_MIN
        self._reading = True
        self._writing = self._ending = False
        self._over = False
        self.received_octets = self.received_count = self.sent_octets = self.sent_count = 0

    # ---- who it is ----

    def _anonymous(self) -> User | None:
        name = self.server.options.anonymous_user
        user = self.node.accounts.users.get(name) if name else None
        return user if user is not None and self.may_be(user) else None

    def may_be(self, user: User) -> bool:
        """Some users may only come from this machine."""
        return user.name not in self.server.options.loopback_users or self._from_loopback

    @property
    def _from_loopback(self) -> bool:
        address = ip_address(self._peer[0].partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return address.is_loopback

    def _login_timed_out(self) -> None:
        logger.warning("connection %s: no login came in time", self.name)
        self.lost()

    def logged_in(self, user: User) -> None:
        self.user = user
        if self._deadline is not None and not self._over:  # then it is that of the end
            self._deadline.cancel()
            self._deadline = None
        self._inbox.frame_size_max = self.server.options.request_size_max
        self.node.metrics.kafka_logins += 1
        logger.info("connection %s: user '%s' logged in with %s", self.name, user.name, self.mechanism)

    def allows(self, right: Right, name: str) -> bool:
        """Whether the user may do this with a topic or a group of this name."""
        user = self.user
        permission = user.permissions.get(self.server.options.vhost) if user is not None else None
        return permission is not None and permission.allows(right, name)

    @property
    def address(self) -> tuple[str, int]:
        """Where the client reaches us."""
        return self._here

    @property
    def peer_host(self) -> str:
        return self._peer[0]

    # ---- what the pump calls ----

    def fileno(self) -> int:
        return self._descriptor

    def readable(self) -> None:
        if not self._reading:
            return
        try:
            data = self._socket.recv(self._read_size())
        except BlockingIOError:
            return
        except OSError:
            self.lost()
            return
        if not data:
            self.lost()
            return
        size = len(data)
        if size == self._receive_size:
            self._receive_size = min(4 * size, _RECEIVE_SIZE_MAX)
        elif size * 64 < self._receive_size:
            self._receive_size = max(self._receive_size // 4, _RECEIVE_SIZE_MIN)
        self.received_octets += size
        self.heard_ms = self.node.clock.now_ms()
        try:
            self._inbox.receive(data)
        except RemoteProtocolError as error:
            self.refuse(str(error))
            return
        self.handle_frames()

    def _read_size(self) -> int:
        """Little of what is not counted, when there is little room."""
        counts = self._inbox.counts_what_comes or not self.server.request_room.full(Share.PRODUCERS)
        return self._receive_size if counts else _RECEIVE_SIZE_MIN

    def hung_up(self) -> None:
        if self._reading:
            self.readable()
        elif not self._can_go_on:  # a client that expects no answers may close behind its requests
            self.lost()

    def writable(self) -> None:
        self._send()
        if self._over and not self.busy:
            self.lost()
        self.handle_frames()

    def resume(self) -> None:
        self.handle_frames()

    def failed(self, error: Exception) -> None:
        """A bug of ours: this connection ends, the others live. A failure of the disk is raised again."""
        if isinstance(error, StorageError):
            raise error
        logger.error("connection %s: closed after an error of ours", self.name, exc_info=error)
        self.lost()

    def guard(self, call: Callable[[], None]) -> None:
        """Call it for somebody to whom a bug in it is nothing."""
        try:
            call()
        except Exception as error:
            self.failed(error)

    def guarded(self, call: Callable[[Any], None], argument: Any) -> None:
        """As `guard`, with what somebody else found out."""
        self.guard(partial(call, argument))

    # ---- requests ----

    @property
    def _waits(self) -> bool:
        return (
            self._held > 0
            or self._over
            or len(self._replies) >= _PENDING_MAX
            or self._outbox.size > _OUTBOX_HIGH
        )

    @property
    def _can_go_on(self) -> bool:
        """Requests are there that only wait for a later pass."""
        return bool(self._inbox) and not self._waits

    def handle_frames(self) -> None:
        """What came, as far as there is room for more requests and time in this pass."""
        while not self.gone and not self._waits and (frame := self._take()) is not None:
            self._handle(frame)
            if time.perf_counter() > self.server.pump.share_ends:
                break
        if not self.gone:
            self._update_watch()

    def _take(self) -> bytes | None:
        try:
            return self._inbox.take()
        except RemoteProtocolError as error:
            self.refuse(str(error))
            return None

    def _handle(self, frame: bytes) -> None:
        self.received_count += 1
        self._handled_size = len(frame)
        if self.raw_login:
            sasl.raw_token(self, frame)
            return
        try:
            request = api.read_request(frame)
        except UnsupportedVersion as error:
            self._answer_unsupported(error)
            return
        except RemoteProtocolError as error:
            self.refuse(str(error))
            return
        handler = self.server.handlers.get(request.api.key)
        if handler is None:
            self.refuse(f"{request.api.name} is not served")
            return
        if self.user is None and request.api.key not in versions.BEFORE_LOGIN:
            self.refuse(f"{request.api.name} before a login")
            return
        self.client_id = request.client_id or ""
        reply = Reply(self, request)
        self._replies.append(reply)
        handler(self, request, reply)

    def _answer_unsupported(self, error: UnsupportedVersion) -> None:
        if error.key != api.API_VERSIONS.key:
            self.refuse(str(error))
            return
        request = Request(api.API_VERSIONS, 0, error.correlation_id, None, {})
        reply = Reply(self, request)
        self._replies.append(reply)
        reply.answer(versions.unsupported(self.server.handlers))

    def refuse(self, why: str) -> None:
        """It does not keep to the protocol: what was answered is sent, and then it ends."""
        logger.warning("connection %s (%s): closed: %s", self.name, self.client_id or "no client id", why)
        self.close_soon()

    def close_soon(self) -> None:
        """When what was done is safe, answered and sent. Whoever waits for something else than the disk is let go.

        A client that does not read its answers is closed a while later all the same.
        """
        if self._deadline is None:
            wait_ms = int(self.server.options.close_timeout_s * 1000)
            self._deadline = self.node.scheduler.after(wait_ms, partial(self.guard, self.lost))
        self._over = True
        self._inbox.clear()
        replies = self._replies
        kept = next((at for at, reply in enumerate(replies) if reply.when_gone is not None), len(replies))
        while len(replies) > kept:
            self.guard(replies.pop().drop)
        self.server.flush_soon(self)

    def close_by_operator(self, reason: str) -> None:
        logger.info("connection %s: closed: %s", self.name, reason)
        self.close_soon()

    def hold(self, *, with_request: bool = False) -> Callable[[], None]:
        """Handle nothing more until what this returns is called; the request that is being handled may be kept till then."""
        size = self._handled_size if with_request else 0
        self._held += 1
        self._held_size += size
        self._update_watch()
        released = False

        def release() -> None:
            nonlocal released
            if not released:
                released = True
                self._held -= 1
                self._held_size -= size
                if not self.gone:
                    self.handle_frames()

        return partial(self.guard, release)

    def hold_if_large(self) -> Callable[[], None] | None:
        """So that what is kept of many large requests is not more than what is counted."""
        return self.hold(with_request=True) if self._handled_size > SMALL_SIZE else None

    def start(self, call: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """What must wait, in a task; the connection handles nothing more until that is over."""
        release = self.hold()

        async def run() -> None:
            try:
                await call(*arguments)
            except Exception as error:
                self.failed(error)
            release()
            self.node.end_pass()

        self.server.start_soon(run)

    # ---- answers ----

    def answered(self) -> None:
        """A reply is ready: it goes out when those before it are."""
        replies = self._replies
        while replies and replies[0].done:
            parts = replies.popleft().take()
            if parts:
                self.sent_count += 1
                self.send(parts)
        if self._inbox or self._over:
            self.server.flush_soon(self)

    def send(self, parts: list[Part]) -> None:
        self._outbox.add(parts)
        self.server.flush_soon(self)

    def flush(self) -> None:
        """Send what was collected, as far as the system takes it."""
        if self.gone:
            return
        if self._outbox.size and not self._send():
            return
        if self._over and not self.busy:
            self.lost()
            return
        self._update_watch()

    def _send(self) -> bool:
        """Whether there is still somebody to send to."""
        try:
            self.sent_octets += self._outbox.send(self._socket)
        except OSError:
            self.lost()
        return not self.gone

    def _update_watch(self) -> None:
        if self.gone:
            return
        writing = self._outbox.size > 0
        # Frames that wait are enough: more is read when they are handled.
        may_come = self._over or self._inbox.settle(self._held_size, stranger=self.user is None)
        reading = may_come and not self._waits and not self._inbox
        goes_on = self._can_go_on
        if goes_on:
            self.server.pump.defer(self)
        ending = not (reading or writing or goes_on)
        if (reading, writing, ending) != (self._reading, self._writing, self._ending):
            self._reading, self._writing, self._ending = reading, writing, ending
            self.server.pump.watch(self, reading=reading, writing=writing, ending=ending)

    # ---- the end ----

    @property
    def busy(self) -> bool:
        """Somebody is still to be answered."""
        return bool(self._replies or self._outbox.size or self._inbox.waits)

    def lost(self) -> None:
        """The socket is no more."""
        if self.gone:
            return
        self.gone = True
        if self._deadline is not None:
            self._deadline.cancel()
        self.server.pump.remove(self._descriptor)
        self._socket.close()
        self._outbox.clear()
        self._inbox.clear()
        replies, self._replies = self._replies, deque()
        for reply in replies:
            self.guard(reply.drop)
        self.server.closed(self)

    def snapshot(self) -> ConnectionSnapshot:
        return ConnectionSnapshot(
            self.name,
            "Kafka",
            "running" if self.user is not None else "starting",
            self.user.name if self.user is not None else "",
            self.server.options.vhost,
            self._here[0],
            self._here[1],
            self._peer[0],
            self._peer[1],
            self._connected_at_ms,
            {"client_id": self.client_id, "product": self.software[0], "version": self.software[1]},
            self.mechanism,
            0,
            0,
            0,
            self.received_octets,
            self.received_count,
            self.sent_octets,
            self.sent_count,
            self._outbox.size,
            [],
        )
