"""A log: the connection to a cluster of brokers, open inside `async with`."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from leveret.errors import InvalidValue
from leveret.log.accumulator import ProducerOptions
from leveret.log.background import Background
from leveret.log.cluster import Cluster
from leveret.log.pool import Dial, Pool, dial_tcp
from leveret.log.producer import CODECS, Producer
from leveret.log.url import URL


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
        self._cluster = Cluster(self.url, self._pool)
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
        for name, value in (("batch_size", batch_size), ("memory_max", memory_max), ("timeout", timeout)):
            if value <= 0:
                raise InvalidValue(f"{name} is more than 0, and not {value}")
        if linger_ms < 0:
            raise InvalidValue(f"linger_ms is not negative, as {linger_ms} is")
        options = ProducerOptions(
            CODECS[compression], linger_ms / 1000, batch_size, memory_max, timeout, idempotent
        )
        return Producer(self._opened(), options)

    def _opened(self) -> Cluster:
        if self._cluster is None:
            raise RuntimeError("the log is not open: use it in `async with`")
        return self._cluster
