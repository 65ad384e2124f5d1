"""Passwords: hashed with argon2id, and compared with the hashes that RabbitMQ's definitions bring.

Flow:   a login asks `Passwords.verify`; users are made with `hash_password`.
Shape:  argon2's own text; RabbitMQ's base64(salt, 4 octets | digest of salt and password).
Limits: two hashes at a time, as each takes 7 MiB and tens of milliseconds; 1,024 remembered successes,
        each for five minutes: clients come back in storms.
Why:    argon2id with the smallest of OWASP's equal settings (7 MiB, 5 passes, 1 lane): the library's default of 64 MiB and four
        lanes is too much for a small box that many clients log in to.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from broker.model.errors import PreconditionFailed

if TYPE_CHECKING:
    import argon2

ARGON2ID: Final = "argon2id"
_SALTED: Final = {
    "rabbit_password_hashing_sha256": hashlib.sha256,
    "rabbit_password_hashing_sha512": hashlib.sha512,
    "rabbit_password_hashing_md5": hashlib.md5,
}
_REMEMBERED_MAX: Final = 1024
_REMEMBERED_S: Final = 300.0


def _hasher() -> argon2.PasswordHasher:
    import argon2  # 33 ms that a start does not need

    return argon2.PasswordHasher(time_cost=5, memory_cost=7 * 1024, parallelism=1)


def hash_password(password: str) -> str:
    """Takes tens of milliseconds: not in the loop."""
    return _hasher().hash(password)


def check_hash(encoded: str, algorithm: str) -> None:
    """Raises PreconditionFailed for a hash that no password could ever match."""
    if algorithm == ARGON2ID:
        if not encoded.startswith("$argon2id$"):
            raise PreconditionFailed("password_hash is not the text that argon2id makes")
        return
    if algorithm not in _SALTED:
        known = ", ".join((ARGON2ID, *_SALTED))
        raise PreconditionFailed(f"unknown hashing_algorithm '{algorithm}'; known are {known}")
    size = 4 + _SALTED[algorithm]().digest_size
    try:
        octets = base64.b64decode(encoded, validate=True)
    except ValueError:
        raise PreconditionFailed("password_hash is not base64") from None
    if len(octets) != size:
        raise PreconditionFailed(f"password_hash has {len(octets)} octets, {algorithm} makes {size}")


def matches(password: str, encoded: str, algorithm: str) -> bool:
    """Takes tens of milliseconds with argon2id: not in the loop."""
    if not password or not encoded:
        return False  # RabbitMQ refuses empty passwords whatever the hash
    if algorithm == ARGON2ID:
        from argon2.exceptions import InvalidHashError, VerificationError

        try:
            return _hasher().verify(encoded, password)
        except (VerificationError, InvalidHashError):
            return False
    octets = base64.b64decode(encoded)
    digest = _SALTED[algorithm](octets[:4] + password.encode()).digest()
    return hmac.compare_digest(digest, octets[4:])


class Passwords:
    """Verifies in threads, and remembers for a while what was right."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(2)
        self._key = os.urandom(32)
        self._remembered: dict[bytes, float] = {}

    async def verify(self, password: str, encoded: str, algorithm: str) -> bool:
        print_ = hmac.digest(self._key, f"{algorithm}\0{encoded}\0{password}".encode(), "sha256")
        if self._remembered.get(print_, 0.0) > trio.current_time():
            return True
        right = await trio.to_thread.run_sync(
            partial(matches, password, encoded, algorithm), limiter=self._limiter
        )
        if right:
            if len(self._remembered) >= _REMEMBERED_MAX:
                self._remembered.clear()
            self._remembered[print_] = trio.current_time() + _REMEMBERED_S
        return right
