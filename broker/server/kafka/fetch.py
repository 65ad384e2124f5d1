"""Fetch: batches go out, or somebody waits for them.

Flow:   what is there is read; if that is enough, or an error, or time is up, it is the answer. Otherwise each
        partition's bell, or the deadline, has it looked at again, at the end of the pass that rang; if that was in
        vain, not before `_PAUSE_MS` later. Nothing more of the connection is handled while one for very much waits.
Shape:  a session (KIP-227) remembers the partitions of a consumer, which then tells only what is different and
        is told only of partitions with something new. It lives as long as its connection.
Limits: an answer has at most `fetch_size_max` octets and one batch; a session at most `_PARTITIONS_MAX` partitions, and
        all together `SESSIONS_SIZE_MAX` octets: whoever is given none asks for everything each time.
Spec:   KIP-74: the first batch comes whatever its size, so that nobody is stuck. KIP-227, KIP-516.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from broker.kafka import api
from broker.kafka.api import Request
from broker.kafka.errors import ErrorCode
from broker.model.errors import OffsetOutOfRange
from broker.model.user import Right
from broker.node.partition import Partition
from broker.node.scheduler import Timer
from broker.server.kafka.reply import Reply
from broker.storage.file import FileRange

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.handlers import Handler

_PARTITIONS_MAX: Final = 10_000
SESSIONS_SIZE_MAX: Final = 256 * 1024 * 1024
# What a partition costs in a session beside its topic's name, about.
_WANTED_COST: Final = 400
# Who waits for much would read what there is again for each batch that comes.
_PAUSE_MS: Final = 5
_BY_ID_FROM: Final = 13
_ZSTD: Final = 4
_ZSTD_VERSION_MIN: Final = 10
_ATTRIBUTES_END: Final = 22
_EPOCH_MAX: Final = 2**31 - 1

TopicKey: TypeAlias = "str | bytes"
"""A topic's name, or its id from version 13 on."""


class Wanted(NamedTuple):
    """What a consumer asks of one partition."""

    offset: int
    size_max: int
    leader_epoch: int


@dataclass(slots=True, eq=False)
class FetchSession:
    """What a consumer asked for so far."""

    id: int
    epoch: int
    by_id: bool
    wanted: dict[tuple[TopicKey, int], Wanted] = field(default_factory=dict)
    told: dict[tuple[TopicKey, int], tuple[int, int]] = field(default_factory=dict)
    """High watermark and start of each partition, as the consumer knows them."""
    size: int = 0
    """Octets that it takes in memory, about."""


@dataclass(slots=True, eq=False)
class Fetch:
    """A request that may wait."""

    connection: KafkaConnection
    reply: Reply
    version: int
    size_min: int
    size_max: int
    wanted: dict[tuple[TopicKey, int], Wanted]
    session: FetchSession | None
    is_full: bool
    """Every partition is in the answer."""
    timer: Timer | None = None
    pause: Timer | None = None
    release: Callable[[], None] | None = None
    waits_for: list[Partition] = field(default_factory=list)
    bell: Any = None


def fetch(connection: KafkaConnection, request: Request, reply: Reply) -> None:
    body = request.body
    options = connection.server.options
    connection.node.metrics.fetch_requests += 1
    code, session, wanted, is_full = _session(connection, request)
    if code is not ErrorCode.NONE:
        reply.answer({"error_code": code, "session_id": 0, "responses": []})
        return
    asked = Fetch(
        connection,
        reply,
        request.version,
        body["min_bytes"],
        min(max(body["max_bytes"], 0), options.fetch_size_max),
        wanted,
        session,
        is_full,
    )
    if _try(asked, final=body["max_wait_ms"] <= 0):
        return
    _wait(asked, min(body["max_wait_ms"], options.fetch_wait_max_ms))


# ---- sessions ----


def _session(
    connection: KafkaConnection, request: Request
) -> tuple[ErrorCode, FetchSession | None, dict[tuple[TopicKey, int], Wanted], bool]:
    """Whether it is a right one, the session if there is one, what is asked for, and whether all is to be told."""
    body = request.body
    by_id = request.version >= _BY_ID_FROM
    asked = _wanted(body["topics"], by_id)
    id, epoch = body["session_id"], body["session_epoch"]
    if epoch in (-1, 0):  # none or its end, or a new one
        _forget(connection)
        if epoch == 0:
            connection.session = FetchSession(random.randint(1, 2**31 - 1), 1, by_id)
            _remember(connection, connection.session, asked)
        return ErrorCode.NONE, connection.session, asked, True
    session = connection.session
    if session is None or session.id != id:
        return ErrorCode.FETCH_SESSION_ID_NOT_FOUND, None, {}, True
    if epoch != session.epoch:
        return ErrorCode.INVALID_FETCH_SESSION_EPOCH, None, {}, True
    if by_id != session.by_id:
        return ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR, None, {}, True
    session.epoch = 1 if session.epoch == _EPOCH_MAX else session.epoch + 1
    for gone in body["forgotten_topics_data"]:
        topic = gone["topic_id"] if by_id else gone["topic"]
        for number in gone["partitions"]:
            if session.wanted.pop((topic, number), None) is not None:
                _count(connection, session, -_cost(topic))
            session.told.pop((topic, number), None)
    if not _remember(connection, session, asked):
        return ErrorCode.FETCH_SESSION_ID_NOT_FOUND, None, {}, True
    return ErrorCode.NONE, session, session.wanted, False


def _remember(
    connection: KafkaConnection, session: FetchSession, asked: dict[tuple[TopicKey, int], Wanted]
) -> bool:
    """What is asked from now on; if that is too much, there is no session any more."""
    more = sum(_cost(key[0]) for key in asked if key not in session.wanted)
    session.wanted |= asked
    _count(connection, session, more)
    if len(session.wanted) <= _PARTITIONS_MAX and connection.server.sessions_size <= SESSIONS_SIZE_MAX:
        return True
    _forget(connection)
    return False


def _forget(connection: KafkaConnection) -> None:
    if connection.session is not None:
        _count(connection, connection.session, -connection.session.size)
        connection.session = None


def _cost(topic: TopicKey) -> int:
    return _WANTED_COST + len(topic)


def _count(connection: KafkaConnection, session: FetchSession, more: int) -> None:
    session.size += more
    connection.server.sessions_size += more


def _wanted(topics: Iterable[dict[str, Any]], by_id: bool) -> dict[tuple[TopicKey, int], Wanted]:
    return {
        (topic["topic_id"] if by_id else topic["topic"], one["partition"]): Wanted(
            one["fetch_offset"], one["partition_max_bytes"], one["current_leader_epoch"]
        )
        for topic in topics
        for one in topic["partitions"]
    }


# ---- waiting ----


def _wait(asked: Fetch, wait_ms: int) -> None:
    connection = asked.connection
    again = partial(connection.guard, partial(_look_again, asked))
    asked.bell = partial(connection.server.ring_soon, again)
    for topic, number in asked.wanted:
        found = _find(connection, topic, number)
        if isinstance(found, Partition):
            found.bells[asked.bell] = None
            asked.waits_for.append(found)
    asked.timer = connection.node.scheduler.after(
        wait_ms, partial(connection.guard, partial(_time_is_up, asked))
    )
    asked.reply.when_gone = partial(_let_go, asked)
    asked.release = connection.hold_if_large()


def _let_go(asked: Fetch) -> None:
    for timer in (asked.timer, asked.pause):
        if timer is not None:
            timer.cancel()
    for found in asked.waits_for:
        found.bells.pop(asked.bell, None)
    asked.waits_for.clear()
    if asked.release is not None:
        asked.release()


def _look_again(asked: Fetch) -> None:
    if asked.reply.done or asked.connection.gone or (asked.pause is not None and asked.pause.waiting):
        return
    if _try(asked, final=False):
        _let_go(asked)
        return
    connection = asked.connection
    listen = partial(connection.guard, partial(_listen_again, asked))
    asked.pause = connection.node.scheduler.after(_PAUSE_MS, listen)


def _listen_again(asked: Fetch) -> None:
    """Those that rang forgot us, and may have more by now."""
    asked.pause = None
    for found in asked.waits_for:
        if not found.closed:
            found.bells[asked.bell] = None
    if _try(asked, final=False):
        _let_go(asked)


def _time_is_up(asked: Fetch) -> None:
    if not asked.reply.done and not asked.connection.gone:
        _try(asked, final=True)
        _let_go(asked)


# ---- answering ----


def _try(asked: Fetch, *, final: bool) -> bool:
    """Answer if there is enough, or if it is time to."""
    found: dict[TopicKey, list[dict[str, Any]]] = {}
    size = 0
    answers = final
    served: list[tuple[TopicKey, int]] = []
    sent: list[tuple[Partition, int]] = []
    for (topic, number), wanted in asked.wanted.items():
        partition = _find(asked.connection, topic, number)
        room = asked.size_max - size if size else None
        result = _read(asked, number, partition, wanted, room)
        octets = result["records"]
        size += len(octets)
        answers |= result["error_code"] != ErrorCode.NONE
        if octets and isinstance(partition, Partition):
            served.append((topic, number))
            sent.append((partition, len(octets)))
        if asked.is_full or octets or _is_news(asked.session, (topic, number), result):
            found.setdefault(topic, []).append(result)
    if not (answers or size >= asked.size_min or not asked.wanted):
        return False
    asked.connection.node.metrics.record_octets_sent += size
    for read, octets_out in sent:
        read.traffic.octets_out += octets_out
    _tell(asked, found, served)
    return True


def _is_news(session: FetchSession | None, key: tuple[TopicKey, int], result: dict[str, Any]) -> bool:
    assert session is not None
    known = session.told.get(key)
    return result["error_code"] != ErrorCode.NONE or known != (
        result["high_watermark"],
        result["log_start_offset"],
    )


def _tell(
    asked: Fetch, found: dict[TopicKey, list[dict[str, Any]]], served: list[tuple[TopicKey, int]]
) -> None:
    session = asked.session
    by_id = asked.version >= _BY_ID_FROM
    responses = []
    for topic, results in found.items():
        responses.append({"topic_id" if by_id else "topic": topic, "partitions": results})
        if session is not None:
            for result in results:
                key = (topic, result["partition_index"])
                session.told[key] = (result["high_watermark"], result["log_start_offset"])
    if session is not None:
        for key in served:  # whoever got something is last the next time
            if key in session.wanted:
                session.wanted[key] = session.wanted.pop(key)
    asked.reply.answer(
        {
            "error_code": ErrorCode.NONE,
            "session_id": session.id if session is not None else 0,
            "responses": responses,
        }
    )


def _find(connection: KafkaConnection, key: TopicKey, number: int) -> Partition | ErrorCode:
    topics = connection.node.topics
    vhost = connection.server.options.vhost
    by_id = isinstance(key, bytes)
    topic = topics.by_id(key) if isinstance(key, bytes) else topics.find(vhost, key)
    if isinstance(key, str) and not connection.allows(Right.READ, key):
        return ErrorCode.TOPIC_AUTHORIZATION_FAILED
    if topic is None or topic.vhost != vhost:
        return ErrorCode.UNKNOWN_TOPIC_ID if by_id else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    if not connection.allows(Right.READ, topic.name):
        return ErrorCode.TOPIC_AUTHORIZATION_FAILED
    if not 0 <= number < len(topic.partitions):
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    return topic.partitions[number]


def _read(
    asked: Fetch, number: int, found: Partition | ErrorCode, wanted: Wanted, room: int | None
) -> dict[str, Any]:
    """What one partition has; nothing if there is no room in the answer any more. None: nothing is in it yet."""
    if isinstance(found, ErrorCode):
        return _failed(number, found)
    if wanted.leader_epoch > 0:
        return _failed(number, ErrorCode.UNKNOWN_LEADER_EPOCH)
    octets: bytes | FileRange = b""
    size_max = max(min(asked.size_max if room is None else room, wanted.size_max), 0)
    try:
        if room is None or room > 0:
            if asked.version < _ZSTD_VERSION_MIN:  # what they cannot inflate, only the octets tell
                octets = found.read(wanted.offset, size_max)
            else:
                octets = found.share(wanted.offset, size_max)
    except OffsetOutOfRange:
        return _failed(number, ErrorCode.OFFSET_OUT_OF_RANGE)
    if isinstance(octets, bytes) and asked.version < _ZSTD_VERSION_MIN and _is_zstd(octets):
        return _failed(number, ErrorCode.UNSUPPORTED_COMPRESSION_TYPE)
    return {
        "partition_index": number,
        "error_code": ErrorCode.NONE,
        "high_watermark": found.high_watermark,
        "last_stable_offset": found.last_stable_offset,
        "log_start_offset": found.start_offset,
        "aborted_transactions": None,
        "preferred_read_replica": -1,
        "records": octets,
    }


def _is_zstd(octets: bytes) -> bool:
    return len(octets) > _ATTRIBUTES_END and octets[_ATTRIBUTES_END] & 7 == _ZSTD


def _failed(number: int, code: ErrorCode) -> dict[str, Any]:
    return {
        "partition_index": number,
        "error_code": code,
        "high_watermark": -1,
        "last_stable_offset": -1,
        "log_start_offset": -1,
        "aborted_transactions": None,
        "preferred_read_replica": -1,
        "records": b"",
    }


HANDLERS: Final[dict[int, Handler]] = {api.FETCH.key: fetch}
