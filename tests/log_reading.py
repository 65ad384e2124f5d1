"""Read a topic with our own client."""

from __future__ import annotations

from typing import Any

from leveret.log import Log, LogRecord


async def read(log: Log, topic: str, count: int, **options: Any) -> list[LogRecord]:
    """The first so many records of all partitions, as they come."""
    async with log.consumer(topic, **{"offset": "earliest", **options}) as consumer:
        found: list[LogRecord] = []
        async for record in consumer:
            found.append(record)
            if len(found) == count:
                break
        return found
