"""Passwords: hashed with argon2id, and compared with the hashes that RabbitMQ's definitions bring.

Flow:   a login asks `Passwords.verify`; users are made with `credentials_of` a password. SCRAM never sends one:
        what it needs is derived while the password is at hand.
Shape:  argon2's own text; RabbitMQ's base64(salt, 4 octets | digest of salt and password).
Limits: two hashes at a time, as each takes 7 MiB and tens of milliseconds; 1,024 remembered successes,
        each for five minutes: clients come back in storms.
Why:    argon2id with the smallest of OWASP's equal settings (7 MiB, 5 passes, 1 lane): the library's default of 64 MiB and four
        lanes is too much for a small box that many clients log in to. SCRAM's PBKDF2 is done by the client at each
        login, some in pure Python: twice RFC 7677's least number of iterations, and half of what Kafka takes at most.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from broker.model.errors import PreconditionFailed
from broker.model.user import ScramCredential

if TYPE_CHECKING:
    import argon2

ARGON2ID: Final = "argon2id"
_SALTED: Final = {
    "rabbit_password_hashing_sha256": hashlib.sha256,
    "rabbit_password_hashing_sha512": hashlib.sha512,
    "rabbit_password_hashing_md5": hashlib.md5,
}
SCRAM_DIGESTS: Final[Mapping[str, str]] = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}
SCRAM_ITERATIONS: Final = 8192
SCRAM_SALT_SIZE: Final = 16
_REMEMBERED_MAX: Final = 1024
_REMEMBERED_S: Final = 300.0


def _hasher() -> argon2.PasswordHasher:
    import argon2  # 33 ms that a start does not need

    return argon2.PasswordHasher(time_cost=5, memory_cost=7 * 1024, parallelism=1)


def hash_password(password: str) -> str:
    """Takes tens of milliseconds: not in the loop."""
    return _hasher().hash(password)


class Credentials(NamedTuple):
    """All that is kept of a password."""

    password_hash: str
    hashing_algorithm: str
    scram: Mapping[str, ScramCredential]


def credentials_of(password: str) -> Credentials:
    """Takes tens of milliseconds: not in the loop."""
    return Credentials(hash_password(password), ARGON2ID, scram_credentials(password))


def scram_credentials(password: str, *, iterations: int = SCRAM_ITERATIONS) -> Mapping[str, ScramCredential]:
    """By mechanism; none for an empty password, which nobody may log in with. Takes milliseconds.

    The password is not normalised (SASLprep): Kafka does not, and so its clients do not.
    """
    if not password:
        return {}
    found = {}
    for mechanism, digest in SCRAM_DIGESTS.items():
        salt = os.urandom(SCRAM_SALT_SIZE)
        salted = hashlib.pbkdf2_hmac(digest, password.encode(), salt, iterations)
        client_key = hmac.digest(salted, b"Client Key", digest)
        stored_key = hashlib.new(digest, client_key).digest()
        server_key = hmac.digest(salted, b"Server Key", digest)
        found[mechanism] = ScramCredential(salt, iterations, stored_key, server_key)
    return found


def check_hash(encoded: str, algorithm: str) -> None:
    """Raises PreconditionFailed for a text or an algorithm that cannot be.

    A salted hash may have any size, as with RabbitMQ; of one that the algorithm does not make no password is right.
    """
    if algorithm == ARGON2ID:
        if not encoded.startswith("$argon2id$"):
            raise PreconditionFailed("password_hash is not the text that argon2id makes")
        return
    if algorithm not in _SALTED:
        known = ", ".join((ARGON2ID, *_SALTED))
        raise PreconditionFailed(f"unknown hashing_algorithm '{algorithm}'; known are {known}")
    try:
        base64.b64decode(encoded, validate=True)
    except ValueError:
        raise PreconditionFailed("password_hash is not base64") from None


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
