"""From the model's errors to Kafka's codes: the one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from broker.kafka.errors import ErrorCode
from broker.model import errors as model
from broker.model import producer
from broker.model.group_errors import GroupError

CODES: Final[Mapping[type[model.ModelError], ErrorCode]] = {
    model.UnknownTopic: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    model.NotFound: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    model.AlreadyExists: ErrorCode.TOPIC_ALREADY_EXISTS,
    model.InvalidTopicName: ErrorCode.INVALID_TOPIC_EXCEPTION,
    model.InvalidConfig: ErrorCode.INVALID_CONFIG,
    model.InvalidPartitions: ErrorCode.INVALID_PARTITIONS,
    model.InvalidReplicas: ErrorCode.INVALID_REPLICATION_FACTOR,
    model.OffsetOutOfRange: ErrorCode.OFFSET_OUT_OF_RANGE,
    model.NotAllowed: ErrorCode.INVALID_REQUEST,
    model.AccessRefused: ErrorCode.TOPIC_AUTHORIZATION_FAILED,
    producer.InvalidProducerEpoch: ErrorCode.INVALID_PRODUCER_EPOCH,
    producer.OutOfOrderSequence: ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
}

GROUP_CODES: Final[Mapping[GroupError, ErrorCode]] = {
    GroupError.UNKNOWN_MEMBER_ID: ErrorCode.UNKNOWN_MEMBER_ID,
    GroupError.ILLEGAL_GENERATION: ErrorCode.ILLEGAL_GENERATION,
    GroupError.REBALANCE_IN_PROGRESS: ErrorCode.REBALANCE_IN_PROGRESS,
    GroupError.MEMBER_ID_REQUIRED: ErrorCode.MEMBER_ID_REQUIRED,
    GroupError.FENCED_INSTANCE_ID: ErrorCode.FENCED_INSTANCE_ID,
    GroupError.INCONSISTENT_GROUP_PROTOCOL: ErrorCode.INCONSISTENT_GROUP_PROTOCOL,
    GroupError.INVALID_SESSION_TIMEOUT: ErrorCode.INVALID_SESSION_TIMEOUT,
    GroupError.GROUP_MAX_SIZE_REACHED: ErrorCode.GROUP_MAX_SIZE_REACHED,
    GroupError.COORDINATOR_NOT_AVAILABLE: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    GroupError.MEMBER_METADATA_TOO_LARGE: ErrorCode.INVALID_REQUEST,
    GroupError.NON_EMPTY_GROUP: ErrorCode.NON_EMPTY_GROUP,
    GroupError.GROUP_ID_NOT_FOUND: ErrorCode.GROUP_ID_NOT_FOUND,
    GroupError.GROUP_SUBSCRIBED_TO_TOPIC: ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC,
    GroupError.OFFSET_METADATA_TOO_LARGE: ErrorCode.OFFSET_METADATA_TOO_LARGE,
    GroupError.TOO_MANY_OFFSETS: ErrorCode.POLICY_VIOLATION,
    GroupError.OFFSETS_TOO_LARGE: ErrorCode.INVALID_COMMIT_OFFSET_SIZE,
}

NO_TRANSACTIONS: Final = "this broker has no transactions yet: leave transactional.id out"


def code_of(error: model.ModelError) -> ErrorCode:
    """The code of the error's class, or of the nearest above it."""
    for kind in type(error).__mro__:
        code = CODES.get(kind)
        if code is not None:
            return code
    return ErrorCode.INVALID_REQUEST


class Refused(Exception):
    """One part of a request is not done; the others may be."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code


def refusal(error: Refused | model.ModelError) -> dict[str, Any]:
    """The two fields that most results have, of what was not done."""
    return failure(error.code if isinstance(error, Refused) else code_of(error), str(error))


def failure(code: ErrorCode, text: str | None = None) -> dict[str, Any]:
    """The two fields that most results have."""
    return {"error_code": code, "error_message": text}
