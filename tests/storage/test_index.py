"""Indexes: roughly where an offset is. (That a file that does not fit is not believed: `test_damage`.)"""

from hypothesis import given
from hypothesis import strategies as st

from broker.storage.index import Index, IndexFile, decode, encode

KIB = 1024


def index_of(batches: list[tuple[int, int]]) -> Index:
    made = Index()
    for offset, position in batches:
        made.add(offset, position, 1000 + position)
    return made


@given(st.lists(st.integers(1, 200 * KIB), max_size=50), st.integers(0, 200))
def test_a_position_is_at_or_before_that_of_the_offset_and_near(sizes, wanted):
    known = [(3 * number, sum(sizes[:number])) for number in range(len(sizes))]
    position = index_of(known).position(wanted)
    before = [place for offset, place in known if offset <= wanted]
    true = before[-1] if before else 0
    assert position in (0, *[place for _, place in known])
    assert true - 64 * KIB < position <= true


def test_small_batches_need_no_entry_each():
    index = index_of([(number, number * KIB) for number in range(640)])
    assert len(index._offsets) == 10


@given(st.lists(st.integers(64 * KIB, 1 << 40), max_size=20))
def test_a_file_comes_back(sizes):
    index = index_of([(5 + number, sum(sizes[:number])) for number in range(len(sizes))])
    octets = encode(IndexFile(5, 1000, 1 << 30, 900, -1, index))
    found = decode(octets, 5, 1 << 30)
    assert found is not None
    assert (found.next_offset, found.records, found.max_timestamp) == (1000, 900, -1)
    assert found.index._offsets == index._offsets
    assert found.index._positions == index._positions
    assert found.index._timestamps == index._timestamps
    assert decode(octets, 6, 1 << 30) is None
    assert decode(octets, 5, 1 << 29) is None


@given(st.lists(st.tuples(st.integers(1, 100 * KIB), st.integers(0, 50)), max_size=50), st.integers(0, 60))
def test_before_the_position_of_a_time_every_timestamp_is_smaller(batches, wanted):
    made = Index()
    position = latest = 0
    known = []
    for offset, (size, timestamp) in enumerate(batches):
        made.add(offset, position, latest)
        known.append((position, timestamp))
        latest = max(latest, timestamp)
        position += size
    found = made.position_of_time(wanted)
    assert all(timestamp < wanted for place, timestamp in known if place < found)
    if later := [place for place, timestamp in known if timestamp >= wanted]:
        assert later[0] - found < 2 * 100 * KIB + 64 * KIB
