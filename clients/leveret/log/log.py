"""A log: the connection to a cluster of brokers, open inside `async with`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from leveret.errors import InvalidValue
from leveret.log import admin
from leveret.log.accumulator import ProducerOptions
from leveret.log.background import Background
from leveret.log.cluster import Cluster, Topic
from leveret.log.consumer import Consumer, ConsumerOptions
from leveret.log.fetcher import FetchOptions
from leveret.log.membership import MemberOptions
from leveret.log.offsets import Offset, check
from leveret.log.pool import Dial, Pool, dial_tcp
from leveret.log.producer import CODECS, Producer
from leveret.log.url import URL

_INSTANCE = re.compile("[A-Za-z0-9._-]{1,249}")


def connect(url: str | URL, *, dial: Dial = dial_tcp) -> Log:
    """The log of the cluster at `url`, open inside `async with`.

    `dial` opens the byte stream to a broker, for whoever must go through something else than plain TCP.
    Raises InvalidURL; entering raises ConnectionFailed and AuthenticationFailed.
    """
    return Log(url if isinstance(url, URL) else URL.parse(url), dial)


class Log:
    """Made by `connect`. Its connections are opened when they are needed, and again when they were lost."""

    def __init__(self, url: URL, dial: Dial) -> None:
        self.url = url
        self._dial = dial
        self._background: Background | None = None
        self._pool: Pool | None = None
        self._cluster: Cluster | None = None

    async def __aenter__(self) -> Self:
        """Raises ConnectionFailed, AuthenticationFailed."""
        if self._background is not None:
            raise RuntimeError("a log is opened once; make another with leveret.log.connect")
        self._background = Background()
        await self._background.open()
        self._pool = Pool(self.url, self._dial, self._background)
        self._cluster = Cluster(self.url, self._pool, self._background)
        try:
            await self._cluster.open()
        except BaseException as error:
            self._pool.close()
            await self._background.close(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._pool is not None
        assert self._background is not None
        self._pool.close()
        return await self._background.close(kind, error, traceback)

    def producer(
        self,
        *,
        compression: str | None = None,
        linger_ms: float = 0,
        batch_size: int = 128 * 1024,
        memory_max: int = 32 * 1024 * 1024,
        timeout: float = 60.0,
        idempotent: bool = True,
    ) -> Producer:
        """A producer, open inside `async with`.

        `compression` is "gzip", "snappy", "lz4" or "zstd". A batch goes when it has `batch_size` octets, or
        `linger_ms` after it was begun; records that come while others are on their way share a batch anyway.
        `memory_max` octets may be unacknowledged, each for `timeout` seconds. An `idempotent` producer puts
        each record into the log once and in order, however often it must be sent again.
        Raises InvalidValue.
        """
        if compression not in CODECS:
            raise InvalidValue(
                f"there is no compression {compression!r}; there are gzip, snappy, lz4 and zstd"
            )
        _check_positive(batch_size=batch_size, memory_max=memory_max, timeout=timeout)
        if linger_ms < 0:
            raise InvalidValue(f"linger_ms is not negative, as {linger_ms} is")
        options = ProducerOptions(
            CODECS[compression], linger_ms / 1000, batch_size, memory_max, timeout, idempotent
        )
        return Producer(self._opened(), options)

    def consumer(
        self,
        *topics: str,
        group: str | None = None,
        group_instance_id: str | None = None,
        offset: Offset = "latest",
        auto_commit: bool = True,
        commit_interval: float = 5.0,
        session_timeout: float = 45.0,
        heartbeat_interval: float = 3.0,
        rebalance_timeout: float = 60.0,
        min_bytes: int = 1,
        max_bytes: int = 4 * 1024 * 1024,
        max_wait: float = 0.5,
        prefetch: int = 16 * 1024 * 1024,
    ) -> Consumer:
        """A consumer, open inside `async with`; an asynchronous iterator of records.

        Without a `group` it reads all partitions, from `offset` on: "earliest", "latest", a number, or a
        datetime, which is the first record that is not older. With one it shares the partitions with the
        group's other members, and goes on where the group has committed last, or at `offset` if it has not;
        with `auto_commit` what was read is committed each `commit_interval` seconds and at the end.

        A member of which nothing is heard for `session_timeout` seconds, with a heartbeat each
        `heartbeat_interval`, is taken for dead. When the group is shared out anew, others wait for the record
        in hand for half the `rebalance_timeout`.

        A member with a `group_instance_id` does not leave the group at the end: one with the same id that
        comes before the session is over has the partitions as they were, and nobody else's move. If the
        older one is still there, it raises InstanceFenced.

        A broker answers when it has `min_bytes`, or after `max_wait` seconds, with `max_bytes` at most; it is
        asked again while less than `prefetch` octets wait to be taken. Raises InvalidValue.
        """
        if not topics:
            raise InvalidValue("a consumer needs a topic")
        check(offset)
        _check_positive(
            commit_interval=commit_interval,
            session_timeout=session_timeout,
            heartbeat_interval=heartbeat_interval,
            rebalance_timeout=rebalance_timeout,
            min_bytes=min_bytes,
            max_bytes=max_bytes,
            max_wait=max_wait,
            prefetch=prefetch,
        )
        _check_instance(group, group_instance_id)
        names = tuple(sorted(set(topics)))
        options = ConsumerOptions(
            names,
            FetchOptions(offset, min_bytes, max_bytes, max_wait, prefetch),
            group,
            group_instance_id,
            MemberOptions(names, session_timeout, heartbeat_interval, rebalance_timeout),
            commit_interval if auto_commit else None,
        )
        return Consumer(self._opened(), options)

    # ---- topics ----

    async def create_topic(
        self,
        name: str,
        *,
        partitions: int | None = None,
        replicas: int | None = None,
        configs: Mapping[str, str] | None = None,
    ) -> Topic:
        """What is not given is as the broker wants it. Raises TopicExists, NotAuthorized, BrokerError and others."""
        return await admin.create_topic(self._opened(), name, partitions, replicas, configs or {})

    async def delete_topic(self, name: str) -> None:
        """With all its records. Raises UnknownTopic, NotAuthorized and others."""
        await admin.delete_topic(self._opened(), name)

    async def topics(self) -> list[Topic]:
        """Those that the user may see, by name."""
        return await admin.topics(self._opened())

    def _opened(self) -> Cluster:
        if self._cluster is None:
            raise RuntimeError("the log is not open: use it in `async with`")
        return self._cluster


def _check_instance(group: str | None, instance: str | None) -> None:
    """Its characters are those of a topic's name."""
    if instance is None:
        return
    if group is None:
        raise InvalidValue("there is a group_instance_id, and no group that it is in")
    if not _INSTANCE.fullmatch(instance) or instance in (".", ".."):
        raise InvalidValue(f"a group_instance_id is 1 to 249 of A-Za-z0-9._-, and not {instance[:300]!r}")


def _check_positive(**options: float) -> None:
    for name, value in options.items():
        if value <= 0:
            raise InvalidValue(f"{name} is more than 0, and not {value}")
