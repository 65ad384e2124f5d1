from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.amqp import content

_CHANNELS = st.integers(0, 2**16 - 1)
_PROPERTIES = st.binary(min_size=2, max_size=30)
_BODIES = st.binary(max_size=60)


def naive_frames(octets: bytes) -> list[tuple[int, int, bytes]]:
    """Type, channel and payload of each frame."""
    found = []
    at = 0
    while at < len(octets):
        size = int.from_bytes(octets[at + 3 : at + 7])
        end = at + 7 + size
        assert octets[end] == 0xCE
        found.append((octets[at], int.from_bytes(octets[at + 1 : at + 3]), octets[at + 7 : end]))
        at = end + 1
    return found


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """As a peer may have cut them: some body frames may be empty, and any may be short."""
    channel = draw(_CHANNELS)
    properties = draw(_PROPERTIES)
    pieces = draw(st.lists(st.binary(max_size=12), max_size=6))
    body_size = sum(map(len, pieces))
    header = b"\x00\x3c\x00\x00" + body_size.to_bytes(8) + properties
    frames = [(2, header), *[(3, piece) for piece in pieces if body_size]]
    return b"".join(
        bytes([kind]) + channel.to_bytes(2) + len(payload).to_bytes(4) + payload + b"\xce"
        for kind, payload in frames
    )


def naive_parts(octets: bytes) -> tuple[bytes, bytes]:
    """Properties and body."""
    (_, _, header), *bodies = naive_frames(octets)
    return header[12:], b"".join(payload for _, _, payload in bodies)


@given(_CHANNELS, _PROPERTIES, _BODIES, st.integers(9, 100))
def test_a_content_is_built_in_frames_that_fit(
    channel: int, properties: bytes, body: bytes, frame_max: int
) -> None:
    built = content.build(channel, properties, body, frame_max)
    header, *bodies = naive_frames(built)
    assert header == (2, channel, b"\x00\x3c\x00\x00" + len(body).to_bytes(8) + properties)
    assert b"".join(payload for _, _, payload in bodies) == body
    assert all(kind == 3 and number == channel for kind, number, _ in bodies)
    # As few as can be: all but the last are full.
    sizes = [len(payload) + 8 for _, _, payload in bodies]
    assert all(size == frame_max for size in sizes[:-1])
    assert all(8 < size <= frame_max for size in sizes[-1:])


@given(_CHANNELS, _PROPERTIES, _BODIES)
def test_without_a_limit_a_body_has_one_frame(channel: int, properties: bytes, body: bytes) -> None:
    built = content.build(channel, properties, body, 0)
    assert len(naive_frames(built)) == 1 + bool(body)


@given(contents())
def test_a_content_says_what_it_holds(octets: bytes) -> None:
    properties, body = naive_parts(octets)
    assert content.properties_of(octets) == properties
    assert content.body_of(octets) == body
    assert content.body_size(octets) == len(body)


@given(_CHANNELS, _PROPERTIES, _BODIES, st.sampled_from([0, 9, 20, 4096]))
def test_what_was_built_comes_back(channel: int, properties: bytes, body: bytes, frame_max: int) -> None:
    built = content.build(channel, properties, body, frame_max)
    assert (content.properties_of(built), content.body_of(built)) == (properties, body)


@given(st.lists(contents(), max_size=4), _CHANNELS)
def test_on_another_channel_only_the_number_differs(given: list[bytes], channel: int) -> None:
    moved = content.on_channel(given, channel)
    assert [naive_frames(octets) for octets in moved] == [
        [(kind, channel, payload) for kind, _, payload in naive_frames(octets)] for octets in given
    ]


@given(st.lists(contents(), max_size=4), _CHANNELS, st.integers(9, 200))
def test_fitted_contents_have_no_larger_frame_than_the_channel_takes(
    given: list[bytes], channel: int, frame_max: int
) -> None:
    fitted = content.fitted(given, channel, frame_max)
    assert len(fitted) == len(given)
    for before, after in zip(given, fitted, strict=True):
        assert naive_parts(after) == naive_parts(before)
        frames = naive_frames(after)
        assert {number for _, number, _ in frames} == {channel}
        # A header cannot be cut.
        assert all(len(payload) + 8 <= frame_max for _, _, payload in frames[1:])
