"""What can go wrong with a log, as exceptions; all of them are LeveretErrors.

Shape:  LeveretError
            InvalidURL, InvalidValue      what was asked for cannot be
            ConnectionFailed              no broker could be reached
                AuthenticationFailed
            ConnectionClosed              it was open, and is no more
            BrokerError                   a broker refused; `code` is Kafka's
                UnknownTopic, TopicExists, NotAuthorized, OffsetOutOfRange, CommitFailed, InstanceFenced
            SendFailed                    a record is not in the log, or nobody knows
                ProducerFailed            and nothing more can be sent by this producer
            NotAllSent
            MalformedRecords              a batch cannot be read
        Those of the first lines are the same as in `leveret`.
Spec:   Kafka protocol guide "Error Codes", and what Kafka's own clients do about each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from broker.kafka.errors import ErrorCode
from leveret.errors import AuthenticationFailed, ConnectionClosed, ConnectionFailed, LeveretError

# Each that waits raises an exception of its own.
Reason: TypeAlias = Callable[[], LeveretError]

UNREACHED: Final = (ConnectionFailed, ConnectionClosed)
"""The network's faults. AuthenticationFailed is one of them, for which trying again is of no use."""

STALE: Final = frozenset(
    {
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode.LEADER_NOT_AVAILABLE,
        ErrorCode.NOT_LEADER_OR_FOLLOWER,
        ErrorCode.REPLICA_NOT_AVAILABLE,
        ErrorCode.NETWORK_EXCEPTION,
        ErrorCode.KAFKA_STORAGE_ERROR,
        ErrorCode.FENCED_LEADER_EPOCH,
        ErrorCode.UNKNOWN_LEADER_EPOCH,
        ErrorCode.UNKNOWN_TOPIC_ID,
    }
)
"""What is known of who leads a partition is old."""

LOST_COORDINATOR: Final = frozenset({ErrorCode.COORDINATOR_NOT_AVAILABLE, ErrorCode.NOT_COORDINATOR})
"""Another broker has the group by now, or will have it."""

RETRIABLE: Final = (
    STALE
    | LOST_COORDINATOR
    | {
        ErrorCode.CORRUPT_MESSAGE,
        ErrorCode.REQUEST_TIMED_OUT,
        ErrorCode.BROKER_NOT_AVAILABLE,
        ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode.NOT_ENOUGH_REPLICAS,
        ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        ErrorCode.NOT_CONTROLLER,
        ErrorCode.OFFSET_NOT_AVAILABLE,
        ErrorCode.UNSTABLE_OFFSET_COMMIT,
        ErrorCode.THROTTLING_QUOTA_EXCEEDED,
    }
)
"""The same request may be answered otherwise in a moment."""


class BrokerError(LeveretError):
    """A broker answered that it will not: `code` is Kafka's error code, `text` what was refused and why."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text}: {name_of(code)}")
        self.code = code
        self.text = text


class UnknownTopic(BrokerError):
    """There is no topic of this name, or no such partition of it."""


class TopicExists(BrokerError):
    """There is a topic of this name already."""


class NotAuthorized(BrokerError):
    """The user may not do this with this topic or group."""


class OffsetOutOfRange(BrokerError):
    """The log has not, or no longer, the offset at which reading was to go on."""


class CommitFailed(BrokerError):
    """The group has been shared out anew, and others have these partitions: they will read on from before."""


class InstanceFenced(BrokerError):
    """Another consumer has joined with the same `group_instance_id`, and has our partitions."""


class SendFailed(LeveretError):
    """A record was not acknowledged. If `maybe_sent`, it may be in the log all the same."""

    def __init__(self, text: str, code: int | None = None, *, maybe_sent: bool = False) -> None:
        super().__init__(text)
        self.code = code
        """The broker's, if it refused the record."""
        self.maybe_sent = maybe_sent


class ProducerFailed(SendFailed):
    """The broker has lost track of this producer's records, or of what it may do: another must take over."""


class NotAllSent(LeveretError):
    """Of what was sent without waiting, `count` records were not acknowledged; the cause is the first one's."""

    def __init__(self, count: int, first: LeveretError) -> None:
        super().__init__(f"{count} records were not acknowledged, the first because {first}")
        self.count = count
        self.__cause__ = first


class MalformedRecords(LeveretError):
    """A batch of records cannot be read: the octets are damaged, or of a format that is not known."""


def name_of(code: int) -> str:
    try:
        return f"{ErrorCode(code).name} ({code})"
    except ValueError:
        return f"error code {code}"


_KINDS: Final[dict[int, type[BrokerError]]] = {
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: UnknownTopic,
    ErrorCode.UNKNOWN_TOPIC_ID: UnknownTopic,
    ErrorCode.TOPIC_ALREADY_EXISTS: TopicExists,
    ErrorCode.OFFSET_OUT_OF_RANGE: OffsetOutOfRange,
    ErrorCode.TOPIC_AUTHORIZATION_FAILED: NotAuthorized,
    ErrorCode.GROUP_AUTHORIZATION_FAILED: NotAuthorized,
    ErrorCode.CLUSTER_AUTHORIZATION_FAILED: NotAuthorized,
}


def refused(code: int, text: str, said: str | None = None) -> BrokerError:
    """The exception for a broker's code; `said` is the broker's own text."""
    return _KINDS.get(code, BrokerError)(code, f"{text}: {said}" if said else text)


def fenced(group: str, instance: str | None) -> InstanceFenced:
    text = f"group {group!r}: another consumer has joined as its instance {instance!r}"
    return InstanceFenced(ErrorCode.FENCED_INSTANCE_ID, text)


def may_pass(error: LeveretError) -> bool:
    """The network, or a broker, may be in a better state in a moment."""
    if isinstance(error, BrokerError):
        return error.code in RETRIABLE and not isinstance(error, UnknownTopic)
    return isinstance(error, UNREACHED) and not isinstance(error, AuthenticationFailed)


def again(error: LeveretError) -> LeveretError:
    """The same, for one more who is to hear it."""
    if isinstance(error, BrokerError):
        copy: LeveretError = type(error)(error.code, error.text)
    elif isinstance(error, ConnectionClosed):
        copy = ConnectionClosed(error.code, error.text)
    else:
        copy = type(error)(str(error))
    copy.__cause__ = error
    return copy
