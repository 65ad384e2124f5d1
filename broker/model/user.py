"""Users, and what each may do in a virtual host.

Spec:   RabbitMQ's access control: three regular expressions a user and virtual host, searched
        unanchored; an empty one matches nothing. RFC 5802 for what SCRAM needs to know of a password.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from broker.model.errors import AccessRefused, PreconditionFailed
from broker.model.resource import spoken

# The default exchange is called this where permissions are checked.
DEFAULT_EXCHANGE_SPOKEN: Final = "amq.default"

REMEMBERED_MAX: Final = 4096


class Right(StrEnum):
    """The three things one may be allowed."""

    CONFIGURE = "configure"
    WRITE = "write"
    READ = "read"


def compiled(pattern: str) -> re.Pattern[str]:
    """Raises PreconditionFailed for what is no regular expression."""
    try:
        return re.compile(pattern or r"\A\Z(?<=.)")
    except (re.error, RecursionError, OverflowError) as error:
        raise PreconditionFailed(f"'{pattern}' is not a regular expression: {error}") from None


@dataclass(slots=True)
class Permission:
    """What a user may do in one virtual host, with what it was already asked."""

    configure: str
    write: str
    read: str
    _patterns: dict[Right, re.Pattern[str]] = field(init=False, repr=False)
    _remembered: dict[tuple[Right, str], bool] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._patterns = {
            Right.CONFIGURE: compiled(self.configure),
            Right.WRITE: compiled(self.write),
            Right.READ: compiled(self.read),
        }
        self._remembered = {}

    def allows(self, right: Right, name: str) -> bool:
        known = self._remembered.get((right, name))
        if known is None:
            if len(self._remembered) >= REMEMBERED_MAX:
                self._remembered.clear()
            known = self._patterns[right].search(name) is not None
            self._remembered[right, name] = known
        return known


class ScramCredential(NamedTuple):
    """What a server knows of a password to check a login with SCRAM. Nobody can log in with this alone."""

    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes


@dataclass(slots=True)
class User:
    """Somebody who may log in. An empty `password_hash` means: not with a password."""

    name: str
    password_hash: str = ""
    hashing_algorithm: str = ""
    tags: tuple[str, ...] = ()
    permissions: dict[str, Permission] = field(default_factory=dict)
    """By virtual host."""
    scram: Mapping[str, ScramCredential] = field(default_factory=dict)
    """By mechanism; empty if nobody ever told the password itself."""

    def check(self, right: Right, kind: str, name: str, vhost: str) -> None:
        """Raises AccessRefused if the user has not this right on an exchange or queue."""
        if kind == "exchange" and not name:
            name = DEFAULT_EXCHANGE_SPOKEN
        permission = self.permissions.get(vhost)
        if permission is None or not permission.allows(right, name):
            raise AccessRefused(
                f"{right.value} access to {spoken(kind, name, vhost)} refused for user '{self.name}'"
            )
