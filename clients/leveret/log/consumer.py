"""Read the records of topics, alone or as a member of a group.

Flow:   the fetcher reads ahead; whoever iterates takes batches and opens them, one after the other. In a group,
        the membership says which partitions are ours, and when they are not any more.
Shape:  open inside `async with`; failed, if a broker refuses what is needed: then iterating raises
Limits: see `leveret.log.fetcher`; one batch at a time is open. Leaving takes `CLOSE_S` at most.
Why:    A record that was handed out is in hand until the next one is asked for, or until `commit`. Only what
        was before it is committed by itself, and the group's partitions are not given away under it: so a
        record is worked on by one member at a time, and by another one only if this one does not finish.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

import anyio
from anyio import CancelScope, Event

from broker.kafka import records
from broker.kafka.records import RecordProblem
from leveret.errors import ConnectionClosed, InvalidValue, LeveretError
from leveret.log.background import Background
from leveret.log.cluster import AGE_S, Cluster
from leveret.log.coordinator import Coordinator
from leveret.log.errors import MalformedRecords, Reason, again
from leveret.log.fetcher import Assigned, Fetched, Fetcher, FetchOptions
from leveret.log.membership import MemberOptions, Membership, Reader
from leveret.log.offsets import Offset, check, look_up
from leveret.log.producer import CLOSE_S
from leveret.log.record import LogRecord, TopicPartition

logger = logging.getLogger("leveret")


@dataclass(slots=True, frozen=True)
class ConsumerOptions:
    """What `Log.consumer` was told."""

    topics: tuple[str, ...]
    fetch: FetchOptions
    group: str | None
    instance: str | None
    member: MemberOptions
    commit_s: float | None
    """How often what was read is committed by itself; None is never."""


class Consumer:
    """Made by `Log.consumer`: an asynchronous iterator of records. One task iterates."""

    def __init__(self, cluster: Cluster, options: ConsumerOptions) -> None:
        self._cluster = cluster
        self._options = options
        self._fetcher = Fetcher(cluster, options.fetch, self._fail)
        self._coordinator: Coordinator | None = None
        self._membership: Membership | None = None
        if options.group is not None:
            self._coordinator = Coordinator(cluster, options.group, options.instance)
            self._membership = Membership(
                cluster, self._coordinator, options.member, Reader(self._hold, self._revoke, self._assign)
            )
        self._background: Background | None = None
        self._ready = Event()
        self._reason: Reason | None = None
        self._expelled: Reason | None = None
        """Why it is no member any more, and never will be."""
        self._records: Iterator[LogRecord] = iter(())
        self._reading: Assigned | None = None
        # The partition and the offset of the record in hand.
        self._hand: Assigned | None = None
        self._hand_offset = -1
        self._laid_down = Event()
        self._committing = anyio.Lock()

    async def __aenter__(self) -> Self:
        """With a group it is a member then, and has its partitions, if there are any for it.

        Raises UnknownTopic, NotAuthorized, ConnectionFailed, AuthenticationFailed and other BrokerErrors.
        """
        if self._background is not None:
            raise RuntimeError("a consumer is opened once; make another with `Log.consumer`")
        self._background = Background()
        await self._background.open()
        try:
            self._background.start(self._fetcher.run)
            if self._membership is None:
                await self._assign_all()
                self._background.start(self._watch_topics)
            else:
                for topic in self._options.topics:
                    await self._cluster.topic(topic)
                self._background.start(self._be_member, self._membership)
                if self._options.commit_s is not None:
                    self._background.start(self._commit_regularly, self._options.commit_s)
                await self._ready.wait()
                if self._reason is not None:
                    raise self._reason()
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Commits, unless that is off, and leaves the group, unless it has a `group_instance_id`.

        If the block raises, the record in hand counts as not read.
        """
        assert self._background is not None
        if kind is None:
            self._lay_down()
        try:
            return await self._background.close(kind, error, traceback)
        finally:
            if self._membership is not None:
                with CancelScope(shield=True), anyio.move_on_after(CLOSE_S) as goodbye:
                    await self._say_goodbye(self._membership)
                if goodbye.cancelled_caught:
                    text = "group %r: the broker did not answer; what was read last may not be committed"
                    logger.warning(text, self._options.group)
            self._end(partial(ConnectionClosed, None, "the consumer was closed by this side"))

    # ---- records ----

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LogRecord:
        """The one before counts as read. Raises BrokerError, InstanceFenced, MalformedRecords, AuthenticationFailed."""
        if self._hand is not None:
            self._lay_down()
        record = next(self._records, None)
        while record is None:
            self._records = await self._next_batch()
            record = next(self._records, None)
        assigned = self._reading
        assert assigned is not None
        assigned.position = record.offset + 1
        self._hand = assigned
        self._hand_offset = record.offset
        return record

    async def _next_batch(self) -> Iterator[LogRecord]:
        if self._background is None:
            raise RuntimeError("the consumer is not open: use it in `async with`")
        await anyio.lowlevel.checkpoint()
        while True:
            fetched = self._fetcher.take()
            if fetched is not None:
                self._reading = fetched.assigned
                return self._opened(fetched)
            if self._reason is not None:
                raise self._reason()
            await self._fetcher.wait()

    def _opened(self, fetched: Fetched) -> Iterator[LogRecord]:
        """The records of a batch, from where we are; what is behind it is next then."""
        assigned = fetched.assigned
        topic, partition = assigned.place
        try:
            for one in records.iterate(fetched.octets):
                if one.offset >= fetched.first:
                    yield LogRecord(
                        topic, partition, one.offset, one.timestamp, one.key, one.value, one.headers
                    )
        except RecordProblem as problem:
            text = f"{assigned.place} at offset {assigned.position}: {problem.text}"
            self._fetcher.hold()
            self._fail(partial(MalformedRecords, text))
            raise MalformedRecords(text) from None
        assigned.position = fetched.header.base_offset + fetched.header.last_offset_delta + 1

    def _lay_down(self) -> None:
        """The record in hand is read."""
        self._hand = None
        self._laid_down.set()

    # ---- positions ----

    @property
    def assignment(self) -> frozenset[TopicPartition]:
        """The partitions that are ours to read."""
        return frozenset(self._fetcher.assigned)

    def position(self, topic: str, partition: int) -> int:
        """The offset of the record that comes next, or one before it. Raises InvalidValue if it is not ours."""
        return self._assigned(topic, partition).position

    async def seek(self, topic: str, partition: int, offset: Offset) -> None:
        """Go on there. Raises InvalidValue if the partition is not ours, and what looking up an offset may."""
        check(offset)
        self._assigned(topic, partition)
        place = TopicPartition(topic, partition)
        found = (await look_up(self._cluster, [place], offset))[place]
        assigned = self._assigned(topic, partition)
        if self._reading is assigned:
            self._records = iter(())
        if self._hand is assigned:
            self._lay_down()
        self._fetcher.seek(assigned, found)

    def _assigned(self, topic: str, partition: int) -> Assigned:
        assigned = self._fetcher.assigned.get(TopicPartition(topic, partition))
        if assigned is None:
            raise InvalidValue(f"partition {partition} of topic {topic!r} is not ours to read")
        return assigned

    # ---- committing ----

    async def commit(self) -> None:
        """All that was handed out is read, also the record in hand; returns when the group knows.

        Raises CommitFailed if the group has been shared out anew meanwhile, InstanceFenced, InvalidValue without
        a group, and other errors if no broker answers.
        """
        if self._membership is None:
            raise InvalidValue("a consumer without a group has nowhere to commit to")
        if self._expelled is not None:
            raise self._expelled()
        if self._hand is not None:
            self._lay_down()
        await self._commit(self._membership)

    async def committed(self, topic: str, partition: int) -> int | None:
        """What the group has committed; None if nothing. Raises InvalidValue without a group, and others."""
        if self._coordinator is None:
            raise InvalidValue("a consumer without a group has nothing committed")
        place = TopicPartition(topic, partition)
        return (await self._coordinator.committed([place])).get(place)

    async def _commit(self, membership: Membership) -> None:
        """What is before the record in hand."""
        assert self._coordinator is not None
        async with self._committing:
            changed: dict[Assigned, int] = {}
            for assigned in self._fetcher.assigned.values():
                offset = self._hand_offset if assigned is self._hand else assigned.position
                if offset != assigned.committed:
                    changed[assigned] = offset
            if not changed:
                return
            offsets = {assigned.place: offset for assigned, offset in changed.items()}
            await self._coordinator.commit(offsets, membership.member)
            for assigned, offset in changed.items():
                assigned.committed = offset

    async def _commit_quietly(self, membership: Membership) -> None:
        try:
            await self._commit(membership)
        except LeveretError as error:
            logger.warning("group %r: not committed: %s", self._options.group, error)

    async def _commit_regularly(self, seconds: float) -> None:
        assert self._membership is not None
        await anyio.sleep(seconds)
        while self._expelled is None:
            await self._commit_quietly(self._membership)
            await anyio.sleep(seconds)

    # ---- what is ours: without a group ----

    async def _assign_all(self) -> None:
        places = []
        for topic in self._options.topics:
            count = (await self._cluster.topic(topic)).partitions
            places += [TopicPartition(topic, number) for number in range(count)]
        self._fetcher.assign(await look_up(self._cluster, places, self._options.fetch.offset))

    async def _watch_topics(self) -> None:
        """Partitions that are added are read from their beginning."""
        while True:
            await anyio.sleep(AGE_S)
            for topic in self._options.topics:
                try:
                    count = (await self._cluster.refresh(topic, creates=False)).partitions
                except LeveretError as error:
                    logger.warning("topic %r was not looked at: %s", topic, error)
                    continue
                places = (TopicPartition(topic, number) for number in range(count))
                self._fetcher.add({place: 0 for place in places if place not in self._fetcher.assigned})

    # ---- what is ours: with a group ----

    async def _be_member(self, membership: Membership) -> None:
        try:
            await membership.run()
        except LeveretError as error:
            self._fetcher.hold()
            self._records = iter(())
            self._expelled = partial(again, error)
            self._fail(self._expelled)

    async def _hold(self) -> None:
        self._fetcher.hold()
        self._records = iter(())
        while self._hand is not None:
            self._laid_down = Event()
            await self._laid_down.wait()

    async def _revoke(self, lost: bool) -> None:
        self._fetcher.hold()
        self._records = iter(())
        if not lost and self._options.commit_s is not None:
            assert self._membership is not None
            await self._commit_quietly(self._membership)
        self._fetcher.assign({})
        self._hand = None

    async def _assign(self, places: Collection[TopicPartition]) -> None:
        assert self._coordinator is not None
        committed = await self._coordinator.committed(places) if places else {}
        missing = [place for place in places if place not in committed]
        found = await look_up(self._cluster, missing, self._options.fetch.offset) if missing else {}
        self._fetcher.assign({**committed, **found})
        for place, offset in committed.items():
            self._fetcher.assigned[place].committed = offset
        self._ready.set()

    async def _say_goodbye(self, membership: Membership) -> None:
        if self._options.commit_s is not None and self._expelled is None:
            await self._commit_quietly(membership)
        try:
            await membership.leave()
        except LeveretError as error:
            logger.warning("group %r: left without a word: %s", self._options.group, error)

    # ---- the end ----

    def _fail(self, reason: Reason) -> None:
        """It cannot go on; what was read ahead is still handed out."""
        if self._reason is None:
            self._reason = reason
        self._ready.set()
        self._fetcher.wake()

    def _end(self, reason: Reason) -> None:
        self._fetcher.hold()
        self._records = iter(())
        self._reason = reason
        self._fetcher.wake()
