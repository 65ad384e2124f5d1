"""The settled offsets of a segment, beside a plain set."""

from hypothesis import given
from hypothesis import strategies as st

from broker.storage.settlements import (
    Settled,
    Settlement,
    count_before,
    decode_blocks,
    decode_entries,
    encode_block,
    encode_entries,
    settlement,
)

BASE = 1000
ranges = st.builds(
    lambda start, count, step: range(start, start + count * step, step),
    st.integers(BASE, BASE + 60),
    st.integers(1, 20),
    st.integers(1, 4),
)


def plain(known: set[int], first: int, stop: int) -> list[range]:
    """The unsettled offsets as ranges, one offset at a time."""
    found: list[range] = []
    for offset in range(first, stop):
        if offset in known:
            continue
        if found and found[-1].stop == offset:
            found[-1] = range(found[-1].start, offset + 1)
        else:
            found.append(range(offset, offset + 1))
    return found


@given(st.lists(ranges, max_size=30), st.integers(BASE, BASE + 150), st.integers(0, 150))
def test_settled_offsets_are_a_set(added, first, length):
    settled, twin = Settled(BASE), set()
    for offsets in added:
        assert settled.add(offsets) == len(set(offsets) - twin)
        twin.update(offsets)
        assert settled.unsettled(BASE, BASE + 160) == plain(twin, BASE, BASE + 160)
    assert settled.unsettled(first, first + length) == plain(twin, first, first + length)


def test_in_order_takes_no_memory_for_each():
    settled = Settled(0)
    for offset in range(0, 100_000, 10):
        settled.add(range(offset, offset + 10))
    assert not settled._beyond


def test_memory_is_for_what_lies_behind_the_first_unsettled_offset():
    settled = Settled(0)
    settled.add(range(1, 50_000))
    assert len(settled._beyond) == 50_000
    settled.add(range(0, 1))
    assert not settled._beyond
    assert settled.unsettled(0, 50_001) == [range(50_000, 50_001)]


@given(ranges, st.integers(BASE - 10, BASE + 200))
def test_count_before(offsets, stop):
    assert count_before(offsets, stop) == sum(offset < stop for offset in offsets)


@given(
    st.lists(
        st.one_of(ranges.map(settlement), st.builds(Settlement, st.integers(0, 99), st.just(0), st.just(0)))
    )
)
def test_entries_come_back(entries):
    assert list(decode_entries(encode_entries(entries))) == entries


def test_a_settlement_names_its_offsets():
    assert list(settlement(range(5, 15, 3)).offsets) == [5, 8, 11, 14]
    assert list(Settlement(7, 0, 0).offsets) == []


# ---- blocks ----

FIRST = [Settlement(0, 10, 1), Settlement(20, 3, 2)]
SECOND = [Settlement(30, 5, 1)]
THIRD = [Settlement(40, 1, 1), Settlement(41, 0, 0)]
BLOCKS = [encode_block(entries) for entries in (FIRST, SECOND, THIRD)]


def test_blocks_come_back():
    octets = b"".join(BLOCKS)
    assert decode_blocks(octets) == (FIRST + SECOND + THIRD, [], len(octets))
    assert decode_blocks(b"") == ([], [], 0)


def test_a_torn_block_ends_the_file():
    whole = b"".join(BLOCKS[:2])
    for size in range(len(BLOCKS[2])):
        assert decode_blocks(whole + BLOCKS[2][:size]) == (FIRST + SECOND, [], len(whole))


def test_zeros_behind_the_last_block_are_none():
    whole = b"".join(BLOCKS)
    for size in (1, 8, 100, 5000):
        assert decode_blocks(whole + bytes(size)) == (FIRST + SECOND + THIRD, [], len(whole))


def test_a_flipped_octet_costs_its_block_and_no_other():
    octets = b"".join(BLOCKS)
    entries = (FIRST, SECOND, THIRD)
    start = 0
    for number, block in enumerate(BLOCKS):
        end = start + len(block)
        others = [entry for other, known in enumerate(entries) if other != number for entry in known]
        for at in range(start, end):
            for bit in (0x01, 0x80, 0xFF):
                broken = bytearray(octets)
                broken[at] ^= bit
                found = decode_blocks(bytes(broken))
                assert found.entries == others
                last = number == len(BLOCKS) - 1
                assert found.damaged == ([] if last else [range(start, end)])
                assert found.size == (start if last else len(octets))
        start = end
