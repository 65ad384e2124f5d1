from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import UTC, datetime

import pamqp.commands
import pamqp.header
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqp_strategies import properties as any_properties
from amqp_strategies import short_texts
from broker.amqp import properties, wire
from broker.amqp.errors import LocalProtocolError, RemoteProtocolError
from broker.amqp.properties import Properties, facts_of
from broker.amqp.spec import ReplyCode

NAMES = (
    "content_type",
    "content_encoding",
    "headers",
    "delivery_mode",
    "priority",
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "timestamp",
    "type",
    "user_id",
    "app_id",
    "cluster_id",
)


@given(any_properties)
def test_properties_come_back(given: Properties) -> None:
    assert properties.decode(properties.encode(given)) == given


@given(any_properties)
def test_split_and_join_keep_octets(given: Properties) -> None:
    raw = properties.encode(given)
    values = properties.split(raw)
    assert properties.join(values) == raw
    assert list(values) == [name for name in NAMES if getattr(given, name) is not None]


@given(any_properties, st.data())
def test_one_may_be_taken_out_or_changed(given: Properties, data: st.DataObject) -> None:
    values = properties.split(properties.encode(given))
    name = data.draw(st.sampled_from([name for name in NAMES if name != "expiration"]))
    values.pop(name, None)
    values["expiration"] = wire.shortstr("5")
    changed = {name: None, "expiration": "5"}
    assert properties.decode(properties.join(values)) == replace(given, **changed)


def test_the_order_and_the_flags_are_those_of_the_class() -> None:
    for index, name in enumerate(NAMES):
        one = {"headers": {}, "delivery_mode": 1, "priority": 1, "timestamp": 1}.get(name, "x")
        raw = properties.encode(Properties(**{name: one}))
        assert raw[:2] == (1 << 15 >> index).to_bytes(2)
    assert properties.encode(Properties()) == b"\0\0"
    assert properties.encode(Properties(content_type="a", cluster_id="b")) == b"\x80\x04\x01a\x01b"


@pytest.mark.parametrize("given", [Properties(delivery_mode=256), Properties(priority=-1)])
def test_an_octet_that_is_none_is_our_mistake(given: Properties) -> None:
    with pytest.raises(LocalProtocolError, match="it has one octet") as error:
        properties.encode(given)
    assert error.value.code is ReplyCode.SYNTAX_ERROR


@given(any_properties.filter(lambda given: given != Properties()), st.data())
def test_properties_cut_short_are_refused(given: Properties, data: st.DataObject) -> None:
    raw = properties.encode(given)
    cut = raw[: data.draw(st.integers(0, len(raw) - 1))]
    for read in (properties.split, properties.decode, facts_of):
        with pytest.raises(RemoteProtocolError) as error:
            read(cut)
        assert error.value.code is ReplyCode.SYNTAX_ERROR


@given(any_properties, st.binary(min_size=1, max_size=4))
def test_properties_that_run_on_are_refused(given: Properties, tail: bytes) -> None:
    raw = properties.encode(given)
    for read in (properties.split, properties.decode, facts_of):
        with pytest.raises(RemoteProtocolError, match="do not fill their content header"):
            read(raw + tail)
        read(raw)  # and what was read before has not changed that


@pytest.mark.parametrize("flags", [1, 2, 3, 0xFFFF])
def test_unknown_flags_are_refused(flags: int) -> None:
    for read in (properties.split, properties.decode, facts_of):
        with pytest.raises(RemoteProtocolError, match="unknown property flags") as error:
            read(flags.to_bytes(2) + bytes(20))
        assert error.value.code is ReplyCode.SYNTAX_ERROR


@given(st.integers(0, 2**16 - 1), st.binary(max_size=40))
def test_any_octets_are_properties_or_an_error(flags: int, octets: bytes) -> None:
    raw = flags.to_bytes(2) + octets
    for read in (properties.split, properties.decode, facts_of):
        with contextlib.suppress(RemoteProtocolError):
            read(raw)


# ---- beside another implementation ----


def _theirs(given: Properties) -> pamqp.commands.Basic.Properties:
    """Without what pamqp leaves out or reads in another way: see `test_wire` for tables and times."""
    fields = {name: getattr(given, name) or None for name in NAMES}
    headers = {"x": 1} if given.headers is not None else None
    at = datetime(2020, 1, 2, tzinfo=UTC) if given.timestamp is not None else None
    mode = None if given.delivery_mode is None else 1 + given.delivery_mode % 2
    fields |= {"headers": headers, "timestamp": at, "delivery_mode": mode}
    fields["message_type"] = fields.pop("type")
    fields["cluster_id"] = ""
    return pamqp.commands.Basic.Properties(**fields)


def _ours(theirs: pamqp.commands.Basic.Properties) -> Properties:
    values = {name: getattr(theirs, "message_type" if name == "type" else name) for name in NAMES}
    return Properties(**{name: None if value == "" else value for name, value in values.items()})


@given(any_properties.map(_theirs))
def test_we_read_what_pamqp_writes(theirs: pamqp.commands.Basic.Properties) -> None:
    assert properties.decode(theirs.marshal()) == _ours(theirs)


@given(any_properties.map(_theirs))
def test_pamqp_reads_what_we_write(theirs: pamqp.commands.Basic.Properties) -> None:
    raw = properties.encode(_ours(theirs))
    header = pamqp.header.ContentHeader()
    header.unmarshal((60).to_bytes(2) + bytes(10) + raw)
    assert _ours(header.properties) == _ours(theirs)


# ---- facts ----


def _plain_facts(raw: bytes) -> tuple[object, ...]:
    """What facts say, of properties that were decoded whole."""
    whole = properties.decode(raw)
    headers = whole.headers or {}
    return (
        whole.delivery_mode == 2,
        whole.priority or 0,
        whole.user_id,
        bool(headers),
        whole.reply_to == "amq.rabbitmq.reply-to",
    )


@given(any_properties)
def test_facts_are_those_of_the_whole_properties(given: Properties) -> None:
    raw = properties.encode(given)
    facts = facts_of(raw)
    told = (
        facts.persistent,
        facts.priority,
        facts.user_id,
        facts.has_headers,
        facts.asks_direct_reply,
    )
    assert told == _plain_facts(raw)
    assert facts.has_copies or not {"CC", "BCC"} & (given.headers or {}).keys()
    assert facts_of(raw) is facts


@given(any_properties, any_properties)
def test_the_same_facts_are_one_object(one: Properties, other: Properties) -> None:
    """Whatever else the properties are."""
    other = replace(
        other,
        delivery_mode=one.delivery_mode,
        priority=one.priority,
        expiration=one.expiration,
        user_id=one.user_id,
        headers=one.headers,
        reply_to=one.reply_to,
    )
    assert facts_of(properties.encode(one)) is facts_of(properties.encode(other))


@pytest.mark.parametrize(
    ("headers", "has_copies"),
    [(None, False), ({}, False), ({"c": 1}, False), ({"CC": ["a"]}, True), ({"BCC": ["a"]}, True)],
)
def test_copies_are_seen(headers: dict[str, object] | None, has_copies: bool) -> None:
    facts = facts_of(properties.encode(Properties(headers=headers)))
    assert (facts.has_headers, facts.has_copies) == (bool(headers), has_copies)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("60000", 60000),
        ("+5", 5),
        ("-0", 0),
        ("007", 7),
        ("315360000000", 315360000000),
        ("", "invalid expiration '': no_integer"),
        ("foo", "invalid expiration 'foo': no_integer"),
        ("-", "invalid expiration '-': no_integer"),
        (" 1", "invalid expiration ' 1': no_integer"),
        ("1.5", "invalid expiration '1.5': {leftover_string,\".5\"}"),
        ("12ms", "invalid expiration '12ms': {leftover_string,\"ms\"}"),
        ("-5", "invalid expiration '-5': {value_negative,-5}"),
        ("315360000001", "invalid expiration '315360000001': {value_too_large,315360000001}"),
        ("9" * 255, "invalid expiration '" + "9" * 255 + "': {value_too_large," + "9" * 255 + "}"),
        ("١٢", "invalid expiration '١٢': no_integer"),
    ],
)
def test_the_expiration_is_a_number_or_what_is_wrong_with_it(text: str, expected: int | str) -> None:
    raw = properties.encode(Properties(expiration=text))
    facts = facts_of(raw)
    if isinstance(expected, int):
        assert (facts.expires, facts.expiration_problem) == (True, "")
        assert properties.expiration_ms(raw, 0) == expected
    else:
        assert (facts.expires, facts.expiration_problem) == (False, expected)


@given(any_properties, st.integers(0, properties.EXPIRATION_MS_MAX))
def test_the_expiration_is_found_among_all_properties(given: Properties, expiration: int) -> None:
    raw = properties.encode(replace(given, expiration=str(expiration)))
    assert properties.expiration_ms(b"before" + raw, 6) == expiration


@given(short_texts)
def test_any_expiration_is_a_number_or_a_problem(text: str) -> None:
    facts = facts_of(properties.encode(Properties(expiration=text)))
    assert facts.expires is not bool(facts.expiration_problem)


def test_a_user_id_that_is_no_utf_8_is_a_frame_error() -> None:
    with pytest.raises(RemoteProtocolError, match="Malformed UTF-8") as error:
        facts_of(b"\x00\x10\x01\xff")
    assert error.value.code is ReplyCode.FRAME_ERROR


def test_what_is_remembered_has_a_limit() -> None:
    for number in range(3 * properties._CACHED_COUNT_MAX):
        raw = properties.encode(Properties(user_id=f"u{number}"))
        assert facts_of(raw).user_id == f"u{number}"
    for number in range(3 * properties._CACHED_COUNT_MAX):
        raw = properties.encode(
            Properties(delivery_mode=number % 3, priority=number % 256, user_id=str(number))
        )
        assert facts_of(raw).priority == number % 256
    assert len(properties._facts) <= properties._CACHED_COUNT_MAX
    assert len(properties._plain_facts) <= properties._CACHED_COUNT_MAX
