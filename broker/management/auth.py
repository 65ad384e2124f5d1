"""Who asks: HTTP Basic against the node's users.

Limits: eight logins at a time, so that clients of AMQP do not wait behind all that come by HTTP.
Spec:   RFC 7617; RabbitMQ's words, and 401 for whoever may not, too.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping
from typing import Final

import trio

from broker.management.errors import not_authorised
from broker.management.http import Refused, Request, Response, refusal
from broker.management.routes import TAGS, Needs
from broker.model.user import User
from broker.node.accounts import Accounts

logger = logging.getLogger("broker.management")

CHALLENGE: Final = (("www-authenticate", 'Basic realm="RabbitMQ Management"'),)
_LOOPBACK: Final = ("127.", "::1", "::ffff:127.")
_WAITING_MAX: Final = 8


class Logins:
    """Logs users in, and counts who tried."""

    def __init__(self, accounts: Accounts, loopback_users: frozenset[str]) -> None:
        self.succeeded = 0
        self.failed = 0
        self._accounts = accounts
        self._loopback_users = loopback_users
        self._waiting = trio.CapacityLimiter(_WAITING_MAX)

    async def user_of(self, request: Request, needs: Needs) -> User:
        """Who asks, being what is needed. Raises Refused."""
        credentials = _credentials(request.headers)
        if credentials is None:
            raise Refused(Response(401, CHALLENGE))
        try:
            user = await self._log_in(request, *credentials)
            if not may(user, Needs.MANAGEMENT):
                raise not_authorised(Needs.MANAGEMENT.value)
            if not may(user, needs):
                raise not_authorised(needs.value)
        except Refused:
            self.failed += 1
            raise
        self.succeeded += 1
        return user

    async def _log_in(self, request: Request, name: str, password: str) -> User:
        async with self._waiting:
            user = await self._accounts.login(name, password)
        if user is None:
            logger.warning("http %s: login of user '%s' refused", request.peer, name)
            raise Refused(refusal(401, "Not_Authorized", "not_authorized", CHALLENGE))
        if name in self._loopback_users and not request.peer.startswith(_LOOPBACK):
            logger.warning("http %s: user '%s' can only log in from this machine", request.peer, name)
            raise not_authorised("User can only log in via localhost")
        return user


def may(user: User, needs: Needs) -> bool:
    """Whether one of the user's tags is enough."""
    return not TAGS[needs].isdisjoint(user.tags)


def _credentials(headers: Mapping[str, str]) -> tuple[str, str] | None:
    """Name and password, or None where there is nothing that can be read as such."""
    scheme, _, encoded = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except ValueError:
        return None
    return (name, password) if colon else None
