"""A segment counts what is in it."""

from broker.storage import batch as batches
from broker.storage.segment import LOG_SUFFIX, Segment


def filled() -> Segment:
    """Two batches with a gap of two offsets between them, and a transient one."""
    segment = Segment("/queues/1", 10, 10)
    for base, count, attributes in ((10, 3, 0), (15, 2, 0), (17, 1, batches.TRANSIENT)):
        segment.add(batches.encode(base, count, [b"x"], attributes=attributes, max_timestamp=base))
    return segment


def test_names_sort_as_offsets_do():
    paths = [Segment("/q", base, base).path(LOG_SUFFIX) for base in (0, 9, 10, 10**19)]
    assert paths == sorted(paths)
    assert paths[1] == "/q/00000000000000000009.log"


def test_it_counts_records_and_what_lives():
    segment = filled()
    assert segment.next_offset == 18
    assert segment.size == 3 * 62
    assert segment.records == 5
    assert segment.live == 6
    assert segment.max_timestamp == 17


def test_a_gap_is_settled_from_the_start():
    segment = filled()
    assert segment.settled.unsettled(10, 18) == [range(10, 13), range(15, 18)]
    assert segment.settle(range(12, 16)) == 2
    assert segment.live == 4


def test_what_is_sound_lies_between_the_damage():
    segment = filled()
    segment.readable_size = 100
    segment.damage = [range(10, 20), range(50, 60)]
    assert segment.sound_part(0) == range(0, 10)
    assert segment.sound_part(10) == range(20, 50)
    assert segment.sound_part(15) == range(20, 50)
    assert segment.sound_part(55) == range(60, 100)
