"""Brings batches to the brokers that lead their partitions.

Flow:   one task goes round: for each broker it fills requests with batches that are due, one of a partition
        in each, and sends them. Answers come in between, and have it go round again. What must be waited for
        (a connection, a leader, an identity) is waited for in tasks of their own.
Limits: `UNANSWERED_MAX` requests to a broker are under way, each of about `REQUEST_SIZE_MAX` octets. A batch
        is given up when its time is over; an attempt that was made before that may take the URL's
        `request_timeout` longer.
Spec:   Produce (0) with acks of all replicas, InitProducerId (22).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import anyio
from anyio import CancelScope, Event
from anyio.abc import TaskGroup

from broker.kafka import api as apis
from broker.kafka.errors import ErrorCode
from broker.kafka.wire import Struct
from leveret.errors import AuthenticationFailed, LeveretError
from leveret.log.accumulator import Accumulator
from leveret.log.backoff import Backoff
from leveret.log.batch import Batch, Identity
from leveret.log.cluster import Cluster
from leveret.log.connection import Call, Connection
from leveret.log.errors import (
    RETRIABLE,
    STALE,
    NotAuthorized,
    ProducerFailed,
    Reason,
    SendFailed,
    UnknownTopic,
    may_pass,
    name_of,
    refused,
)
from leveret.log.pipeline import Pipeline
from leveret.log.record import TopicPartition
from leveret.log.url import Address

UNANSWERED_MAX: Final = 5
REQUEST_SIZE_MAX: Final = 1024 * 1024
_ALL_REPLICAS: Final = -1
# Before something that failed is tried again; the network has longer pauses of its own.
_PAUSE_S: Final = 0.1

_TOO_LARGE: Final = frozenset({ErrorCode.MESSAGE_TOO_LARGE, ErrorCode.RECORD_LIST_TOO_LARGE})
_FATAL: Final = frozenset(
    {
        ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
        ErrorCode.INVALID_PRODUCER_EPOCH,
        ErrorCode.PRODUCER_FENCED,
        ErrorCode.UNKNOWN_PRODUCER_ID,
        ErrorCode.INVALID_PRODUCER_ID_MAPPING,
        ErrorCode.CLUSTER_AUTHORIZATION_FAILED,
    }
)


class Sender:
    """The running part of a producer."""

    def __init__(self, cluster: Cluster, accumulator: Accumulator) -> None:
        self.reason: Reason | None = None
        """Why nothing can be sent any more."""
        self._cluster = cluster
        self._accumulator = accumulator
        self._options = accumulator.options
        self._lane = cluster.pool.lane()
        self._identity: Identity | None = None
        self._connections: dict[Address, Connection] = {}
        self._unanswered: dict[Connection, int] = {}
        self._under_way: set[object] = set()
        """What is waited for in other tasks: addresses, topics, and the identity."""
        self._problem = ""
        """What went wrong last, if nothing has gone well since."""
        self._scope = CancelScope(shield=True)
        self._bell = Event()
        self._tasks: TaskGroup | None = None

    def ring(self) -> None:
        """There is something to do."""
        self._bell.set()

    async def run(self) -> None:
        """Until `stop`."""
        try:
            with self._scope:
                async with anyio.create_task_group() as self._tasks:
                    while True:
                        self._bell = Event()
                        with CancelScope(deadline=self._go_round()):
                            await self._bell.wait()
        finally:
            self._fail(partial(SendFailed, "the producer was closed", maybe_sent=True))
            self._cluster.pool.close_lane(self._lane)

    def stop(self) -> None:
        self._scope.cancel()

    async def identify(self) -> None:
        """Get a new identity. Raises ConnectionFailed, AuthenticationFailed, BrokerError."""
        backoff = Backoff()
        code: int = ErrorCode.REQUEST_TIMED_OUT
        with anyio.move_on_after(self._cluster.url.request_s):
            while True:
                answer = await self._cluster.ask(apis.INIT_PRODUCER_ID, {"transactional_id": None})
                code = answer["error_code"]
                if not code:
                    self._identity = Identity(answer["producer_id"], answer["producer_epoch"])
                    return
                if code not in RETRIABLE:
                    break
                await backoff.pause()
        raise refused(code, "no producer id")

    # ---- going round ----

    def _go_round(self) -> float:
        """Send what can be sent; gives the time when there is something to do again."""
        now = anyio.current_time()
        options = self._options
        again = math.inf
        ready: dict[Address, list[Pipeline]] = {}
        for place, pipeline in list(self._accumulator.active.items()):
            for batch in pipeline.expire(now):
                self._accumulator.give_up(batch, self._too_late(batch))
            if not pipeline:
                del self._accumulator.active[place]
                continue
            due = pipeline.due(now, options.linger_s, options.batch_size)
            again = min(again, pipeline.deadline or math.inf)
            if due is not None and due > now:
                again = min(again, due)
            elif due is not None and self._has_identity_for(pipeline):
                leader = self._leader(place)
                if leader is not None:
                    ready.setdefault(leader, []).append(pipeline)
        for leader, pipelines in ready.items():
            connection = self._connection_to(leader)
            if connection is not None:
                self._send_to(connection, pipelines, now)
        return again

    def _has_identity_for(self, pipeline: Pipeline) -> bool:
        if not self._options.idempotent:
            return True
        if self._identity is not None and pipeline.can_use(self._identity):
            return True
        self._start(Identity, self.identify, self._no_identity)
        return False

    def _no_identity(self, error: LeveretError) -> None:
        if not may_pass(error):
            self._fail(partial(ProducerFailed, str(error)))

    def _leader(self, place: TopicPartition) -> Address | None:
        leader = self._cluster.leader(place)
        if leader is None or self._cluster.is_old(place.topic):
            topic = place.topic
            self._start(topic, partial(self._find_leaders, topic), partial(self._no_leader, topic))
        return leader

    async def _find_leaders(self, topic: str) -> None:
        await self._cluster.refresh(topic, patience_s=self._cluster.url.request_s)
        for place in self._accumulator.active:
            if place.topic == topic and self._cluster.lacks(place):
                raise refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, str(place))

    def _no_leader(self, topic: str, error: LeveretError) -> None:
        """If nobody knows the partition, nothing is to be hoped for; else the batches' time decides."""
        if isinstance(error, UnknownTopic | NotAuthorized):
            for place, pipeline in self._accumulator.active.items():
                if place.topic == topic and self._cluster.leader(place) is None:
                    for batch in pipeline.give_up_unsent():
                        self._accumulator.give_up(batch, partial(SendFailed, str(error), error.code))

    def _connection_to(self, address: Address) -> Connection | None:
        """If it is open and takes one more request."""
        connection = self._connections.get(address)
        if connection is not None and connection.reason is not None:
            self._connections.pop(address)
            if not self._unanswered.get(connection):
                self._unanswered.pop(connection, None)
            connection = None
        if connection is None:
            self._start(address, partial(self._connect, address), partial(self._no_connection, address))
            return None
        return connection if self._unanswered[connection] < UNANSWERED_MAX else None

    async def _connect(self, address: Address) -> None:
        connection = await self._cluster.pool.get(address, self._lane)
        connection.version_of(apis.PRODUCE)
        self._connections[address] = connection
        self._unanswered.setdefault(connection, 0)

    def _no_connection(self, address: Address, _: LeveretError) -> None:
        """Another broker may lead by now what this one has led."""
        self._connections.pop(address, None)
        for place in self._accumulator.active:
            if self._cluster.leader(place) == address:
                self._cluster.is_stale(place.topic)

    def _start(
        self,
        what: object,
        wait_for: Callable[[], Awaitable[object]],
        failed: Callable[[LeveretError], None],
    ) -> None:
        """Unless it is under way: wait for it in another task, and go round again then."""
        if what in self._under_way:
            return
        self._under_way.add(what)
        assert self._tasks is not None
        self._tasks.start_soon(self._wait_for, what, wait_for, failed)

    async def _wait_for(
        self,
        what: object,
        wait_for: Callable[[], Awaitable[object]],
        failed: Callable[[LeveretError], None],
    ) -> None:
        try:
            await wait_for()
        except AuthenticationFailed as error:
            self._fail(partial(ProducerFailed, str(error)))
        except LeveretError as error:
            self._problem = str(error)
            failed(error)
            await anyio.sleep(_PAUSE_S)
        self._under_way.discard(what)
        self.ring()

    # ---- requests ----

    def _send_to(self, connection: Connection, pipelines: list[Pipeline], now: float) -> None:
        options = self._options
        while pipelines and self._unanswered[connection] < UNANSWERED_MAX:
            sent: list[tuple[Pipeline, Batch]] = []
            size = 0
            later: list[Pipeline] = []
            for pipeline in pipelines:
                due = pipeline.due(now, options.linger_s, options.batch_size)
                if due is None or due > now:
                    continue
                later.append(pipeline)
                if size < REQUEST_SIZE_MAX:
                    batch = pipeline.take(self._identity)
                    size += batch.size
                    sent.append((pipeline, batch))
            if sent:
                self._send(connection, sent)
            # Whoever was served comes last the next time.
            pipelines = later[len(sent) :] + later[: len(sent)]

    def _send(self, connection: Connection, sent: list[tuple[Pipeline, Batch]]) -> None:
        topics: dict[str, list[Struct]] = {}
        for pipeline, batch in sent:
            one = {"index": pipeline.place.partition, "records": batch.encode(self._options.codec)}
            topics.setdefault(pipeline.place.topic, []).append(one)
            self._accumulator.served(pipeline)
        seconds = self._cluster.url.request_s
        body = {
            "acks": _ALL_REPLICAS,
            "timeout_ms": self._cluster.url.request_timeout,
            "topic_data": [{"name": name, "partition_data": data} for name, data in topics.items()],
        }
        self._unanswered[connection] += 1
        connection.start(apis.PRODUCE, body, seconds, partial(self._answered, connection, sent))

    def _answered(self, connection: Connection, sent: list[tuple[Pipeline, Batch]], call: Call) -> None:
        if self.reason is not None:
            return
        now = anyio.current_time()
        self._unanswered[connection] -= 1
        if connection.reason is not None and not self._unanswered[connection]:
            del self._unanswered[connection]
        results: dict[TopicPartition, Struct] = {}
        for topic in call.body["responses"] if call.body is not None else ():
            for one in topic["partition_responses"]:
                results[TopicPartition(topic["name"], one["index"])] = one
        for pipeline, batch in sent:
            result = results.get(pipeline.place)
            if result is None:
                self._problem = f"{connection.address} gave no answer"
                pipeline.lost(batch, now)
            elif not self._settle(pipeline, batch, result, now):
                return
        self.ring()

    def _settle(self, pipeline: Pipeline, batch: Batch, result: Struct, now: float) -> bool:
        """False if that was the end of this producer."""
        code = result["error_code"]
        if code in (ErrorCode.NONE, ErrorCode.DUPLICATE_SEQUENCE_NUMBER):
            self._problem = ""
            pipeline.acknowledged(batch)
            self._accumulator.acknowledge(batch, result["base_offset"], result["log_append_time_ms"])
        elif not self._goes_again(pipeline, batch, code, now):
            said = result["error_message"] or "the broker refused the batch"
            text = f"{pipeline.place}: {said}: {name_of(code)}"
            if code in _FATAL:
                self._fail(partial(ProducerFailed, text, code))
                return False
            pipeline.refused(batch)
            self._accumulator.give_up(batch, partial(SendFailed, text, code, maybe_sent=batch.maybe_sent))
        return True

    def _goes_again(self, pipeline: Pipeline, batch: Batch, code: int, now: float) -> bool:
        """Whether it may be taken later: behind others, in halves, or just then."""
        if code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER:
            return pipeline.out_of_order(batch, now)
        if code in _TOO_LARGE:
            return pipeline.too_large(batch)
        if code not in RETRIABLE:
            return False
        if code in STALE:
            self._cluster.is_stale(pipeline.place.topic)
        self._problem = f"{pipeline.place}: {name_of(code)}"
        pipeline.postponed(batch, now)
        return True

    # ---- giving up ----

    def _too_late(self, batch: Batch) -> Reason:
        text = f"{batch.place}: not acknowledged within {self._options.timeout_s:g} s"
        if self._problem:
            text = f"{text}; what was wrong last: {self._problem}"
        return partial(SendFailed, text, maybe_sent=batch.maybe_sent)

    def _fail(self, reason: Reason) -> None:
        if self.reason is None:
            self.reason = reason
            self._accumulator.give_all_up(reason)
            self._scope.cancel()
