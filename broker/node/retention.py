"""What a partition keeps of its log by the retention of its topic: whole segments.

Spec:   Kafka's `retention.ms` and `retention.bytes`. As there a segment is as old as its newest record, and goes for
        its size only if what is left is still as much as may be kept; the last one goes, too.
"""

from __future__ import annotations

from broker.model.topic import TopicSettings
from broker.storage.log import Log
from broker.storage.segment import Segment


def first_kept(log: Log, settings: TopicSettings, now_ms: int, appended_ms: int, below: int) -> int:
    """The first offset that is kept, of those up to `below`; 0 if all are.

    Records that have no time are as old as they have been here: `appended_ms` is when the last one came.
    """
    return max(
        _not_too_old(log, settings.retention_ms, now_ms, appended_ms, below),
        _not_too_much(log, settings, below),
    )


def _not_too_old(log: Log, retention_ms: int, now_ms: int, appended_ms: int, below: int) -> int:
    """The last segment is old as a whole or not at all, and then not used on."""
    kept = 0
    if retention_ms < 0:
        return kept
    segments = log.segments
    for segment in segments:
        if _latest(segment, appended_ms) >= now_ms - retention_ms:
            break
        kept = segment.next_offset
    else:
        log.roll_due = bool(segments)
    return min(kept, below)


def _latest(segment: Segment, appended_ms: int) -> int:
    """The time of its newest record; of those that have none, when they came, or were found at start."""
    return segment.max_timestamp or segment.sealed_ms or appended_ms


def _not_too_much(log: Log, settings: TopicSettings, below: int) -> int:
    if settings.retention_bytes < 0:
        return 0
    surplus = log.size - settings.retention_bytes
    kept = 0
    for segment in log.segments:
        if surplus < segment.size or segment.next_offset > below:
            break
        surplus -= segment.size
        kept = segment.next_offset
    return kept
