"""SCRAM, the client's side, for tests: each message by itself, so that one may be changed on its way.

Spec:   RFC 5802; `tests/server/test_kafka_logins.py` holds it to the example of RFC 7677.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

DIGESTS = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}


class ScramClient:
    """One login."""

    def __init__(
        self, mechanism: str, name: str, password: str, *, nonce: str = "fyko+d2lbbFgONRv", gs2: str = "n,,"
    ) -> None:
        """`name` is quoted here; `gs2` is what comes before it."""
        self.digest = DIGESTS[mechanism]
        self.password = password
        self.gs2 = gs2
        self.nonce = nonce
        self.bare = f"n={name.replace('=', '=3D').replace(',', '=2C')},r={nonce}"

    def first(self) -> bytes:
        return f"{self.gs2}{self.bare}".encode()

    def last(self, challenge: bytes) -> bytes:
        """Remembers what signature the server must have."""
        fields = dict(part.split("=", 1) for part in challenge.decode().split(","))
        assert fields["r"].startswith(self.nonce)
        salt, iterations = base64.b64decode(fields["s"]), int(fields["i"])
        salted = hashlib.pbkdf2_hmac(self.digest, self.password.encode(), salt, iterations)
        client_key = hmac.digest(salted, b"Client Key", self.digest)
        stored_key = hashlib.new(self.digest, client_key).digest()
        without_proof = f"c={base64.b64encode(self.gs2.encode()).decode()},r={fields['r']}"
        said = f"{self.bare},{challenge.decode()},{without_proof}".encode()
        signature = hmac.digest(stored_key, said, self.digest)
        proof = bytes(one ^ other for one, other in zip(client_key, signature, strict=True))
        server_key = hmac.digest(salted, b"Server Key", self.digest)
        self.signature = b"v=" + base64.b64encode(hmac.digest(server_key, said, self.digest))
        return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()
