"""One request to the API, with who asks and what the path names: what every resource works with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, TypeVar

from broker.management.auth import may
from broker.management.errors import bad_request, not_authorised, not_there
from broker.management.http import Refused, Request, refusal
from broker.management.routes import Needs
from broker.model.exchange import EXCHANGE
from broker.model.user import DEFAULT_EXCHANGE_SPOKEN, Right, User
from broker.model.vhost import Vhost
from broker.node.node import Node

if TYPE_CHECKING:
    from broker.management.api import Api
    from broker.management.schema import Body

NAME_SIZE_MAX: Final = 255
# Who comes by HTTP owns no exclusive queue.
NOBODY: Final = object()

_WHOLE: Final = re.compile(r"-?[0-9]{1,20}")
_DIGITS_MAX: Final = 40

B = TypeVar("B", bound="Body")


def whole(text: str) -> int | None:
    """A whole number, if it is one that a computer has."""
    return int(text) if _WHOLE.fullmatch(text) else None


class Call:
    """A request whose path and user are known."""

    def __init__(self, api: Api, request: Request, user: User | None, names: Mapping[str, str]) -> None:
        self.api = api
        self.request = request
        self._user = user
        self._names = names

    @property
    def node(self) -> Node:
        return self.api.node

    @property
    def user(self) -> User:
        """Who asks; not for routes that need nobody."""
        assert self._user is not None
        return self._user

    # ---- what is asked ----

    def name(self, key: str) -> str:
        """What stands in these braces of the path."""
        return self._names[key]

    def has(self, key: str) -> bool:
        return key in self._names

    def new_name(self, key: str) -> str:
        """The same for something that may be made. Raises Refused for what AMQP could not say."""
        name = self._names[key]
        size = len(name.encode())
        if size > NAME_SIZE_MAX:
            raise bad_request(f"the name of the {key} has {size} octets, at most {NAME_SIZE_MAX} are allowed")
        return name

    def exchange_name(self, key: str) -> str:
        """An exchange in the path; the default one has a name there."""
        name = self._names[key]
        return "" if name == DEFAULT_EXCHANGE_SPOKEN else name

    def flag(self, name: str) -> bool:
        """`?name=true`."""
        return self.request.query.get(name) == "true"

    def number(self, name: str, low: int, high: int) -> int | None:
        """`?name=12`, None if it is not there. Raises Refused for what is no whole number between these."""
        text = self.request.query.get(name)
        if text is None:
            return None
        found = whole(text)
        if found is None or not low <= found <= high:
            raise bad_request(
                f"{name}: expected a whole number from {low} to {high}, got '{text[:_DIGITS_MAX]}'"
            )
        return found

    def body(self, kind: type[B]) -> B:
        """Raises Refused for a body that is missing or wrong."""
        from broker.management.schema import parse

        if kind.needed() and not self.request.announces_body:
            raise Refused(refusal(411, f"a body with {', '.join(kind.needed())} is needed"))
        return parse(kind, self.request.body)

    # ---- rights ----

    def vhost(self, *, to_look: bool = False) -> Vhost:
        """The virtual host in the path. Raises Refused if it is not there or not for this user.

        `to_look` lets those in who monitor the broker.
        """
        vhost = self.node.topology.vhosts.get(self.name("vhost"))
        if vhost is None:
            if self.request.method in ("PUT", "POST"):
                raise Refused(refusal(404, "vhost_not_found", "not_found"))
            raise not_there()
        needs = Needs.MONITORING if to_look else Needs.ADMINISTRATOR
        if not may(self.user, needs) and vhost.name not in self.user.permissions:
            raise not_authorised("User not authorised to access virtual host")
        return vhost

    def vhosts(self) -> list[Vhost]:
        """Of a list: the one in the path, or all that the user may see."""
        if self.has("vhost"):
            return [self.vhost(to_look=True)]
        found = self.node.topology.vhosts.values()
        if may(self.user, Needs.MONITORING):
            return list(found)
        return [vhost for vhost in found if vhost.name in self.user.permissions]

    def check(self, right: Right, kind: str, name: str, vhost: Vhost) -> None:
        """As AMQP checks it. Raises AccessRefused."""
        self.user.check(right, kind, name, vhost.name)

    def check_ends(self, vhost: Vhost, source: str, kind: str, name: str) -> None:
        """Whoever binds or unbinds must write to the destination and read from the source."""
        self.check(Right.WRITE, kind, name, vhost)
        self.check(Right.READ, EXCHANGE, source, vhost)

    # ---- carrying out ----

    async def declared(self) -> None:
        """Wait until what was declared or deleted is durable: nobody is told before."""
        commit = self.node.flusher.unsafe_definitions
        self.node.end_pass()
        if commit is not None:
            await self.node.flusher.durable(commit)
