"""ApiVersions: what is served, computed from what has a handler.

Spec:   KIP-35, KIP-511. A version that is not known is answered in version 0 with error 35 and the versions of
        ApiVersions itself, and the client asks again.
Why:    For Produce we tell 0 as the lowest version and serve none below 3: older librdkafka looks for exact
        versions, and else goes without compression and idempotence (KAFKA-18659 in Kafka itself).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from broker.kafka import api
from broker.kafka.api import Request
from broker.kafka.errors import ErrorCode
from broker.server.kafka.reply import Reply

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.handlers import Handler

BEFORE_LOGIN: Final = frozenset({api.API_VERSIONS.key, api.SASL_HANDSHAKE.key, api.SASL_AUTHENTICATE.key})

_SOFTWARE = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?")


@functools.lru_cache(4)
def _ranges(keys: tuple[int, ...]) -> list[dict[str, Any]]:
    """Each connection of each client asks for them."""
    served = [api.APIS[key] for key in sorted(keys)]
    return [
        {"api_key": one.key, "min_version": one.advertised_min, "max_version": one.max_version}
        for one in served
    ]


def unsupported(handlers: Mapping[int, Handler]) -> dict[str, Any]:
    return {"error_code": ErrorCode.UNSUPPORTED_VERSION, "api_keys": _ranges(tuple(handlers))}


def api_versions(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    body = request.body
    if request.version >= 3:
        software = (body["client_software_name"], body["client_software_version"])
        if not all(len(part) <= 255 and _SOFTWARE.fullmatch(part) for part in software):
            reply.answer({"error_code": ErrorCode.INVALID_REQUEST})
            return
        connection.software = software
    reply.answer({"error_code": ErrorCode.NONE, "api_keys": _ranges(tuple(connection.server.handlers))})


HANDLERS: Final[dict[int, Handler]] = {api.API_VERSIONS.key: api_versions}
