"""Users and their permissions, kept as definitions.

Flow:   servers ask for a login; HTTP, the configuration and imports make and change users.
"""

from __future__ import annotations

import logging
from typing import Any

from broker.model.errors import NotFound, PreconditionFailed
from broker.model.user import Permission, User
from broker.node.definitions import PERMISSION, USER, Change, key
from broker.node.flusher import Flusher
from broker.node.passwords import ARGON2ID, Passwords, check_hash

logger = logging.getLogger("broker.node")


class Accounts:
    """All users of a node."""

    def __init__(self, flusher: Flusher) -> None:
        self.users: dict[str, User] = {}
        self._flusher = flusher
        self._passwords = Passwords()

    async def login(self, name: str, password: str) -> User | None:
        """The user, or None if there is no such user with this password."""
        user = self.users.get(name)
        # A name that nobody has takes as long as a wrong password.
        encoded, algorithm = (user.password_hash, user.hashing_algorithm) if user else (_NOBODY, ARGON2ID)
        right = await self._passwords.verify(password, encoded, algorithm)
        return self.users.get(name) if right and user is not None else None

    def user(self, name: str) -> User:
        """Raises NotFound."""
        user = self.users.get(name)
        if user is None:
            raise NotFound(f"no user '{name}'")
        return user

    def put_user(self, name: str, password_hash: str, algorithm: str, tags: tuple[str, ...]) -> bool:
        """Make or change a user; whether it is new. Raises PreconditionFailed for a hash that cannot be."""
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
        current.password_hash, current.hashing_algorithm, current.tags = (
            password_hash,
            algorithm,
            tags,
        )
        self._flusher.change([Change(key(USER, name), _user_value(current))])
        return new

    def delete_user(self, name: str) -> None:
        """Raises NotFound."""
        user = self.user(name)
        del self.users[name]
        changes = [Change(key(PERMISSION, vhost, name), None) for vhost in user.permissions]
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

    def load_user(self, name: str, value: dict[str, Any]) -> None:
        self.users[name] = User(
            name,
            value["password_hash"],
            value["hashing_algorithm"],
            tuple(value["tags"]),
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
    }


# The hash of a password that was thrown away.
_NOBODY = "$argon2id$v=19$m=7168,t=5,p=1$c29tZXNhbHRzb21lc2FsdA$Wn9cVwJ3s0mQ0o2mL8fUe2nM0mXx0cV0o3r6c9w1m3E"
