"""What is known of the cluster: its brokers, its topics, and who leads each partition.

Flow:   whoever needs a topic asks for it, and it is fetched from any broker that answers; whoever finds out
        that it is out of date says so, and it is fetched again.
Limits: only topics that were asked for are remembered, `TOPICS_MAX` of them; a topic is old after `AGE_S`, as
        it may have more partitions by then. Asking ends after the URL's `request_timeout`, and after
        `MISSING_S` for a topic that no broker makes.
Spec:   Metadata (3), FindCoordinator (10).
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Final

import anyio
from anyio import Event

from broker.kafka import api as apis
from broker.kafka.api import Api
from broker.kafka.errors import ErrorCode
from broker.kafka.wire import Struct
from leveret.errors import (
    AuthenticationFailed,
    ConnectionClosed,
    ConnectionFailed,
    InvalidValue,
    LeveretError,
)
from leveret.log.background import Background
from leveret.log.backoff import Backoff
from leveret.log.errors import RETRIABLE, UNREACHED, BrokerError, Reason, again, refused
from leveret.log.pool import COMMON, Pool
from leveret.log.record import TopicPartition
from leveret.log.url import URL, Address

AGE_S: Final = 300.0
MISSING_S: Final = 5.0
"""So long a topic may be missing that was there, or that is made by asking for it: not all brokers know it yet."""
TOPICS_MAX: Final = 10_000
NAME_SIZE_MAX: Final = 249
_NOBODY: Final = -1


@dataclass(slots=True, frozen=True)
class Topic:
    """A topic as the cluster shows it."""

    name: str
    partitions: int
    internal: bool
    """It is the cluster's own."""


@dataclass(slots=True)
class _Known:
    topic: Topic
    leaders: dict[int, int]
    """Partition to the id of its leader."""
    fetched_at: float
    stale: bool = False


class _Asking:
    """A question for a topic that is on its way, and that others may have, too."""

    __slots__ = ("done", "reason", "topic")

    def __init__(self) -> None:
        self.done = Event()
        self.topic: Topic | None = None
        self.reason: Reason = partial(ConnectionClosed, None, "the log was closed by this side")


class Cluster:
    """Any number of tasks may ask it."""

    def __init__(self, url: URL, pool: Pool, background: Background) -> None:
        self.url = url
        self.pool = pool
        self._background = background
        self._asking: dict[tuple[str, bool], _Asking] = {}
        self._brokers: dict[int, Address] = {}
        self._controller = _NOBODY
        self._known: dict[str, _Known] = {}

    # ---- what is known ----

    def leader(self, place: TopicPartition) -> Address | None:
        """None if that is not known, or what was known is out of date."""
        known = self._known.get(place.topic)
        if known is None or known.stale:
            return None
        return self._brokers.get(known.leaders.get(place.partition, _NOBODY))

    def is_stale(self, topic: str) -> None:
        """What is known of it turned out to be wrong."""
        known = self._known.get(topic)
        if known is not None:
            known.stale = True

    def lacks(self, place: TopicPartition) -> bool:
        """Its topic is known, and has fewer partitions; it may have been made anew."""
        known = self._known.get(place.topic)
        return known is not None and not known.stale and place.partition >= known.topic.partitions

    def is_gone(self, topic: str) -> None:
        """Nothing that is known of it is of use."""
        self._known.pop(topic, None)

    def led(self, topic: str) -> list[int]:
        """Partitions of a known topic that have a leader."""
        known = self._known[topic]
        return [number for number, leader in known.leaders.items() if leader in self._brokers]

    def known(self, topic: str) -> Topic | None:
        """A topic as it was when it was asked for."""
        known = self._known.get(topic)
        return None if known is None else known.topic

    def is_old(self, topic: str) -> bool:
        """It would be good to ask again; what is known may be used meanwhile."""
        known = self._known.get(topic)
        return known is None or known.stale or anyio.current_time() - known.fetched_at > AGE_S

    # ---- asking ----

    async def topic(self, name: str, *, creates: bool = True) -> Topic:
        """As `refresh`, unless it was asked for not long ago."""
        known = None if self.is_old(name) else self.known(name)
        return known if known is not None else await self.refresh(name, creates=creates)

    async def refresh(self, name: str, *, creates: bool = True, patience_s: float = 0.0) -> Topic:
        """Ask for a topic, until it is there and all its partitions have leaders.

        One that is not there is made, if it is to be; or it is waited for, but no longer than `patience_s`.
        Raises UnknownTopic, NotAuthorized, ConnectionFailed, AuthenticationFailed and others, at the latest
        when the request's time is over. Whoever asks the same meanwhile gets the same answer.
        """
        _check_name(name)
        creates = creates and self.url.create_topics
        asking = self._asking.get((name, creates))
        if asking is None:
            asking = self._asking[name, creates] = _Asking()
            patience_s = max(patience_s, MISSING_S) if creates else patience_s
            self._background.start(self._answer, asking, name, creates, patience_s)
        await asking.done.wait()
        if asking.topic is None:
            raise asking.reason()
        return asking.topic

    async def _answer(self, asking: _Asking, name: str, creates: bool, patience_s: float) -> None:
        try:
            asking.topic = await self._ask_for(name, creates, patience_s)
        except LeveretError as error:
            asking.reason = partial(again, error)
        finally:
            del self._asking[name, creates]
            asking.done.set()

    async def _ask_for(self, name: str, creates: bool, patience_s: float) -> Topic:
        unknown_until = anyio.current_time() + patience_s
        problem: LeveretError | None = None
        backoff = Backoff()
        with anyio.move_on_after(self.url.request_s):
            while True:
                (found,) = await self.ask_topics([name], creates=creates)
                code = found["error_code"] or self._note(found)
                if not code:
                    return self._known[name].topic
                problem = refused(code, f"topic {name!r}")
                if code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION:
                    self._known.pop(name, None)
                    if anyio.current_time() >= unknown_until:
                        said = "it is not there, and the broker does not make it" if creates else None
                        raise refused(code, f"topic {name!r}", said)
                elif code not in RETRIABLE:
                    raise problem
                await backoff.pause()
        if problem is None:
            problem = ConnectionFailed(f"no broker told about topic {name!r} within {self.url.request_s:g} s")
        raise problem

    async def open(self) -> None:
        """First contact. Raises ConnectionFailed, AuthenticationFailed."""
        await self.ask_topics([])

    async def ask_topics(self, names: Collection[str] | None, *, creates: bool = False) -> list[Struct]:
        """What a broker says of these topics, or of all."""
        asked = None if names is None else [{"name": name} for name in names]
        answer = await self.ask(apis.METADATA, {"topics": asked, "allow_auto_topic_creation": creates})
        brokers = {one["node_id"]: Address(one["host"], one["port"]) for one in answer["brokers"]}
        if brokers != self._brokers:
            self._brokers = brokers
            self.pool.retain({*brokers.values(), *self.url.addresses})
        self._controller = answer["controller_id"]
        found: list[Struct] = answer["topics"]
        if names is not None and sorted(str(one["name"]) for one in found) != sorted(names):
            raise BrokerError(ErrorCode.UNKNOWN_SERVER_ERROR, "Metadata of other topics than were asked for")
        return found

    def _note(self, found: Struct) -> ErrorCode:
        """Remember a topic; NONE if all its partitions have leaders."""
        name = found["name"]
        leaders = {one["partition_index"]: one["leader_id"] for one in found["partitions"]}
        if sorted(leaders) != list(range(len(leaders))) or not leaders:
            text = f"topic {name!r} with partitions {sorted(leaders)[:10]}"
            raise BrokerError(ErrorCode.UNKNOWN_SERVER_ERROR, text)
        while len(self._known) >= TOPICS_MAX and name not in self._known:
            self._known.pop(next(iter(self._known)))
        topic = Topic(name, len(leaders), found["is_internal"])
        self._known[name] = _Known(topic, leaders, anyio.current_time())
        led = all(leader in self._brokers for leader in leaders.values())
        return ErrorCode.NONE if led else ErrorCode.LEADER_NOT_AVAILABLE

    async def ask(self, api: Api, body: Struct) -> Struct:
        """Ask any broker; one after the other, until one answers or the request's time is over.

        Raises ConnectionFailed, AuthenticationFailed, BrokerError for an API it has not.
        """
        problem: LeveretError | None = None
        backoff = Backoff()
        seconds = self.url.request_s
        with anyio.move_on_after(seconds):
            while True:
                for address in self._ways_in():
                    try:
                        return await self.ask_at(address, api, body)
                    except AuthenticationFailed:
                        raise
                    except UNREACHED as error:
                        problem = error
                if not self._brokers:
                    break  # first contact: whoever begins wants to know at once
                await backoff.pause()
        if problem is None:
            raise ConnectionFailed(f"no broker of {self.url.hosts} answered {api.name} within {seconds:g} s")
        raise ConnectionFailed(f"no broker of {self.url.hosts} could be reached: {problem}")

    async def ask_at(self, address: Address, api: Api, body: Struct, lane: int = COMMON) -> Struct:
        """Ask this broker, once. Raises what `Pool.get` and `Connection.request` do."""
        connection = await self.pool.get(address, lane)
        return await connection.request(api, body, self.url.request_s)

    async def ask_controller(self, api: Api, body: Struct) -> Struct:
        """Ask the one that makes and deletes topics, or any if nobody is known to be it."""
        address = self._brokers.get(self._controller)
        if address is None:
            return await self.ask(api, body)
        try:
            return await self.ask_at(address, api, body)
        except AuthenticationFailed:
            raise
        except UNREACHED as error:
            self._controller = _NOBODY
            raise ConnectionFailed(f"{api.name} was not answered: {error}") from error

    def _ways_in(self) -> list[Address]:
        """The brokers that are known, in any order, and then those where we began."""
        known = list(self._brokers.values())
        random.shuffle(known)
        return [*known, *(address for address in self.url.addresses if address not in known)]


def _check_name(name: str) -> None:
    if not 0 < len(name.encode()) <= NAME_SIZE_MAX:
        raise InvalidValue(f"a topic's name has 1 to {NAME_SIZE_MAX} octets, and not {name[:300]!r}")
