"""Which reply code a rule of the model becomes. The only table of its kind for AMQP."""

from __future__ import annotations

from typing import Final

from broker.amqp.errors import ProtocolError
from broker.amqp.spec import ReplyCode
from broker.model.errors import (
    AccessRefused,
    ModelError,
    NotAllowed,
    NotFound,
    NotImplementedHere,
    PreconditionFailed,
    ResourceLocked,
)

REPLY_CODES: Final[dict[type[ModelError], ReplyCode]] = {
    NotFound: ReplyCode.NOT_FOUND,
    AccessRefused: ReplyCode.ACCESS_REFUSED,
    ResourceLocked: ReplyCode.RESOURCE_LOCKED,
    PreconditionFailed: ReplyCode.PRECONDITION_FAILED,
    NotAllowed: ReplyCode.NOT_ALLOWED,
    NotImplementedHere: ReplyCode.NOT_IMPLEMENTED,
}


def protocol_error(error: ModelError, class_id: int = 0, method_id: int = 0) -> ProtocolError:
    """The model's refusal as the peer hears it."""
    return ProtocolError(REPLY_CODES[type(error)], str(error), class_id, method_id)
