"""SCRAM: a login that shows both sides that the other one knows the password, and sends it to nobody.

Flow:   `first` begins, `challenged` reads what the broker asks for, `last` answers with what `salted` has made
        of the password, `check` reads the broker's own signature.
Shape:  client   n,,n=NAME,r=NONCE                     name with =2C for a comma and =3D for =
        server   r=NONCE NONCE2,s=SALT,i=ITERATIONS    salt, proof and signature in base64
        client   c=biws,r=NONCE NONCE2,p=PROOF         biws is "n,," in base64
        server   v=SIGNATURE, or e=REASON
Limits: a message has at most `_MESSAGE_SIZE_MAX` octets; a broker asks for `ITERATIONS_MIN` to `ITERATIONS_MAX`.
Spec:   RFC 5802, RFC 7677, KIP-84; no channel binding. Names and passwords are taken as they are, without
        SASLprep, as Kafka's clients take them.
Why:    Few iterations let whoever plays the broker guess the password from our proof; with very many he would
        keep us busy.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
from typing import Final, NamedTuple

# The strongest first.
DIGESTS: Final = {"SCRAM-SHA-512": "sha512", "SCRAM-SHA-256": "sha256"}
ITERATIONS_MIN: Final = 4096
ITERATIONS_MAX: Final = 1_000_000
_MESSAGE_SIZE_MAX: Final = 4096
_NONCE_SIZE: Final = 18
_GS2: Final = "n,,"
_BINDING: Final = base64.b64encode(_GS2.encode()).decode()

# A mandatory extension, m=, would be in front, and there is none that we know.
_CHALLENGE = re.compile(r"r=([\x21-\x2b\x2d-\x7e]+),s=([^,]+),i=([1-9][0-9]{0,9})(?:,[a-zA-Z]=[^,]*)*")
_END = re.compile(r"(?:v=([^,]+)|e=([^,]{1,100}))(?:,[a-zA-Z]=[^,]*)*")


class ScramProblem(Exception):
    """The broker is not what it says, or refuses; the text says how."""


class Salting(NamedTuple):
    """What is to be made of the password."""

    digest: str
    salt: bytes
    iterations: int


def salted(password: str, salting: Salting) -> bytes:
    """Takes milliseconds, and with `ITERATIONS_MAX` a second: not in the loop."""
    return hashlib.pbkdf2_hmac(salting.digest, password.encode(), salting.salt, salting.iterations)


class Scram:
    """One login."""

    def __init__(self, mechanism: str, user: str, *, nonce: str | None = None) -> None:
        """`nonce` is random; an example of a specification has its own."""
        self._digest = DIGESTS[mechanism]
        self._nonce = base64.b64encode(os.urandom(_NONCE_SIZE)).decode() if nonce is None else nonce
        self._said = f"n={user.replace('=', '=3D').replace(',', '=2C')},r={self._nonce}"
        self._signature = b""

    def first(self) -> bytes:
        return f"{_GS2}{self._said}".encode()

    def challenged(self, message: bytes) -> Salting:
        """Raises ScramProblem."""
        found = _match(_CHALLENGE, message)
        nonce, salt, iterations = found[1], _decoded(found[2]), int(found[3])
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise ScramProblem("the broker's challenge is not for this login")
        if not ITERATIONS_MIN <= iterations <= ITERATIONS_MAX:
            raise ScramProblem(
                f"the broker asks for {iterations} iterations; {ITERATIONS_MIN} to {ITERATIONS_MAX} are done"
            )
        self._answer = f"c={_BINDING},r={nonce}"
        self._said = f"{self._said},{found[0]},{self._answer}"
        return Salting(self._digest, salt, iterations)

    def last(self, password: bytes) -> bytes:
        """The proof, from the salted password."""
        said = self._said.encode()
        client_key = hmac.digest(password, b"Client Key", self._digest)
        stored_key = hashlib.new(self._digest, client_key).digest()
        mask = hmac.digest(stored_key, said, self._digest)
        proof = bytes(one ^ other for one, other in zip(client_key, mask, strict=True))
        server_key = hmac.digest(password, b"Server Key", self._digest)
        self._signature = hmac.digest(server_key, said, self._digest)
        return f"{self._answer},p={base64.b64encode(proof).decode()}".encode()

    def check(self, message: bytes) -> None:
        """That the broker knows the password, too. Raises ScramProblem."""
        signature, refusal = _match(_END, message).groups()
        if refusal is not None:
            raise ScramProblem(refusal)
        if not self._signature or not hmac.compare_digest(_decoded(signature), self._signature):
            raise ScramProblem("the broker has not shown that it knows the password")


def _match(pattern: re.Pattern[str], message: bytes) -> re.Match[str]:
    try:
        found = pattern.fullmatch(message.decode()) if len(message) <= _MESSAGE_SIZE_MAX else None
    except UnicodeDecodeError:
        found = None
    if found is None:
        raise ScramProblem("the broker's answer is not one of SCRAM")
    return found


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise ScramProblem("the broker's answer is not base64") from None
