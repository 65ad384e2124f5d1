"""Produce and InitProducerId: batches come in, and are answered when they are safe.

Flow:   each partition's batch is checked by its header and appended as it came; the answer waits for the
        commit that makes them safe. With acks 0 there is no answer, and a connection that had an error ends.
Limits: of one request `_RECORDS_MAX` records of compacted topics are looked at, whose keys must be checked. A
        request waits, and with it those behind it, while an alarm is on, and one commit if the disk does not keep up.
Spec:   acks 1 and -1 are the same in a broker of one node. The first batch of a topic that is missing is not
        a reason to make it: clients ask for its metadata before.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from broker.kafka import api, records
from broker.kafka.api import Request
from broker.kafka.errors import ErrorCode
from broker.kafka.outlines import outlines
from broker.kafka.records import BatchHeader, RecordProblem
from broker.model.errors import ModelError
from broker.model.user import Right
from broker.node.flusher import Commit
from broker.node.partition import Partition
from broker.server.kafka.errors import NO_TRANSACTIONS, code_of
from broker.server.kafka.reply import Reply

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.handlers import Handler

_ACKS: Final = frozenset({-1, 0, 1})
_ZSTD: Final = 4
_ZSTD_VERSION_MIN: Final = 7
# Whoever opens a batch holds up the others for some microseconds a record.
_RECORDS_MAX: Final = 200_000
# Of keyless records as many are told: their producer then knows that it is not the others.
_ERRORS_MAX: Final = 1000
_INFLATED_SIZE_MIN: Final = 1024 * 1024
_INFLATED_GROWTH_MAX: Final = 32


class _Refused(Exception):
    """A batch was not appended, because of these records, if it is theirs."""

    def __init__(self, code: ErrorCode, text: str | None = None, records: Sequence[int] = ()) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.records = records


class _Opening:
    """How many records of one request are looked at."""

    def __init__(self) -> None:
        self._left = _RECORDS_MAX

    def take(self, count: int) -> None:
        """Raises _Refused if it is too many; clients divide what is too large."""
        if count > self._left:
            text = f"{count} records of a compacted topic where {self._left} more are the limit of a request"
            raise _Refused(ErrorCode.MESSAGE_TOO_LARGE, text)
        self._left -= count


def produce(connection: KafkaConnection, request: Request, reply: Reply, *, has_waited: bool = False) -> None:
    """Whoever has waited for the disk is not asked to again, as others might always be quicker."""
    node = connection.node
    if node.alarms.active:
        again = partial(produce, connection, request, reply, has_waited=has_waited)
        connection.server.block(reply, again)
        return
    if node.flusher.crowded and not has_waited:
        again = partial(produce, connection, request, reply, has_waited=True)
        connection.server.postpone(reply, node.flusher.open, again)
        return
    node.metrics.produce_requests += 1
    body = request.body
    commits: dict[Commit, None] = {}
    opening = _Opening()
    failed = False
    topics: list[dict[str, Any]] = []
    for topic in body["topic_data"]:
        results = []
        for one in topic["partition_data"]:
            result = _partition_result(connection, request, topic["name"], one, commits, opening)
            failed |= result["error_code"] != ErrorCode.NONE
            results.append(result)
        topics.append({"name": topic["name"], "partition_responses": results})
    if body["acks"] == 0:
        reply.skip()
        if failed:
            connection.refuse("a batch with acks=0 was refused, and there is no other way to say so")
        return
    commit = next(reversed(commits), None)  # the last of them is the newest
    reply.answer_after(commit, {"responses": topics})


def _partition_result(
    connection: KafkaConnection,
    request: Request,
    name: str,
    one: dict[str, Any],
    commits: dict[Commit, None],
    opening: _Opening,
) -> dict[str, Any]:
    try:
        partition = _partition(connection, request, name, one["index"])
        header = _checked(partition, request, one["records"], opening)
        appended = partition.append(header, one["records"])
    except _Refused as refused:
        return _refusal(one["index"], refused.code, refused.text, refused.records)
    except RecordProblem as problem:
        return _refusal(one["index"], problem.code, problem.text)
    except ModelError as error:
        return _refusal(one["index"], code_of(error), str(error))
    commits[appended.commit] = None
    connection.node.metrics.records_received += header.count
    connection.node.metrics.record_octets_received += header.size
    return {
        "index": one["index"],
        "error_code": ErrorCode.NONE,
        "base_offset": appended.base_offset,
        "log_append_time_ms": appended.log_append_time,
        "log_start_offset": partition.start_offset,
    }


def _refusal(index: int, code: ErrorCode, text: str | None, records: Sequence[int] = ()) -> dict[str, Any]:
    errors = [{"batch_index": number, "batch_index_error_message": text} for number in records]
    return {
        "index": index,
        "error_code": code,
        "base_offset": -1,
        "record_errors": errors,
        "error_message": text,
    }


def _partition(connection: KafkaConnection, request: Request, name: str, index: int) -> Partition:
    if request.body["acks"] not in _ACKS:
        raise _Refused(ErrorCode.INVALID_REQUIRED_ACKS)
    if request.body["transactional_id"] is not None:
        raise _Refused(ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, NO_TRANSACTIONS)
    if not connection.allows(Right.WRITE, name):
        raise _Refused(ErrorCode.TOPIC_AUTHORIZATION_FAILED)
    topic = connection.node.topics.topic(connection.server.options.vhost, name)
    if topic.internal:
        raise _Refused(ErrorCode.INVALID_TOPIC_EXCEPTION, f"topic '{name}' is the broker's own")
    return topic.partition(index)


def _checked(
    partition: Partition, request: Request, octets: memoryview | None, opening: _Opening
) -> BatchHeader:
    """The header of a batch that may be appended."""
    settings = partition.settings
    header = records.check(octets if octets is not None else memoryview(b""), settings.message_size_max)
    if header.attributes & 7 == _ZSTD and request.version < _ZSTD_VERSION_MIN:
        raise _Refused(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE)
    if not settings.append_time:
        now_ms = partition.now_ms()
        if header.max_timestamp > now_ms + settings.after_max_ms:
            raise _Refused(
                ErrorCode.INVALID_TIMESTAMP,
                f"timestamp {header.max_timestamp} is more than {settings.after_max_ms} ms ahead",
            )
        if 0 <= header.base_timestamp < now_ms - settings.before_max_ms:
            raise _Refused(
                ErrorCode.INVALID_TIMESTAMP,
                f"timestamp {header.base_timestamp} is more than {settings.before_max_ms} ms ago",
            )
    if header.count > _RECORDS_MAX:
        text = f"{header.count} records in a batch, where {_RECORDS_MAX} are the limit"
        raise _Refused(ErrorCode.MESSAGE_TOO_LARGE, text)
    if settings.compacts:
        opening.take(header.count)
        _check_keys(octets, max(_INFLATED_SIZE_MIN, _INFLATED_GROWTH_MAX * header.size))
    return header


def _check_keys(octets: Any, inflated_size_max: int) -> None:
    """What is compacted by key needs one in each record."""
    found = outlines(octets, inflated_size_max=inflated_size_max)
    keyless = list(islice((offset for offset, key, _, _, _ in found if key is None), _ERRORS_MAX))
    if keyless:
        raise _Refused(ErrorCode.INVALID_RECORD, "a record of a compacted topic has no key", keyless)


def init_producer_id(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    if request.body["transactional_id"] is not None:
        # There is no place for a text; whoever came here without asking for the coordinator gives up with this one.
        code = ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        reply.answer({"error_code": code, "producer_id": -1, "producer_epoch": -1})
        return
    id, commit = connection.node.producer_ids.take()
    reply.answer_after(commit, {"error_code": ErrorCode.NONE, "producer_id": id, "producer_epoch": 0})


HANDLERS: Final[dict[int, Handler]] = {
    api.PRODUCE.key: produce,
    api.INIT_PRODUCER_ID.key: init_producer_id,
}
