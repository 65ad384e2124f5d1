"""Being a member of a group: joining, sharing the partitions out, staying, leaving.

Flow:   join, and wait until all others have, too; the leader shares out; everybody hears of its share; then
        heartbeats, until one is answered with "join again". What that means for reading, the consumer knows.
Shape:  joining -> syncing -> member -> joining ...
                                 `----> lost: others have the partitions -> joining
        fenced, if another one comes with our instance's id
Limits: a broker that is out of reach for the session timeout has given our partitions to others. Leaving
        takes as long as the caller waits.
Spec:   JoinGroup (11), SyncGroup (14), Heartbeat (12), LeaveGroup (13) with eager rebalancing; KIP-62, KIP-394.
        KIP-345 (instances with ids): who has one does not leave. KIP-814: a leader that is back, where nothing
        has changed, shares nothing out.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Final

import anyio

from broker.kafka import api as apis
from broker.kafka.consumer_protocol import (
    Assignment,
    Subscription,
    read_assignment,
    topics_of,
    write_assignment,
    write_subscription,
)
from broker.kafka.errors import ErrorCode
from broker.kafka.wire import Struct
from leveret.errors import LeveretError
from leveret.log import assignor
from leveret.log.background import Background
from leveret.log.backoff import Backoff
from leveret.log.cluster import AGE_S, Cluster
from leveret.log.coordinator import Coordinator, Member
from leveret.log.errors import LOST_COORDINATOR, RETRIABLE, fenced, may_pass, refused
from leveret.log.record import TopicPartition

logger = logging.getLogger("leveret")

NOBODY: Final = Member("", -1)
_PROTOCOL_TYPE: Final = "consumer"
# Later versions tell what a member had, which only other assignors ask for.
_VERSION: Final = 0


@dataclass(slots=True, frozen=True)
class MemberOptions:
    """What `Log.consumer` was told of the group."""

    topics: tuple[str, ...]
    session_s: float
    heartbeat_s: float
    rebalance_s: float


@dataclass(slots=True, frozen=True)
class Reader:
    """Who reads the partitions: what the consumer does when they change."""

    hold: Callable[[], Awaitable[None]]
    """Give no more records; returns when nobody has one in hand any more."""
    revoke: Callable[[bool], Awaitable[None]]
    """The partitions are not ours any more. If they are lost (True), they are others' already."""
    assign: Callable[[Collection[TopicPartition]], Awaitable[None]]
    """These are ours now."""


class _JoinAgain(Exception):
    """The group is shared out anew; if `lost`, what we had is others' already."""

    def __init__(self, *, lost: bool) -> None:
        self.lost = lost


class Membership:
    """That of one consumer."""

    def __init__(
        self, cluster: Cluster, coordinator: Coordinator, options: MemberOptions, reader: Reader
    ) -> None:
        self.member = NOBODY
        self._cluster = cluster
        self._coordinator = coordinator
        self._options = options
        self._reader = reader
        self._lane = cluster.pool.lane()
        self._partitions: dict[str, int] = {}
        """If we lead: what was shared out."""

    async def run(self) -> None:
        """Raises what no member can do anything about: BrokerError, AuthenticationFailed."""
        backoff = Backoff()
        while True:
            try:
                places = await self._join()
                await self._begin(places)
                backoff.reset()
                await self._stay()
            except _JoinAgain as again:
                lost = again.lost
            except LeveretError as error:
                if not may_pass(error):
                    raise
                logger.warning("group %r: joining again: %s", self._coordinator.group, error)
                self._coordinator.forget()
                lost = True
            if not lost:
                await self._hold()
            await self._reader.revoke(lost)
            if lost:
                await backoff.pause()

    # ---- joining ----

    async def _join(self) -> list[TopicPartition]:
        """Our share. Raises _JoinAgain, BrokerError, and what the network does."""
        joined = await self._ask_to_join()
        if joined["error_code"] == ErrorCode.MEMBER_ID_REQUIRED:
            self.member = Member(joined["member_id"], -1)
            joined = await self._ask_to_join()
        self._check(joined["error_code"], "joining")
        self.member = Member(joined["member_id"], joined["generation_id"])
        self._partitions = {}
        shares: list[Struct] = []
        if joined["leader"] == self.member.id:
            shares = await self._share_out(joined["members"])
            if joined["skip_assignment"]:
                shares = []
        synced = await self._coordinator.ask(
            apis.SYNC_GROUP,
            {
                **self._identity(),
                "protocol_type": _PROTOCOL_TYPE,
                "protocol_name": assignor.NAME,
                "assignments": shares,
            },
            self._lane,
            self._patience_s,
        )
        self._check(synced["error_code"], "being assigned partitions")
        assigned = read_assignment(synced["assignment"])
        return [
            TopicPartition(topic, number)
            for topic, numbers in (assigned.partitions.items() if assigned is not None else ())
            for number in numbers
        ]

    async def _ask_to_join(self) -> Struct:
        options = self._options
        metadata = write_subscription(Subscription(options.topics), _VERSION)
        body = {
            "session_timeout_ms": round(options.session_s * 1000),
            "rebalance_timeout_ms": round(options.rebalance_s * 1000),
            "member_id": self.member.id,
            "group_instance_id": self._coordinator.instance,
            "protocol_type": _PROTOCOL_TYPE,
            "protocols": [{"name": assignor.NAME, "metadata": metadata}],
        }
        return await self._coordinator.ask(apis.JOIN_GROUP, body, self._lane, self._patience_s)

    @property
    def _patience_s(self) -> float:
        """How long others may keep us waiting; the network comes on top."""
        return self._options.rebalance_s + self._cluster.url.request_s

    def _identity(self) -> Struct:
        return {
            "member_id": self.member.id,
            "group_instance_id": self._coordinator.instance,
            "generation_id": self.member.generation,
        }

    async def _share_out(self, members: list[Struct]) -> list[Struct]:
        wanted = {one["member_id"]: topics_of(one["metadata"]) or frozenset() for one in members}
        for topic in sorted({topic for topics in wanted.values() for topic in topics}):
            try:
                self._partitions[topic] = (await self._cluster.topic(topic, creates=False)).partitions
            except LeveretError as error:
                if may_pass(error):
                    raise
                # Who wants it may not be what we are, or may not know what it wants.
                logger.warning("group %r: nobody gets anything of %s", self._coordinator.group, error)
        instances = {
            one["member_id"]: one["group_instance_id"]
            for one in members
            if one["group_instance_id"] is not None
        }
        return [
            {"member_id": member, "assignment": write_assignment(Assignment(share), _VERSION)}
            for member, share in assignor.share_out(wanted, self._partitions, instances).items()
        ]

    async def _begin(self, places: Collection[TopicPartition]) -> None:
        """Looking up where to begin may take longer than a session: heartbeats go on meanwhile."""
        alive = Background()
        await alive.open()
        try:
            alive.start(self._keep_alive)
            await self._reader.assign(places)
        except BaseException as error:
            await alive.close(type(error), error, error.__traceback__)
            raise
        await alive.close(None, None, None)

    # ---- staying ----

    async def _stay(self) -> None:
        """Heartbeats, until one raises _JoinAgain."""
        heard_at = looked_at = anyio.current_time()
        while True:
            await anyio.sleep(self._options.heartbeat_s)
            if await self._beat():
                heard_at = anyio.current_time()
            elif anyio.current_time() - heard_at > self._options.session_s:
                raise _JoinAgain(lost=True)
            if self._partitions and anyio.current_time() - looked_at > AGE_S:
                looked_at = anyio.current_time()
                with anyio.move_on_after(self._options.heartbeat_s):
                    await self._look_at_topics()

    async def _beat(self) -> bool:
        """Whether the broker has heard of us. Raises _JoinAgain."""
        try:
            answer = await self._coordinator.ask(apis.HEARTBEAT, self._identity(), self._lane)
        except LeveretError as error:
            if not may_pass(error):
                raise
            self._coordinator.forget()
            return False
        return self._check(answer["error_code"], "a heartbeat", passes=True)

    async def _look_at_topics(self) -> None:
        """Whether there are more partitions to share out. Raises _JoinAgain."""
        for topic, count in self._partitions.items():
            try:
                known = await self._cluster.topic(topic, creates=False)
            except LeveretError:
                continue  # it is looked at again
            if known.partitions != count:
                raise _JoinAgain(lost=False)

    async def _hold(self) -> None:
        """Before we join again nobody has a record in hand; the group waits for us so long, but not for ever."""
        with anyio.move_on_after(self._options.rebalance_s / 2):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_alive)
                await self._reader.hold()
                tasks.cancel_scope.cancel()

    async def _keep_alive(self) -> None:
        while True:
            await anyio.sleep(self._options.heartbeat_s)
            try:
                await self._beat()
            except (_JoinAgain, LeveretError):
                pass  # joining will show it

    def _check(self, code: int, what: str, *, passes: bool = False) -> bool:
        """True if all is well; False for what passes, if it may. Raises _JoinAgain, BrokerError."""
        if not code:
            return True
        if code == ErrorCode.REBALANCE_IN_PROGRESS:
            raise _JoinAgain(lost=False)
        if code == ErrorCode.ILLEGAL_GENERATION:
            self.member = Member(self.member.id, -1)
            raise _JoinAgain(lost=True)
        if code == ErrorCode.UNKNOWN_MEMBER_ID:
            self.member = NOBODY
            raise _JoinAgain(lost=True)
        if code == ErrorCode.FENCED_INSTANCE_ID:
            raise fenced(self._coordinator.group, self._coordinator.instance)
        if code in LOST_COORDINATOR:
            self._coordinator.forget()
        if code not in RETRIABLE:
            raise refused(code, f"group {self._coordinator.group!r}: {what}")
        if not passes:
            raise _JoinAgain(lost=True)
        return False

    # ---- leaving ----

    async def leave(self) -> None:
        """Others need not wait until our session is over, unless we are an instance that will be back.

        Raises what asking a coordinator may.
        """
        self._cluster.pool.close_lane(self._lane)
        if self.member.id and self._coordinator.instance is None:
            member, self.member = self.member, NOBODY
            # On the common lane, as a join may be unanswered on our own.
            await self._coordinator.ask(
                apis.LEAVE_GROUP, {"member_id": member.id, "members": [{"member_id": member.id}]}
            )
