"""What a queue's store writes of messages is what it reads again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.amqp import content
from broker.amqp.envelope import Envelope, envelope_of
from broker.amqp.properties import Properties, encode, facts_of
from broker.node import records
from broker.storage.errors import CorruptLog

RAW = encode(Properties(delivery_mode=2, message_id="1"))


def envelope(key: str, channel: int = 1) -> Envelope:
    return envelope_of(channel, 131_072, "exchange", key, facts_of(RAW))


def contents_of(sizes: list[int]) -> list[bytes]:
    return [content.build(1, RAW, bytes(size), 131_072) for size in sizes]


_messages = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from(["", "a", "b" * 255, "é"]), st.integers(0, 2**63)),
    min_size=1,
    max_size=20,
)


@given(_messages, st.booleans(), st.booleans())
def test_messages_come_back(messages: list[tuple[int, str, int]], various: bool, expire: bool) -> None:
    contents = contents_of([size for size, _, _ in messages])
    envelopes = [envelope(key, 1 + len(key)) for _, key, _ in messages] if various else None
    expiries = [moment for _, _, moment in messages] if expire else None
    first = envelopes[0] if envelopes else envelope("key")
    payload = b"".join(records.encode(first, contents, None, envelopes, expiries))
    run, read_expiries = records.decode(payload, len(contents))
    assert run.contents == contents
    assert run.size == sum(size for size, _, _ in messages)
    assert read_expiries == expiries
    assert run.envelope is first
    assert (run.envelopes or [run.envelope] * len(contents)) == (envelopes or [first] * len(contents))


def test_a_payload_of_another_version_is_named() -> None:
    payload = b"".join(records.encode(envelope("key"), contents_of([1]), 1))
    with pytest.raises(CorruptLog, match="version 3, this broker knows 1 and 2"):
        records.decode(b"\x03" + payload[1:], 1)
