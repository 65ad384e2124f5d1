"""The numbers of AMQP 0-9-1 and of RabbitMQ's extensions.

Spec:   amqp0-9-1.xml; RabbitMQ's amqp-rabbitmq-0.9.1.json for what it adds.
"""

from enum import IntEnum
from typing import Final

PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"

FRAME_METHOD: Final = 1
FRAME_HEADER: Final = 2
FRAME_BODY: Final = 3
FRAME_HEARTBEAT: Final = 8
FRAME_END: Final = 0xCE

# type u8, channel u16, size u32 before the payload; the end octet behind it.
FRAME_OVERHEAD: Final = 8

# The spec's minimum. RabbitMQ raised its own to 8,192 in 4.1, which broke clients that ask for 4,096.
FRAME_SIZE_MIN: Final = 4096

BASIC_CLASS: Final = 60

DIRECT_REPLY_TO: Final = "amq.rabbitmq.reply-to"


class ReplyCode(IntEnum):
    """Why a channel or a connection is closed; the names travel in the reply text."""

    SUCCESS = 200
    CONTENT_TOO_LARGE = 311
    NO_ROUTE = 312
    NO_CONSUMERS = 313
    CONNECTION_FORCED = 320
    INVALID_PATH = 402
    ACCESS_REFUSED = 403
    NOT_FOUND = 404
    RESOURCE_LOCKED = 405
    PRECONDITION_FAILED = 406
    FRAME_ERROR = 501
    SYNTAX_ERROR = 502
    COMMAND_INVALID = 503
    CHANNEL_ERROR = 504
    UNEXPECTED_FRAME = 505
    RESOURCE_ERROR = 506
    NOT_ALLOWED = 530
    NOT_IMPLEMENTED = 540
    INTERNAL_ERROR = 541

    @property
    def closes_connection(self) -> bool:
        """Hard errors end the connection, soft ones only the channel."""
        return self in HARD_ERRORS


HARD_ERRORS: Final = frozenset(
    {
        ReplyCode.CONNECTION_FORCED,
        ReplyCode.INVALID_PATH,
        ReplyCode.FRAME_ERROR,
        ReplyCode.SYNTAX_ERROR,
        ReplyCode.COMMAND_INVALID,
        ReplyCode.CHANNEL_ERROR,
        ReplyCode.UNEXPECTED_FRAME,
        ReplyCode.RESOURCE_ERROR,
        ReplyCode.NOT_ALLOWED,
        ReplyCode.NOT_IMPLEMENTED,
        ReplyCode.INTERNAL_ERROR,
    }
)
