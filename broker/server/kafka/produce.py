"""Produce and InitProducerId: batches come in, and are answered when they are safe.

Flow:   each partition's batch is checked by its header and appended as it came; the answer waits for the
        commit that makes them safe. With acks 0 there is no answer, and a connection that had an error ends.
Limits: of one request `_RECORDS_MAX` records of compacted topics are looked at, whose keys must be checked, and about
        `_INFLATED_MAX` bytes are inflated for that. A
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
from broker.kafka.outlines import walk
from broker.kafka.records import BatchHeader, RecordProblem
from broker.model.errors import ModelError
from broker.model.topic import TopicSettings
from broker.model.user import Right
from broker.node.flusher import Commit
from broker.node.topics import Topic
from broker.server.kafka.errors import NO_TRANSACTIONS, code_of
from broker.server.kafka.reply import Reply

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.handlers import Handler

_NOTHING: Final = memoryview(b"")
_ACKS: Final = frozenset({-1, 0, 1})
_ZSTD: Final = 4
_ZSTD_VERSION_MIN: Final = 7
# Whoever opens a batch holds up the others for some microseconds a record.
_RECORDS_MAX: Final = 200_000
# Of keyless records as many are told: their producer then knows that it is not the others.
_ERRORS_MAX: Final = 1000
_INFLATED_MAX: Final = 128 * 1024 * 1024


class _Refused(Exception):
    """A batch was not appended, because of these records, if it is theirs."""

    def __init__(self, code: ErrorCode, text: str | None = None, records: Sequence[int] = ()) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.records = records


_REFUSALS: Final = (_Refused, RecordProblem, ModelError)


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
    batches = _Batches(connection, request)
    topics = [
        {"name": topic["name"], "partition_responses": batches.append(topic)} for topic in body["topic_data"]
    ]
    if body["acks"] == 0:
        reply.skip()
        if batches.refused:
            connection.refuse("a batch with acks=0 was refused, and there is no other way to say so")
        return
    reply.answer_after(batches.commit, {"responses": topics})


class _Batches:
    """Of one request: where they go, and what is answered of each."""

    def __init__(self, connection: KafkaConnection, request: Request) -> None:
        self.commit: Commit | None = None
        """When it is done, all of them are safe."""
        self.refused = False
        """One of them was, at least."""
        self._connection = connection
        self._request = request
        self._now_ms = connection.node.clock.now_ms()
        # How many records may still be looked at.
        self._left = _RECORDS_MAX
        self._inflated_left = _INFLATED_MAX

    def append(self, topic: dict[str, Any]) -> list[dict[str, Any]]:
        """The results for the partitions of one topic."""
        partitions: list[dict[str, Any]] = topic["partition_data"]
        try:
            found = self._topic(topic["name"])
        except _REFUSALS as refusal:
            return [self._refusal(one["index"], refusal) for one in partitions]
        return [self._append(found, one["index"], one["records"] or _NOTHING) for one in partitions]

    def _append(self, topic: Topic, index: int, octets: memoryview) -> dict[str, Any]:
        try:
            partition = topic.partition(index)
            header = self._checked(partition.settings, octets)
            base_offset, append_time, self.commit = partition.append(header, octets)
        except _REFUSALS as refusal:
            return self._refusal(index, refusal)
        metrics = self._connection.node.metrics
        metrics.records_received += header.count
        metrics.record_octets_received += header.size
        return {
            "index": index,
            "base_offset": base_offset,
            "log_append_time_ms": append_time,
            "log_start_offset": partition.start_offset,
        }

    def _refusal(self, index: int, refusal: _Refused | RecordProblem | ModelError) -> dict[str, Any]:
        self.refused = True
        if isinstance(refusal, ModelError):
            refusal = _Refused(code_of(refusal), str(refusal))
        text = refusal.text
        numbers = refusal.records if isinstance(refusal, _Refused) else ()
        errors = [{"batch_index": number, "batch_index_error_message": text} for number in numbers]
        return {
            "index": index,
            "error_code": refusal.code,
            "base_offset": -1,
            "record_errors": errors,
            "error_message": text,
        }

    def _topic(self, name: str) -> Topic:
        """Raises one of `_REFUSALS`, as what is below does."""
        connection, body = self._connection, self._request.body
        if body["acks"] not in _ACKS:
            raise _Refused(ErrorCode.INVALID_REQUIRED_ACKS)
        if body["transactional_id"] is not None:
            raise _Refused(ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, NO_TRANSACTIONS)
        if not connection.allows(Right.WRITE, name):
            raise _Refused(ErrorCode.TOPIC_AUTHORIZATION_FAILED)
        topic = connection.node.topics.topic(connection.server.options.vhost, name)
        if topic.internal:
            raise _Refused(ErrorCode.INVALID_TOPIC_EXCEPTION, f"topic '{name}' is the broker's own")
        return topic

    def _checked(self, settings: TopicSettings, octets: memoryview) -> BatchHeader:
        """The header of a batch that may be appended."""
        header = records.check(octets, settings.message_size_max)
        if header.attributes & 7 == _ZSTD and self._request.version < _ZSTD_VERSION_MIN:
            raise _Refused(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE)
        if not settings.append_time:
            self._check_times(header, settings)
        if header.count > _RECORDS_MAX:
            text = f"{header.count} records in a batch, where {_RECORDS_MAX} are the limit"
            raise _Refused(ErrorCode.MESSAGE_TOO_LARGE, text)
        if settings.compacts:
            self._check_keys(header, octets)
        return header

    def _check_times(self, header: BatchHeader, settings: TopicSettings) -> None:
        ahead = header.max_timestamp - self._now_ms
        if ahead > settings.after_max_ms:
            text = f"timestamp {header.max_timestamp} is more than {settings.after_max_ms} ms ahead"
            raise _Refused(ErrorCode.INVALID_TIMESTAMP, text)
        if 0 <= header.base_timestamp < self._now_ms - settings.before_max_ms:
            text = f"timestamp {header.base_timestamp} is more than {settings.before_max_ms} ms ago"
            raise _Refused(ErrorCode.INVALID_TIMESTAMP, text)

    def _check_keys(self, header: BatchHeader, octets: memoryview) -> None:
        """What is compacted by key needs one in each record. Clients divide what is too large."""
        if header.count > self._left:
            text = f"{header.count} records of a compacted topic where {self._left} more are the limit of a request"
            raise _Refused(ErrorCode.MESSAGE_TOO_LARGE, text)
        if self._inflated_left <= 0:
            text = f"batches of compacted topics have more than {_INFLATED_MAX} bytes inflated, the limit of a request"
            raise _Refused(ErrorCode.MESSAGE_TOO_LARGE, text)
        self._left -= header.count
        payload = records.payload_of(octets, header, records.inflated_size_max_of(header.size))
        self._inflated_left -= len(payload)
        found = (offset for offset, key, _, _, _ in walk(header, payload) if key is None)
        keyless = list(islice(found, _ERRORS_MAX))
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
