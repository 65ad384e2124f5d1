"""One AMQP connection without I/O: which method may come or go when, for both ends.

Flow:   whoever owns the socket gives `receive` the octets and takes events; what it sends goes through
        `send`, which returns octets. Nothing here waits or writes.
Limits: 8 octets of protocol header, then those of `broker.amqp.frames`.
Spec:   AMQP 0-9-1 section 2.2.4 and 4.2.2; the texts are RabbitMQ's.

        server                                     client
        HEADER   --protocol header, start-->       START    <-start, start-ok->
        START_OK <-start-ok, secure or tune->      TUNE     <-tune, tune-ok and open->
        TUNE_OK  <-tune-ok                         OPEN_OK  <-open-ok
        OPEN     <-open, open-ok->                 RUNNING
        RUNNING
                    close sent -> CLOSING -> close-ok comes -> CLOSED
                    close came -> ANSWER_CLOSE -> close-ok sent -> CLOSED
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, TypeAlias

from broker.amqp import deliveries, frames, methods
from broker.amqp.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from broker.amqp.frames import MethodReceived, ProtocolFailed
from broker.amqp.methods import Method
from broker.amqp.spec import PROTOCOL_HEADER, ReplyCode

# RabbitMQ takes this header, of AMQP 0-9 as some old clients write it, for the one above.
_OLD_HEADER = b"AMQP\x01\x01\x00\x09"


class Role(Enum):
    """Which end of the connection we are."""

    SERVER = "server"
    CLIENT = "client"


class State(Enum):
    """What the connection waits for; the value is the word in error texts, RabbitMQ's for a server."""

    HEADER = "handshake"
    START_OK = "starting"
    SECURE_OK = "securing"
    TUNE_OK = "tuning"
    OPEN = "opening"
    START = "awaiting start"
    TUNE = "awaiting tune"
    OPEN_OK = "awaiting open-ok"
    RUNNING = "running"
    CLOSING = "closing"
    ANSWER_CLOSE = "answering close"
    CLOSED = "closed"


Moves: TypeAlias = dict[type[Method], State]

# What may come in a state, and where it leads.
RECEIVED: dict[Role, dict[State, Moves]] = {
    Role.SERVER: {
        State.START_OK: {methods.ConnectionStartOk: State.START_OK},
        State.SECURE_OK: {methods.ConnectionSecureOk: State.START_OK},
        State.TUNE_OK: {methods.ConnectionTuneOk: State.OPEN},
        State.OPEN: {methods.ConnectionOpen: State.OPEN},
        State.RUNNING: {methods.ConnectionUpdateSecret: State.RUNNING},
    },
    Role.CLIENT: {
        State.START: {methods.ConnectionStart: State.START},
        State.TUNE: {
            methods.ConnectionTune: State.TUNE,
            methods.ConnectionSecure: State.TUNE,
        },
        State.OPEN_OK: {methods.ConnectionOpenOk: State.RUNNING},
        State.RUNNING: {
            methods.ConnectionBlocked: State.RUNNING,
            methods.ConnectionUnblocked: State.RUNNING,
            methods.ConnectionUpdateSecretOk: State.RUNNING,
        },
    },
}

# What we may send in a state, and where it leads.
SENT: dict[Role, dict[State, Moves]] = {
    Role.SERVER: {
        State.HEADER: {methods.ConnectionStart: State.START_OK},
        State.START_OK: {
            methods.ConnectionSecure: State.SECURE_OK,
            methods.ConnectionTune: State.TUNE_OK,
        },
        State.OPEN: {methods.ConnectionOpenOk: State.RUNNING},
        State.RUNNING: {
            methods.ConnectionBlocked: State.RUNNING,
            methods.ConnectionUnblocked: State.RUNNING,
            methods.ConnectionUpdateSecretOk: State.RUNNING,
        },
    },
    Role.CLIENT: {
        State.START: {methods.ConnectionStartOk: State.TUNE},
        State.TUNE: {
            methods.ConnectionSecureOk: State.TUNE,
            methods.ConnectionTuneOk: State.TUNE,
            methods.ConnectionOpen: State.OPEN_OK,
        },
        State.RUNNING: {methods.ConnectionUpdateSecret: State.RUNNING},
    },
}

# What a server answers before anything behind it can have a meaning.
_ANSWERED = (methods.ConnectionStartOk, methods.ConnectionSecureOk, methods.ConnectionOpen)
_CLOSE_OK = methods.encode(0, methods.ConnectionCloseOk())
_ENDING = (State.CLOSING, State.ANSWER_CLOSE, State.CLOSED)


@dataclass(slots=True, eq=False)
class HeaderReceived:
    """The peer speaks AMQP 0-9-1; the server sends `connection.start` now."""

    channel: ClassVar = 0


@dataclass(slots=True, eq=False)
class HeaderRefused:
    """The peer speaks something else: it is answered with our protocol header and closed."""

    channel: ClassVar = 0
    octets: bytes


Event: TypeAlias = frames.Event | HeaderReceived | HeaderRefused


class Connection:
    """One end of an AMQP connection."""

    def __init__(self, role: Role, message_size_max: int) -> None:
        self.role = role
        self.state = State.HEADER if role is Role.SERVER else State.START
        reader = frames.FrameReader if role is Role.SERVER else deliveries.DeliveryReader
        self._reader = reader(message_size_max)
        self._header = b""
        self._later: list[Event] = []
        self._last_octets = b""

    @property
    def frame_max(self) -> int:
        """The largest frame, overhead included, that either side may send."""
        return self._reader.frame_max

    @frame_max.setter
    def frame_max(self, octets: int) -> None:
        self._reader.frame_max = octets

    def receive(self, data: bytes, runs_max: int = sys.maxsize) -> list[Event]:
        """What the peer's octets mean, in their order, as far as the reader comes with `runs_max`.

        The last event is ProtocolFailed when a rule was broken. Once closing, nothing but the end of
        the closing comes through. During the handshake nothing comes behind what a server must answer.
        If there is `more`, then another call gives it, when the answer was sent.
        """
        if self._reader.failed and not self._later:
            return self._look_for_close_ok(data)
        if self.state is State.RUNNING and not self._later:
            events: list[Event] = self._reader.read(data, runs_max)  # type: ignore[assignment]
            for index, event in enumerate(events):
                if type(event) is MethodReceived and event.channel == 0:
                    return self._judge(events, index)
            return events
        if self.state is State.CLOSED:
            return []
        if self.state is State.HEADER and len(self._header) < len(PROTOCOL_HEADER):
            return self._receive_header(data, runs_max)
        later, self._later = self._later, []
        return self._judge_early([*later, *self._reader.read(data, runs_max)])

    @property
    def cut_short(self) -> bool:
        """What has come ends within a frame or a message."""
        return self._reader.cut_short

    @property
    def kept(self) -> int:
        """Octets that wait for the rest of their frame or message."""
        return self._reader.kept

    def give_up(self) -> None:
        """Drop what is unfinished, and read nothing any more but a close-ok."""
        self._reader.give_up()
        self._later = []

    @property
    def more(self) -> bool:
        """Something came together with what was to be answered first, or was more than `runs_max`."""
        return bool(self._later) or self._reader.more

    def _look_for_close_ok(self, data: bytes) -> list[Event]:
        """Of a stream that cannot be read any more, one thing still counts: a close-ok at its end."""
        self._last_octets = (self._last_octets + data[-len(_CLOSE_OK) :])[-len(_CLOSE_OK) :]
        if self.state is not State.CLOSING or self._last_octets != _CLOSE_OK:
            return []
        self.state = State.CLOSED
        return [MethodReceived(0, methods.ConnectionCloseOk())]

    def _receive_header(self, data: bytes, runs_max: int) -> list[Event]:
        missing = len(PROTOCOL_HEADER) - len(self._header)
        self._header += data[:missing]
        known = (PROTOCOL_HEADER, _OLD_HEADER)
        if not any(header.startswith(self._header) for header in known):
            self.state = State.CLOSED
            return [HeaderRefused(self._header)]
        if self._header not in known:
            return []
        self._later += self._reader.read(data[missing:], runs_max)
        return [HeaderReceived()]

    def _judge_early(self, events: list[Event]) -> list[Event]:
        """While the connection is not open: each event when those before it have been answered."""
        for index, event in enumerate(events):
            if isinstance(event, MethodReceived) and isinstance(event.method, _ANSWERED):
                self._later = events[index + 1 :]
                return self._judge(events[: index + 1], 0)
        kept = self._judge(events, 0)
        refused = bool(kept) and isinstance(kept[-1], ProtocolFailed)
        if self._reader.unfinished and not refused and self.state not in (State.RUNNING, *_ENDING):
            # Nobody may have us keep parts of messages yet.
            text = f"unexpected method in connection state {self.state.value}"
            kept.append(ProtocolFailed(RemoteProtocolError(ReplyCode.CHANNEL_ERROR, text)))
        return kept

    def _judge(self, events: list[Event], start: int) -> list[Event]:
        """Keep of `events`, from `start` on, what the state lets through."""
        kept = events[:start]
        for event in events[start:]:
            try:
                if self._let_through(event):
                    kept.append(event)
            except ProtocolError as error:
                kept.append(ProtocolFailed(error))
                break
        return kept

    def _let_through(self, event: Event) -> bool:
        if isinstance(event, ProtocolFailed):
            return self.state not in _ENDING
        method = event.method if isinstance(event, MethodReceived) and event.channel == 0 else None
        if isinstance(method, methods.ConnectionClose):
            if self.state is State.CLOSED:
                return False
            # Both sides may close at once; each answers the other.
            self.state = State.ANSWER_CLOSE
            return True
        if isinstance(method, methods.ConnectionCloseOk) and self.state is State.CLOSING:
            self.state = State.CLOSED
            return True
        if self.state in _ENDING:
            return False
        if method is None:
            if self.state is not State.RUNNING:
                raise RemoteProtocolError(
                    ReplyCode.CHANNEL_ERROR,
                    f"unexpected method in connection state {self.state.value}",
                )
            return True
        moves = RECEIVED[self.role].get(self.state, {})
        if type(method) not in moves:
            raise RemoteProtocolError(
                ReplyCode.CHANNEL_ERROR,
                f"unexpected method in connection state {self.state.value}",
                *method.id,
            )
        self.state = moves[type(method)]
        return True

    def send(self, method: Method) -> bytes:
        """The octets of a method on channel 0.

        Raises LocalProtocolError when this method cannot be sent now.
        """
        if isinstance(method, methods.ConnectionClose) and self.state is not State.CLOSED:
            self.state = State.CLOSING
        elif isinstance(method, methods.ConnectionCloseOk) and self.state is State.ANSWER_CLOSE:
            self.state = State.CLOSED
        else:
            moves = SENT[self.role].get(self.state, {})
            if type(method) not in moves:
                raise LocalProtocolError(
                    ReplyCode.CHANNEL_ERROR,
                    f"{method.name} cannot be sent while {self.state.value}",
                )
            self.state = moves[type(method)]
        return methods.encode(0, method)
