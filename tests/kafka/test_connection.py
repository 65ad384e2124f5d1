"""Frames, whole and in pieces."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.kafka.connection import Framer
from broker.kafka.errors import RemoteProtocolError


def prefixed(frames: list[bytes]) -> bytes:
    return b"".join([len(frame).to_bytes(4) + frame for frame in frames])


def received(framer: Framer, stream: bytes, cuts: list[int]) -> list[bytes]:
    frames = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        frames += framer.receive(stream[start:end])
    return frames


@given(st.lists(st.binary(max_size=40) | st.just(b"x" * 5000), max_size=6), st.data())
def test_frames_cut_anywhere(frames: list[bytes], data: st.DataObject) -> None:
    stream = prefixed(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12), label="cuts"))

    assert received(Framer(10_000), stream, cuts) == frames


def test_frames_byte_by_byte() -> None:
    frames = [b"abc", b"", b"x" * 300, b"last"]
    stream = prefixed(frames)

    assert received(Framer(1000), stream, list(range(1, len(stream)))) == frames


def test_a_frame_that_is_not_whole_is_kept() -> None:
    framer = Framer(100)

    assert framer.receive(prefixed([b"one", b"two"]) + b"\0\0\0\5he") == [b"one", b"two"]
    assert framer.receive(b"llo") == [b"hello"]


@pytest.mark.parametrize("size", [101, 2**31 - 1, -1, -(2**31)])
def test_a_size_that_is_not_allowed_is_refused(size: int) -> None:
    framer = Framer(100)

    with pytest.raises(RemoteProtocolError, match=f"a frame of {size} bytes; at most 100 are taken"):
        framer.receive(size.to_bytes(4, signed=True))


def test_the_limit_may_be_raised() -> None:
    framer = Framer(4)
    framer.receive(prefixed([b"four"]))
    framer.frame_size_max = 5

    assert framer.receive(prefixed([b"five!"])) == [b"five!"]


def test_memory_grows_with_what_came() -> None:
    tracemalloc.start()
    try:
        framer = Framer(100_000_000)
        framer.receive((100_000_000).to_bytes(4) + b"x")
        announced_bytes, _ = tracemalloc.get_traced_memory()
        for _ in range(100_000):
            framer.receive(b"y")
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert announced_bytes < 10_000
    assert held_bytes < 200_000


def test_pieces_are_joined_once() -> None:
    """Joined anew for every piece, these would take some hundred gigabytes of copying."""
    pieces, size = 10_000, 5000
    framer = Framer(pieces * size)
    piece = b"p" * size
    assert framer.receive((pieces * size).to_bytes(4)) == []
    for _ in range(pieces - 1):
        assert framer.receive(piece) == []

    assert framer.receive(piece) == [piece * pieces]


@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(1, 4), st.data())
def test_so_many_frames_at_a_time(frames: list[bytes], frames_max: int, data: st.DataObject) -> None:
    stream = prefixed(frames)
    cut = data.draw(st.integers(0, len(stream)))
    framer = Framer(100)
    found = []
    for piece in (stream[:cut], stream[cut:]):
        portion = framer.receive(piece, frames_max)
        found += portion
        while framer.more:
            assert len(portion) == frames_max
            assert framer.more_size >= 4
            portion = framer.receive(b"", frames_max)
            found += portion
        assert framer.more_size == 0

    assert found == frames


def test_frames_that_are_left_are_judged_when_they_are_cut() -> None:
    framer = Framer(100)

    assert framer.receive(prefixed([b"one"]) + (101).to_bytes(4), 1) == [b"one"]
    with pytest.raises(RemoteProtocolError):
        framer.receive(b"", 1)
