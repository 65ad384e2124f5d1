"""Logging in: which mechanism, and what it says.

Flow:   the strongest mechanism that we know is asked for; a broker that has not got it names those that it has,
        and the strongest of them is asked for on the next connection, and on all others.
Limits: a password is salted once for each salt of a broker, in a thread.
Spec:   SaslHandshake (17), SaslAuthenticate (36): KIP-43, KIP-84, KIP-152; PLAIN is RFC 4616.
Why:    On another connection, as Kafka closes one on which it was asked for what it has not got. Whoever has
        shown once that he knows the password is not told it later: PLAIN is not fallen back to then.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Final

import anyio

from broker.kafka import api
from broker.kafka.errors import ErrorCode
from leveret.errors import AuthenticationFailed, ConnectionClosed, ConnectionFailed
from leveret.log import scram
from leveret.log.connection import Connection
from leveret.log.errors import name_of
from leveret.log.scram import Salting, Scram, ScramProblem
from leveret.log.url import MECHANISMS, PLAIN, URL

_SHOWN_MAX: Final = 300


class OtherMechanism(AuthenticationFailed):
    """The broker has not got this one; the next connection asks for one that it has."""


class Login:
    """That of a log, for all its connections."""

    def __init__(self, url: URL) -> None:
        self._url = url
        self._mechanism = url.mechanism or MECHANISMS[0]
        self._proven = False
        """A broker has shown that it knows the password."""
        self._salted: tuple[Salting, bytes] | None = None

    async def log_in(self, connection: Connection) -> None:
        """Raises AuthenticationFailed; ConnectionFailed if the broker hangs up."""
        mechanism = self._mechanism
        try:
            offered = await self._ask_for(connection, mechanism)
            if mechanism == PLAIN:
                token = f"\0{self._url.user}\0{self._url.password}".encode()
                await self._send(connection, mechanism, token, offered)
            else:
                await self._challenge(connection, mechanism, offered)
        except ConnectionClosed as error:
            # A broker that goes down does this, too: who is refused is told so.
            raise ConnectionFailed(f"{error}, while {self._url.user!r} logged in") from error

    async def _ask_for(self, connection: Connection, mechanism: str) -> list[str]:
        """What the broker has. Raises OtherMechanism if that is something else, AuthenticationFailed."""
        body = {"mechanism": mechanism}
        chosen = await connection.request(api.SASL_HANDSHAKE, body, self._url.connection_s, version=1)
        offered: list[str] = chosen["mechanisms"]
        if not chosen["error_code"]:
            return offered
        names = ", ".join(offered)[:_SHOWN_MAX] or "none"
        if self._url.mechanism:
            text = f"{connection.address}: {mechanism} is not among the broker's mechanisms ({names})"
            raise AuthenticationFailed(text)
        known = [one for one in self._trusted() if one in offered]
        if chosen["error_code"] != ErrorCode.UNSUPPORTED_SASL_MECHANISM or not known or mechanism in known:
            text = f"of the broker's mechanisms ({names}) we take {' and '.join(self._trusted())}"
            raise AuthenticationFailed(f"{connection.address}: {text}: {name_of(chosen['error_code'])}")
        self._mechanism = known[0]
        raise OtherMechanism(f"{connection.address}: the broker has {names}, and not {mechanism}")

    def _trusted(self) -> Collection[str]:
        return tuple(scram.DIGESTS) if self._proven else MECHANISMS

    async def _challenge(self, connection: Connection, mechanism: str, offered: list[str]) -> None:
        exchange = Scram(mechanism, self._url.user)
        try:
            challenge = await self._send(connection, mechanism, exchange.first(), offered)
            password = await self._salt(exchange.challenged(challenge))
            exchange.check(await self._send(connection, mechanism, exchange.last(password), offered))
        except ScramProblem as problem:
            raise self._refused(connection, mechanism, str(problem), offered) from None
        self._proven = True

    async def _salt(self, salting: Salting) -> bytes:
        if self._salted is None or self._salted[0] != salting:
            work = partial(scram.salted, self._url.password, salting)
            self._salted = salting, await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
        return self._salted[1]

    async def _send(self, connection: Connection, mechanism: str, token: bytes, offered: list[str]) -> bytes:
        answer = await connection.request(
            api.SASL_AUTHENTICATE, {"auth_bytes": token}, self._url.connection_s
        )
        if answer["error_code"]:
            said = answer["error_message"] or name_of(answer["error_code"])
            raise self._refused(connection, mechanism, said, offered)
        return bytes(answer["auth_bytes"])

    def _refused(
        self, connection: Connection, mechanism: str, said: str, offered: list[str]
    ) -> AuthenticationFailed:
        text = f"{connection.address}: {self._url.user!r} was refused with {mechanism}: {said}"
        if not self._url.mechanism and mechanism != PLAIN and PLAIN in offered:
            text += "; a broker that has only a hash of the password wants mechanism=PLAIN in the URL"
        return AuthenticationFailed(text)
