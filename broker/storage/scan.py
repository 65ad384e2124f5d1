"""Walk over a segment's file that may be damaged: from batch to sound batch.

Flow:   recovery walks over files that it cannot believe, and over those in which a reader stumbled.
Why:    A payload may hold what looks like a batch, so that a batch must have an offset that is due there, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from broker.storage import batch as batches
from broker.storage.batch import Batch
from broker.storage.segment import OFFSET_MAX, SEGMENT_OFFSETS_MAX


class Part(NamedTuple):
    """A sound batch, or octets that are none up to the next one."""

    at: int
    end: int
    batch: Batch | None
    reason: str = ""
    following: int | None = None
    """The base offset of the sound batch behind bad octets."""


def walk(octets: bytes, due: int, stop: int = OFFSET_MAX) -> Iterator[Part]:
    """What lies in a segment's file whose first offset is `due` or behind it, and whose last lies before `stop`.

    Where that is not known, offsets cannot be far from each other.
    """
    at = 0
    bounds = range(due, stop)
    while at < len(octets):
        reason = _problem(octets, at, due, bounds)
        if not reason:
            batch = batches.decode(octets, at)
            part = Part(at, at + batch.size, batch)
            due = batch.next_offset
        else:
            end = _next_sound(octets, at, due, bounds)
            following = None if end is None else batches.span(octets, end).base_offset
            part = Part(at, len(octets) if end is None else end, None, reason, following)
        yield part
        at = part.end


def _problem(octets: bytes, at: int, due: int, bounds: range) -> str:
    """Of a batch in a segment with these offsets.

    A body may hold what looks like a batch, with any offset: behind a torn header it would be found.
    """
    if reason := batches.problem(octets, at):
        return reason
    span = batches.span(octets, at)
    if span.base_offset < due:
        return f"base offset {span.base_offset} where at least {due} is due"
    far = due > bounds.start and span.base_offset - due > SEGMENT_OFFSETS_MAX
    if span.next_offset > bounds.stop or (far and bounds.stop == OFFSET_MAX):
        return f"base offset {span.base_offset} where {due} or little more is due"
    if span.base_offset > due and _goes_back(octets, at + span.size, range(due, span.next_offset)):
        return f"base offset {span.base_offset} where {due} is due, and the next one is less"
    return ""


def _goes_back(octets: bytes, at: int, offsets: range) -> bool:
    """Whether a sound batch has one of these offsets, so that the one before it has a wrong one: no crc covers that."""
    if len(octets) - at < batches.HEADER_SIZE or batches.span(octets, at).base_offset not in offsets:
        return False
    return not batches.problem(octets, at)


def _next_sound(octets: bytes, at: int, due: int, bounds: range) -> int | None:
    """Where the next batch is behind bad octets.

    Mostly their length is sound, and says where: what looks like a batch in their payload is passed over.
    """
    end = at + batches.whole_size(octets, at)
    if end == len(octets):
        return None
    if at < end < len(octets) and not _problem(octets, end, due, bounds):
        return end
    found = batches.next_whole(octets, at)
    while found is not None and _problem(octets, found, due, bounds):
        found = batches.next_whole(octets, found)
    return found
