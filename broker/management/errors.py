"""Which HTTP status a rule of the model becomes. The only table of its kind for HTTP.

Spec:   RabbitMQ: 404 for what is not there, 401 for what one may not do, 400 for all else. A class that is not in
        the table has the status of the nearest one above it.
"""

from __future__ import annotations

from typing import Final

from broker.management.http import Refused, Response, as_json, refusal
from broker.model.errors import (
    AccessRefused,
    ModelError,
    NotAllowed,
    NotFound,
    NotImplementedHere,
    PreconditionFailed,
    ResourceLocked,
)

STATUSES: Final[dict[type[ModelError], tuple[int, str]]] = {
    NotFound: (404, "not_found"),
    AccessRefused: (401, "not_authorised"),
    ResourceLocked: (400, "bad_request"),
    PreconditionFailed: (400, "bad_request"),
    NotAllowed: (400, "bad_request"),
    NotImplementedHere: (400, "bad_request"),
    ModelError: (400, "bad_request"),
}


def model_refusal(error: ModelError) -> Response:
    """The model's refusal as a client hears it."""
    status, name = next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)
    if status == 401:
        # RabbitMQ says no more than this; people want to know which right it was.
        body = {"error": name, "reason": "Access refused.", "explanation": str(error)}
        return as_json(body, status)
    return refusal(status, str(error), name)


def not_there() -> Refused:
    """What the path names does not exist."""
    return Refused(refusal(404, "Not Found", "Object Not Found"))


def bad_request(reason: str) -> Refused:
    return Refused(refusal(400, reason, "bad_request"))


def conflict(reason: str) -> Refused:
    """It could be done, but not as things are now."""
    return Refused(refusal(409, reason, "conflict"))


def not_authorised(reason: str) -> Refused:
    """Somebody we know asks for what is not theirs."""
    return Refused(refusal(401, reason, "not_authorised"))
