"""The broker that looks after a group.

Flow:   it is looked for when it is needed first, and again when it was lost or says that it is another one.
Limits: `commit` and `committed` end after the URL's `request_timeout`.
Spec:   FindCoordinator (10), OffsetCommit (8), OffsetFetch (9).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final, NamedTuple

import anyio

from broker.kafka import api as apis
from broker.kafka.api import Api
from broker.kafka.errors import ErrorCode
from broker.kafka.wire import Struct
from leveret.errors import AuthenticationFailed, ConnectionFailed, LeveretError
from leveret.log.backoff import Backoff
from leveret.log.cluster import Cluster
from leveret.log.connection import Connection
from leveret.log.errors import (
    LOST_COORDINATOR,
    RETRIABLE,
    UNREACHED,
    BrokerError,
    CommitFailed,
    fenced,
    name_of,
    refused,
)
from leveret.log.offsets import by_topic
from leveret.log.pool import COMMON
from leveret.log.record import TopicPartition
from leveret.log.url import Address

_INSTANCES_FROM: Final = 5
_NOT_OURS: Final = frozenset(
    {ErrorCode.ILLEGAL_GENERATION, ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.REBALANCE_IN_PROGRESS}
)


class Member(NamedTuple):
    """Who somebody is in a group, since it was shared out last."""

    id: str
    generation: int


class Coordinator:
    """That of one group, for one who may be an instance that has an id of its own in it."""

    def __init__(self, cluster: Cluster, group: str, instance: str | None = None) -> None:
        self.group = group
        self.instance = instance
        self._cluster = cluster
        self._address: Address | None = None

    def forget(self) -> None:
        self._address = None

    async def ask(self, api: Api, body: Struct, lane: int = COMMON, seconds: float | None = None) -> Struct:
        """Once. Raises what `Pool.get` and `Connection.request` do, and what looking for it may."""
        if self._address is None:
            self._address = await self._find()
        connection = await self._cluster.pool.get(self._address, lane)
        if api is apis.JOIN_GROUP and self.instance is not None:
            self._check_knows_instances(connection)
        if seconds is None:
            seconds = self._cluster.url.request_s
        return await connection.request(api, {"group_id": self.group, **body}, seconds)

    def _check_knows_instances(self, connection: Connection) -> None:
        if connection.version_of(apis.JOIN_GROUP) < _INSTANCES_FROM:
            text = f"{connection.address} is too old for a group_instance_id"
            raise BrokerError(ErrorCode.UNSUPPORTED_VERSION, text)

    async def _find(self) -> Address:
        backoff = Backoff()
        code: int = ErrorCode.COORDINATOR_NOT_AVAILABLE
        with anyio.move_on_after(self._cluster.url.request_s):
            while True:
                body = {"key": self.group, "coordinator_keys": [self.group]}
                answer = await self._cluster.ask(apis.FIND_COORDINATOR, body)
                found = answer["coordinators"][0] if answer["coordinators"] else answer
                code = found["error_code"]
                if not code:
                    return Address(found["host"], found["port"])
                if code not in RETRIABLE:
                    raise refused(code, f"group {self.group!r} has no coordinator")
                await backoff.pause()
        raise ConnectionFailed(f"group {self.group!r} has no coordinator: {name_of(code)}")

    # ---- offsets ----

    async def commit(self, offsets: Mapping[TopicPartition, int], member: Member) -> None:
        """Raises CommitFailed, InstanceFenced if the member has not got these partitions any more; and others."""
        topics = [
            {
                "name": name,
                "partitions": [
                    {
                        "partition_index": number,
                        "committed_offset": offsets[TopicPartition(name, number)],
                        "committed_metadata": "",
                    }
                    for number in numbers
                ],
            }
            for name, numbers in by_topic(offsets)
        ]
        body = {
            "generation_id_or_member_epoch": member.generation,
            "member_id": member.id,
            "group_instance_id": self.instance,
            "topics": topics,
        }
        await self._ask_until(apis.OFFSET_COMMIT, body, self._check_commit)

    def _check_commit(self, answer: Struct) -> int:
        """An error that may pass, or 0."""
        for topic in answer["topics"]:
            for one in topic["partitions"]:
                code = one["error_code"]
                if code in _NOT_OURS:
                    text = f"group {self.group!r} has been shared out anew, or will be"
                    raise CommitFailed(code, text)
                if code == ErrorCode.FENCED_INSTANCE_ID:
                    raise fenced(self.group, self.instance)
                if code:
                    return self._may_pass(code, f"{topic['name']}[{one['partition_index']}]")
        return 0

    async def committed(self, places: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """The offsets that the group has committed; partitions of which it has none are left out."""
        topics = [{"name": name, "partition_indexes": numbers} for name, numbers in by_topic(places)]
        groups = [{"group_id": self.group, "topics": topics}]
        found: dict[TopicPartition, int] = {}

        def take(answer: Struct) -> int:
            group = answer["groups"][0] if answer["groups"] else answer
            if group["error_code"]:
                return self._may_pass(group["error_code"], "its offsets")
            for topic in group["topics"]:
                for one in topic["partitions"]:
                    place = TopicPartition(topic["name"], one["partition_index"])
                    if one["error_code"]:
                        return self._may_pass(one["error_code"], str(place))
                    if one["committed_offset"] >= 0:
                        found[place] = one["committed_offset"]
            return 0

        await self._ask_until(apis.OFFSET_FETCH, {"topics": topics, "groups": groups}, take)
        return found

    async def _ask_until(self, api: Api, body: Struct, take: Callable[[Struct], int]) -> None:
        """Until `take` finds nothing wrong with the answer."""
        problem: LeveretError | None = None
        backoff = Backoff()
        with anyio.move_on_after(self._cluster.url.request_s):
            while True:
                try:
                    code = take(await self.ask(api, body))
                    if not code:
                        return
                    problem = refused(code, api.name)
                except AuthenticationFailed:
                    raise
                except UNREACHED as error:
                    self.forget()
                    problem = error
                await backoff.pause()
        why = problem or f"{api.name} was not answered in time"
        raise ConnectionFailed(f"group {self.group!r}: {why}")

    def _may_pass(self, code: int, what: str) -> int:
        """The code of an error that may pass. Raises BrokerError for others."""
        if code in LOST_COORDINATOR:
            self.forget()
        if code not in RETRIABLE:
            raise refused(code, f"group {self.group!r}: {what}")
        return code
