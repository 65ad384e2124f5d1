"""Logging in: SaslHandshake, SaslAuthenticate, and tokens without a header.

Flow:   a handshake chooses the mechanism; tokens follow, in SaslAuthenticate requests or, after a handshake in
        version 0, as frames of their own. A password is checked in a thread; nothing else is handled meanwhile.
Spec:   KIP-43, KIP-152. A wrong login is answered after a moment with error 58, and the connection closed.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from broker.kafka import api
from broker.kafka.api import Request
from broker.kafka.errors import ErrorCode
from broker.model.user import User
from broker.server.kafka.reply import Reply

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.handlers import Handler

logger = logging.getLogger("broker.server")

PLAIN: Final = "PLAIN"
MECHANISMS: Final = (PLAIN,)
_REFUSED: Final = "authentication failed: no such user with this password, or not from here"


def sasl_handshake(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    wanted = request.body["mechanism"]
    if wanted not in MECHANISMS:
        reply.answer({"error_code": ErrorCode.UNSUPPORTED_SASL_MECHANISM, "mechanisms": list(MECHANISMS)})
        return
    connection.mechanism = wanted
    connection.raw_login = request.version == 0
    reply.answer({"error_code": ErrorCode.NONE, "mechanisms": list(MECHANISMS)})


def sasl_authenticate(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    if not connection.mechanism:
        text = "a handshake must choose a mechanism first"
        reply.answer({"error_code": ErrorCode.ILLEGAL_SASL_STATE, "error_message": text})
        return
    connection.start(_authenticate, connection, reply, bytes(request.body["auth_bytes"]))


async def _authenticate(connection: KafkaConnection, reply: Reply, token: bytes) -> None:
    user = await _plain(connection, token)
    if user is None:
        await _refuse(connection)
        reply.answer({"error_code": ErrorCode.SASL_AUTHENTICATION_FAILED, "error_message": _REFUSED})
        connection.close_soon()
        return
    connection.logged_in(user)
    reply.answer({"error_code": ErrorCode.NONE, "auth_bytes": b"", "session_lifetime_ms": 0})


def raw_token(connection: KafkaConnection, token: bytes) -> None:
    """A frame that is a token; the answer is one, too, or the end."""
    connection.start(_authenticate_raw, connection, token)


async def _authenticate_raw(connection: KafkaConnection, token: bytes) -> None:
    user = await _plain(connection, token)
    if user is None:
        await _refuse(connection)
        connection.close_soon()
        return
    connection.raw_login = False
    connection.logged_in(user)
    connection.send([bytes(4)])  # an empty token


async def _plain(connection: KafkaConnection, token: bytes) -> User | None:
    """`authorization id NUL user NUL password`; only oneself may be acted for."""
    parts = token.split(b"\0")
    if len(parts) != 3:
        return None
    acts_for, name, password = (part.decode(errors="replace") for part in parts)
    user = await connection.node.accounts.login(name, password)
    if user is None or acts_for not in ("", name) or not connection.may_be(user):
        return None
    return user


async def _refuse(connection: KafkaConnection) -> None:
    connection.node.metrics.kafka_logins_failed += 1
    logger.warning("connection %s: a login with %s was refused", connection.name, connection.mechanism)
    await trio.sleep(connection.server.options.refused_delay_s)


HANDLERS: Final[dict[int, Handler]] = {
    api.SASL_HANDSHAKE.key: sasl_handshake,
    api.SASL_AUTHENTICATE.key: sasl_authenticate,
}
