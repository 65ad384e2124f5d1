"""SCRAM: a login for which the password is never sent, the server's side.

Flow:   `first` takes the client's first message and gives the challenge, `last` takes the proof and gives the
        user and the server's own signature.
Shape:  client   n,,n=NAME,r=NONCE                     name with =2C for a comma and =3D for =
        server   r=NONCE NONCE2,s=SALT,i=ITERATIONS    salt, proof and signature in base64
        client   c=BASE64 of "n,,",r=NONCE NONCE2,p=PROOF
        server   v=SIGNATURE
Limits: `_MESSAGE_SIZE_MAX` octets a message.
Spec:   RFC 5802, RFC 7677, KIP-84; no channel binding. Names and passwords are taken as they are, without
        SASLprep, as in Kafka.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
from collections.abc import Callable
from typing import Final

from broker.model.user import ScramCredential, User
from broker.node.passwords import SCRAM_DIGESTS

_MESSAGE_SIZE_MAX: Final = 4096
_NONCE_SIZE: Final = 18

# A mandatory extension, m=, would be in front of the name, and there is none that we know.
_FIRST = re.compile(r"([ny],(?:a=([^,]*))?,)(n=([^,]*),r=([\x21-\x2b\x2d-\x7e]+)(?:,[a-zA-Z]=[^,]*)*)")
_LAST = re.compile(r"(c=([^,]*),r=([\x21-\x2b\x2d-\x7e]+)(?:,[a-zA-Z]=[^,]*)*),p=([^,]*)")


class ScramRefused(Exception):
    """The login is not right, or not a login; the message is for the log."""


Find = Callable[[str, str], tuple[User | None, ScramCredential]]
"""Who has a name, and what a login with a mechanism is checked against; something even if nobody has it."""


class ScramExchange:
    """One login."""

    def __init__(self, mechanism: str, find: Find) -> None:
        self._mechanism = mechanism
        self._digest = SCRAM_DIGESTS[mechanism]
        self._find = find
        self._user: User | None = None

    def first(self, message: bytes) -> bytes:
        """The challenge. Raises ScramRefused."""
        found = _match(_FIRST, message)
        self._gs2, acts_for, bare, name, nonce = found.groups()
        name = _unquoted(name)
        if acts_for and _unquoted(acts_for) != name:
            raise ScramRefused(f"'{name}' cannot act for another user")
        self._user, self._known = self._find(name, self._mechanism)
        self._nonce = nonce + base64.b64encode(os.urandom(_NONCE_SIZE)).decode()
        salt = base64.b64encode(self._known.salt).decode()
        challenge = f"r={self._nonce},s={salt},i={self._known.iterations}"
        self._said = f"{bare},{challenge}"
        return challenge.encode()

    def last(self, message: bytes) -> tuple[User, bytes]:
        """Who it is, and what shows the client that we are who we are. Raises ScramRefused."""
        found = _match(_LAST, message)
        without_proof, binding, nonce, proof = found.groups()
        if not hmac.compare_digest(nonce, self._nonce):
            raise ScramRefused("another nonce than that of the challenge")
        if _decoded(binding) != self._gs2.encode():
            raise ScramRefused("another channel binding than in the first message")
        said = f"{self._said},{without_proof}".encode()
        signature = hmac.digest(self._known.stored_key, said, self._digest)
        if not hmac.compare_digest(
            hashlib.new(self._digest, _xor(_decoded(proof), signature)).digest(), self._known.stored_key
        ):
            raise ScramRefused("wrong password")
        if self._user is None:
            raise ScramRefused("no such user")
        return self._user, b"v=" + base64.b64encode(hmac.digest(self._known.server_key, said, self._digest))


def _match(pattern: re.Pattern[str], message: bytes) -> re.Match[str]:
    try:
        found = pattern.fullmatch(message.decode()) if len(message) <= _MESSAGE_SIZE_MAX else None
    except UnicodeDecodeError:
        found = None
    if found is None:
        raise ScramRefused("not a message of SCRAM")
    return found


def _unquoted(name: str) -> str:
    """Raises ScramRefused."""
    parts = re.split("(=2C|=3D)", name)
    if any("=" in part for part in parts[::2]):
        raise ScramRefused("a name with = that is not quoted")
    return "".join({"=2C": ",", "=3D": "="}.get(part, part) for part in parts)


def _decoded(text: str) -> bytes:
    """Raises ScramRefused."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise ScramRefused("not base64") from None


def _xor(proof: bytes, signature: bytes) -> bytes:
    """The client's key, if the proof is right. Raises ScramRefused."""
    if len(proof) != len(signature):
        raise ScramRefused(f"a proof of {len(proof)} octets")
    return bytes(one ^ other for one, other in zip(proof, signature, strict=True))
