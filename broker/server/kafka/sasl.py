"""Logging in: SaslHandshake, SaslAuthenticate, and tokens without a header.

Flow:   a handshake chooses the mechanism; tokens follow, in SaslAuthenticate requests or, after a handshake in
        version 0, as frames of their own. A password is checked in a thread; nothing else is handled meanwhile.
        With SCRAM there are two tokens, and the exchange lives between them in the connection.
Spec:   KIP-43, KIP-84, KIP-152. A wrong login is answered after a moment with error 58, and
        the connection closed after another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from broker.kafka import api
from broker.kafka.api import Request
from broker.kafka.errors import ErrorCode
from broker.model.user import User
from broker.node.passwords import SCRAM_DIGESTS
from broker.server.kafka.reply import Reply
from broker.server.kafka.scram import ScramExchange, ScramRefused

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.handlers import Handler

logger = logging.getLogger("broker.server")

PLAIN: Final = "PLAIN"
MECHANISMS: Final = (PLAIN, *SCRAM_DIGESTS)
_REFUSED: Final = "authentication failed: no such user with this password, or not from here"


class _Refused(Exception):
    """A login is not right; the message is for the log."""


def sasl_handshake(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    wanted = request.body["mechanism"]
    if wanted not in MECHANISMS:
        reply.answer({"error_code": ErrorCode.UNSUPPORTED_SASL_MECHANISM, "mechanisms": list(MECHANISMS)})
        return
    connection.mechanism = wanted
    connection.scram = None
    connection.raw_login = request.version == 0
    reply.answer({"error_code": ErrorCode.NONE, "mechanisms": list(MECHANISMS)})


def sasl_authenticate(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    if not connection.mechanism:
        text = "a handshake must choose a mechanism first"
        reply.answer({"error_code": ErrorCode.ILLEGAL_SASL_STATE, "error_message": text})
        return

    def accept(token: bytes) -> None:
        reply.answer({"error_code": ErrorCode.NONE, "auth_bytes": token, "session_lifetime_ms": 0})

    def refuse() -> None:
        reply.answer({"error_code": ErrorCode.SASL_AUTHENTICATION_FAILED, "error_message": _REFUSED})

    connection.start(_authenticate, connection, bytes(request.body["auth_bytes"]), accept, refuse)


def raw_token(connection: KafkaConnection, token: bytes) -> None:
    """A frame that is a token; the answer is one, too, or the end."""

    def accept(answer: bytes) -> None:
        connection.raw_login = connection.scram is not None
        connection.send([len(answer).to_bytes(4, "big"), answer])

    connection.start(_authenticate, connection, token, accept, lambda: None)


async def _authenticate(
    connection: KafkaConnection,
    token: bytes,
    accept: Callable[[bytes], None],
    refuse: Callable[[], None],
) -> None:
    """One token: the user has logged in, there is another to come, or it is the end."""
    try:
        user, answer = await _checked(connection, token)
        if user is not None and not connection.may_be(user):
            raise _Refused(f"'{user.name}' may only come from this machine")
    except (_Refused, ScramRefused) as refused:
        await _slow_down(connection, str(refused))
        refuse()
        await _let_hear(connection)
        connection.close_soon()
        return
    if user is not None:
        connection.logged_in(user)
    accept(answer)


async def _checked(connection: KafkaConnection, token: bytes) -> tuple[User | None, bytes]:
    """The user if it was the last token, and what is answered. Raises _Refused or ScramRefused."""
    if connection.mechanism == PLAIN:
        return await _plain(connection, token), b""
    exchange = connection.scram
    if exchange is None:
        exchange = connection.scram = ScramExchange(connection.mechanism, connection.node.accounts.scram)
        return None, exchange.first(token)
    connection.scram = None
    return exchange.last(token)


async def _plain(connection: KafkaConnection, token: bytes) -> User:
    """`authorization id NUL user NUL password`; only oneself may be acted for. Raises _Refused."""
    parts = token.split(b"\0")
    if len(parts) != 3:
        raise _Refused("not a message of PLAIN")
    acts_for, name, password = (part.decode(errors="replace") for part in parts)
    user = await connection.node.accounts.login(name, password)
    if user is None:
        raise _Refused("no such user with this password")
    if acts_for not in ("", name):
        raise _Refused(f"'{name}' cannot act for another user")
    return user


async def _slow_down(connection: KafkaConnection, why: str) -> None:
    connection.node.metrics.kafka_logins_failed += 1
    logger.warning(
        "connection %s: a login with %s was refused: %s", connection.name, connection.mechanism, why
    )
    await trio.sleep(connection.server.options.refused_delay_s)


async def _let_hear(connection: KafkaConnection) -> None:
    """Some clients do not look at what has come together with the end, and so would never know why."""
    connection.node.end_pass()
    await trio.sleep(connection.server.options.refused_delay_s)


HANDLERS: Final[dict[int, Handler]] = {
    api.SASL_HANDSHAKE.key: sasl_handshake,
    api.SASL_AUTHENTICATE.key: sasl_authenticate,
}
