"""Users and their permissions, kept as definitions.

Flow:   servers ask for a login; HTTP, the configuration and imports make and change users.
Shape:  the definition `scram_secret` makes up what SCRAM says of users who are not there, the same for ever;
        `default_user` is there when the first start is over, which is the only one that makes one.
"""

from __future__ import annotations

import hmac
import logging
import os
from collections.abc import Mapping
from typing import Any, Final

from broker.model.errors import NotFound, PreconditionFailed
from broker.model.user import Permission, ScramCredential, User
from broker.node.definitions import PERMISSION, USER, Change, key
from broker.node.flusher import Flusher
from broker.node.passwords import (
    ARGON2ID,
    SCRAM_DIGESTS,
    SCRAM_ITERATIONS,
    SCRAM_SALT_SIZE,
    Passwords,
    check_hash,
)

logger = logging.getLogger("broker.node")

_SECRET_KEY: Final = "scram_secret"
_SECRET_SIZE: Final = 32
_DEFAULT_USER_KEY: Final = "default_user"


class Accounts:
    """All users of a node."""

    def __init__(self, flusher: Flusher) -> None:
        self.users: dict[str, User] = {}
        self.begun = False
        """Whoever has no users any more wanted none: a known password must not open the broker again."""
        self._flusher = flusher
        self._passwords = Passwords()
        self._secret = b""

    async def login(self, name: str, password: str) -> User | None:
        """The user, or None if there is no such user with this password."""
        user = self.users.get(name)
        # A name that nobody has takes as long as a wrong password.
        encoded, algorithm = (user.password_hash, user.hashing_algorithm) if user else (_NOBODY, ARGON2ID)
        right = await self._passwords.verify(password, encoded, algorithm)
        return self.users.get(name) if right and user is not None else None

    def scram(self, name: str, mechanism: str) -> tuple[User | None, ScramCredential]:
        """The user, and what a login with SCRAM is checked against.

        A name that nobody has, or whose password is known only as a hash, has one that looks right, always the
        same, and that no password matches: nobody learns which names there are.
        """
        user = self.users.get(name)
        if user is not None and mechanism in user.scram:
            return user, user.scram[mechanism]
        if user is not None:
            logger.warning(
                "user '%s' cannot log in with %s: the password is known only as a hash; set it anew as a text",
                name,
                mechanism,
            )
        digest = SCRAM_DIGESTS[mechanism]
        octets = hmac.digest(self._lasting_secret(), f"{mechanism}\0{name}".encode(), "sha512")
        nobodys = os.urandom(hmac.new(b"", digestmod=digest).digest_size)
        return None, ScramCredential(octets[:SCRAM_SALT_SIZE], SCRAM_ITERATIONS, nobodys, nobodys)

    def _lasting_secret(self) -> bytes:
        if not self._secret:
            self._secret = os.urandom(_SECRET_SIZE)
            self._flusher.change([Change(_SECRET_KEY, {"octets": self._secret})])
        return self._secret

    def user(self, name: str) -> User:
        """Raises NotFound."""
        user = self.users.get(name)
        if user is None:
            raise NotFound(f"no user '{name}'")
        return user

    def put_user(
        self,
        name: str,
        password_hash: str,
        algorithm: str,
        tags: tuple[str, ...],
        scram: Mapping[str, ScramCredential] | None = None,
    ) -> bool:
        """Make or change a user; whether it is new. Raises PreconditionFailed for a hash that cannot be.

        Without credentials for SCRAM, a user keeps those of before if the hash is that of before, too.
        """
        if not name:
            raise PreconditionFailed("a user needs a name")
        if password_hash:
            check_hash(password_hash, algorithm)
        current = self.users.get(name)
        if current is None:
            current = self.users[name] = User(name)
            new = True
        else:
            new = False
        if scram is not None:
            current.scram = scram
        elif (current.password_hash, current.hashing_algorithm) != (password_hash, algorithm):
            current.scram = {}
        current.password_hash, current.hashing_algorithm, current.tags = (
            password_hash,
            algorithm,
            tags,
        )
        self._flusher.change([Change(key(USER, name), _user_value(current))])
        return new

    def delete_user(self, name: str) -> None:
        """Whoever is logged in with it may do nothing any more. Raises NotFound."""
        user = self.user(name)
        del self.users[name]
        changes = [Change(key(PERMISSION, vhost, name), None) for vhost in user.permissions]
        user.permissions.clear()
        self._flusher.change([*changes, Change(key(USER, name), None)])

    def put_permission(self, vhost: str, name: str, configure: str, write: str, read: str) -> bool:
        """Whether the user had none there. Raises NotFound, or PreconditionFailed for a bad pattern."""
        user = self.user(name)
        permission = Permission(configure, write, read)
        new = vhost not in user.permissions
        user.permissions[vhost] = permission
        value = {"configure": configure, "write": write, "read": read}
        self._flusher.change([Change(key(PERMISSION, vhost, name), value)])
        return new

    def delete_permission(self, vhost: str, name: str) -> None:
        """Raises NotFound."""
        if self.user(name).permissions.pop(vhost, None) is None:
            raise NotFound(f"user '{name}' has no permissions in vhost '{vhost}'")
        self._flusher.change([Change(key(PERMISSION, vhost, name), None)])

    def forget_vhost(self, vhost: str) -> None:
        for user in self.users.values():
            if user.permissions.pop(vhost, None) is not None:
                self._flusher.change([Change(key(PERMISSION, vhost, user.name), None)])

    # ---- at start ----

    def begin(self) -> None:
        """The first start has made the users that it was to make."""
        if not self.begun:
            self.begun = True
            self._flusher.change([Change(_DEFAULT_USER_KEY, {"decided": True})])

    def load(self, found: Mapping[str, dict[str, Any]]) -> None:
        """What is no user's own; before anybody logs in."""
        self.begun = _DEFAULT_USER_KEY in found
        self._secret = found.get(_SECRET_KEY, {}).get("octets", b"")

    def load_user(self, name: str, value: dict[str, Any]) -> None:
        self.users[name] = User(
            name,
            value["password_hash"],
            value["hashing_algorithm"],
            tuple(value["tags"]),
            scram={
                mechanism: ScramCredential(**fields)
                for mechanism, fields in value.get("scram", {}).items()  # users of older versions have none
            },
        )

    def load_permission(self, vhost: str, name: str, value: dict[str, Any]) -> None:
        if name in self.users:
            self.users[name].permissions[vhost] = Permission(
                value["configure"], value["write"], value["read"]
            )


def _user_value(user: User) -> dict[str, Any]:
    return {
        "password_hash": user.password_hash,
        "hashing_algorithm": user.hashing_algorithm,
        "tags": list(user.tags),
        "scram": {mechanism: known._asdict() for mechanism, known in user.scram.items()},
    }


# The hash of a password that was thrown away.
_NOBODY = "$argon2id$v=19$m=7168,t=5,p=1$c29tZXNhbHRzb21lc2FsdA$Wn9cVwJ3s0mQ0o2mL8fUe2nM0mXx0cV0o3r6c9w1m3E"
