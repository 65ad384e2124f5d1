"""What is said first on a connection: which versions the broker knows, and who we are.

Flow:   `shake_hands` asks on a connection that runs already.
Spec:   ApiVersions: KIP-35, KIP-511 (a broker that does not know our version answers in version 0 with its own).
"""

from __future__ import annotations

from typing import Final

from broker import __version__
from broker.kafka import api
from broker.kafka.errors import ErrorCode
from broker.kafka.wire import Struct
from leveret.errors import ConnectionFailed
from leveret.log.connection import Connection
from leveret.log.errors import name_of
from leveret.log.login import Login
from leveret.log.url import URL

_SOFTWARE: Final = {"client_software_name": "leveret", "client_software_version": __version__}


async def shake_hands(connection: Connection, url: URL, login: Login) -> None:
    """Raises ConnectionFailed or AuthenticationFailed, and ConnectionClosed if the broker hangs up."""
    answer = await _versions(connection, url, api.API_VERSIONS.max_version)
    if answer["error_code"] == ErrorCode.UNSUPPORTED_VERSION:
        answer = await _versions(connection, url, _known_to_both(answer))
    if answer["error_code"]:
        raise ConnectionFailed(f"{connection.address}: ApiVersions: {name_of(answer['error_code'])}")
    connection.versions = {
        one["api_key"]: (one["min_version"], one["max_version"]) for one in answer["api_keys"]
    }
    if url.user:
        await login.log_in(connection)


async def _versions(connection: Connection, url: URL, version: int) -> Struct:
    return await connection.request(api.API_VERSIONS, _SOFTWARE, url.connection_s, version)


def _known_to_both(answer: Struct) -> int:
    for one in answer["api_keys"]:
        if one["api_key"] == api.API_VERSIONS.key:
            newest: int = one["max_version"]
            return max(0, min(newest, api.API_VERSIONS.max_version))
    return 0
