"""From what a consumer says to offsets: the beginning, the end, a moment.

Flow:   `look_up` asks the leaders of the partitions, and others if these have changed.
Limits: the URL's `request_timeout` for all of it.
Spec:   ListOffsets (2): time -1 is the end, -2 the beginning, others give the first record that is not older.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Final, Literal, TypeAlias

import anyio

from broker.kafka import api as apis
from broker.kafka.errors import ErrorCode
from broker.kafka.wire import Struct
from leveret.errors import AuthenticationFailed, ConnectionFailed, InvalidValue, LeveretError
from leveret.log.backoff import Backoff
from leveret.log.cluster import MISSING_S, Cluster
from leveret.log.errors import RETRIABLE, UNREACHED, refused
from leveret.log.record import TopicPartition, milliseconds
from leveret.log.url import Address

Offset: TypeAlias = int | datetime | Literal["earliest", "latest"]

_LATEST: Final = -1
_EARLIEST: Final = -2
_NAMED: Final = {"earliest": _EARLIEST, "latest": _LATEST}
_OFFSET_MAX: Final = (1 << 63) - 1
_REPLICA_OF_CONSUMERS: Final = -1


def check(offset: Offset) -> None:
    """Raises InvalidValue for what is none."""
    if isinstance(offset, datetime):
        milliseconds(offset)
    elif isinstance(offset, str):
        if offset not in _NAMED:
            raise InvalidValue(f"an offset is earliest, latest, a number or a time, and not {offset!r}")
    elif not (isinstance(offset, int) and 0 <= offset <= _OFFSET_MAX):
        raise InvalidValue(f"an offset is a number from 0 on, and not {offset!r}")


async def look_up(
    cluster: Cluster, places: Collection[TopicPartition], offset: Offset
) -> dict[TopicPartition, int]:
    """Where each of them is to be read from; where nothing is as new as a given time, that is the end.

    Raises UnknownTopic, NotAuthorized, ConnectionFailed, AuthenticationFailed.
    """
    if isinstance(offset, int):
        return dict.fromkeys(places, offset)
    time = milliseconds(offset) if isinstance(offset, datetime) else _NAMED[offset]
    found = await _offsets(cluster, places, time)
    beyond = [place for place, number in found.items() if number < 0]
    return {**found, **await _offsets(cluster, beyond, _LATEST)} if beyond else found


async def _offsets(
    cluster: Cluster, places: Collection[TopicPartition], time: int
) -> dict[TopicPartition, int]:
    found: dict[TopicPartition, int] = {}
    problem: LeveretError | None = None
    backoff = Backoff()
    with anyio.move_on_after(cluster.url.request_s):
        while True:
            missing = [place for place in places if place not in found]
            for leader, led in (await _by_leader(cluster, missing)).items():
                try:
                    answer = await cluster.ask_at(leader, apis.LIST_OFFSETS, _body(led, time))
                except AuthenticationFailed:
                    raise
                except UNREACHED as error:
                    problem = error
                    for place in led:
                        cluster.is_stale(place.topic)
                else:
                    problem = _take(cluster, answer, found) or problem
            if len(found) >= len(places):
                return found
            await backoff.pause()
    text = f"the offsets of {len(places)} partitions were not found within {cluster.url.request_s:g} s"
    raise ConnectionFailed(f"{text}: {problem}" if problem else text)


async def _by_leader(
    cluster: Cluster, places: Collection[TopicPartition]
) -> dict[Address, list[TopicPartition]]:
    leaders: dict[Address, list[TopicPartition]] = {}
    for place in places:
        if cluster.leader(place) is None:
            # Of a topic that was there. It may be deleted; we do not make it again.
            await cluster.refresh(place.topic, creates=False, patience_s=MISSING_S)
        leader = cluster.leader(place)
        if leader is None:
            raise refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, str(place))
        leaders.setdefault(leader, []).append(place)
    return leaders


def _body(places: Collection[TopicPartition], time: int) -> Struct:
    topics = [
        {"name": name, "partitions": [{"partition_index": number, "timestamp": time} for number in numbers]}
        for name, numbers in by_topic(places)
    ]
    return {"replica_id": _REPLICA_OF_CONSUMERS, "topics": topics}


def _take(cluster: Cluster, answer: Struct, found: dict[TopicPartition, int]) -> LeveretError | None:
    """Add what was found; gives what is wrong with the others, if that may pass."""
    problem = None
    for topic in answer["topics"]:
        for one in topic["partitions"]:
            place = TopicPartition(topic["name"], one["partition_index"])
            code = one["error_code"]
            if not code:
                found[place] = one["offset"]
                continue
            problem = refused(code, str(place))
            if code not in RETRIABLE:
                raise problem
            cluster.is_stale(place.topic)
    return problem


def by_topic(places: Collection[TopicPartition]) -> Iterator[tuple[str, list[int]]]:
    """Each topic with its partitions, as requests have them."""
    topics: dict[str, list[int]] = {}
    for topic, partition in places:
        topics.setdefault(topic, []).append(partition)
    yield from topics.items()
