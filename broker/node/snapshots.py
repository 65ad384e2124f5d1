"""What a partition knows of its producers, beside its segments: the next start need not read all of the log.

Flow:   written when a segment begins, of what lies before it; at start the newest that can be read is taken, and
        the headers of the batches behind it.
Limits: 64 MiB a snapshot; a larger one is as good as none.
Why:    Never trusted: without any, the headers of the whole log say the same.
"""

from __future__ import annotations

import logging
from typing import Final

from broker.model.producer import CorruptSnapshot, Producers
from broker.storage.file import Files, Handles
from broker.storage.log import Log
from broker.storage.segment import PRODUCERS_SUFFIX, Segment
from broker.storage.write import Write

logger = logging.getLogger("broker.node")

_SIZE_MAX: Final = 64 * 1024 * 1024


def write_of(producers: Producers, segment: Segment) -> Write:
    """For a segment that begins."""
    octets = producers.snapshot(segment.base_offset)
    return Write(segment.path(PRODUCERS_SUFFIX), 0, [octets], True, False, last=True)


def restore(producers: Producers, log: Log, files: Files, reader: Handles, name: str) -> int:
    """From the newest snapshot that is whole; returns the offset from which on the batches must be read."""
    for segment in reversed(log.segments):
        path = segment.path(PRODUCERS_SUFFIX)
        size = files.size(path)
        if size <= 0:
            continue
        try:
            octets = reader.read(path, 0, min(size, _SIZE_MAX))
            reader.forget(path)
            producers.restore(octets, segment.base_offset)
        except (CorruptSnapshot, OSError) as error:
            logger.warning("partition %s: %s: %s; read anew", name, path, error)
            continue
        return segment.base_offset
    return log.start_offset


def replay(producers: Producers, log: Log, since: int, now_ms: int) -> None:
    """What the batches from this offset on say of their producers; a second time changes nothing. Raises CorruptLog."""
    for _, _, span in log.spans_from(since):
        if span.producer_id >= 0:
            producers.replay(
                span.producer_id,
                span.producer_epoch,
                span.base_sequence,
                span.next_offset - span.base_offset,
                span.base_offset,
                span.max_timestamp,
                now_ms,
            )
