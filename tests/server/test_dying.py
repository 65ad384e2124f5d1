"""Messages that expire, are rejected or are too many, from publish to the letter that tells of it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio.testing

from amqp_client import Channel, Message
from broker.amqp import content, methods, properties, wire
from broker_here import BrokerHere, broker_here, until

LETTERS = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "letters"}


async def letters(channel: Channel, count: int) -> list[Message]:
    """Wait for so many dead letters."""
    await channel.consume("letters", no_ack=True)
    return await channel.messages(count)


async def pass_time(clock: trio.testing.MockClock, seconds: float) -> None:
    clock.jump(seconds)
    await trio.testing.wait_all_tasks_blocked(0.01)


@pytest.fixture
async def mock_broker(tmp_path, mock_clock):
    async with broker_here(tmp_path) as here:
        yield here


async def open_channel(broker: BrokerHere, number: int = 1) -> Channel:
    channel = await (await broker.connect()).channel(number)
    await channel.declare("letters")
    return channel


# ---- what a dead letter says ----


async def test_a_rejected_message_says_where_it_died(broker):
    channel = await open_channel(broker)
    await channel.exchange("graveyard", "topic")
    await channel.bind("letters", "graveyard", "#")
    await channel.declare("q", arguments={"x-dead-letter-exchange": "graveyard"})
    await channel.bind("q", "amq.topic", "a.*")
    headers = {"mine": 2**40, "list": [1, "x"]}
    await channel.publish(b"body", exchange="amq.topic", to="a.b", headers=headers, type="t", delivery_mode=2)
    message = await channel.get("q")
    before = datetime.now(UTC).replace(microsecond=0)
    await channel.reject(message.tag, requeue=False)
    (letter,) = await letters(channel, 1)
    assert letter.body == b"body"
    assert letter.method == methods.BasicDeliver(letter.method.consumer_tag, 2, False, "graveyard", "a.b")
    assert (letter.properties.type, letter.properties.delivery_mode) == ("t", 2)
    (death,) = letter.headers["x-death"]
    assert list(death) == ["count", "reason", "queue", "time", "exchange", "routing-keys"]
    at = death.pop("time")
    assert before <= at <= before + timedelta(seconds=5)
    assert death == {
        "count": 1,
        "reason": "rejected",
        "queue": "q",
        "exchange": "amq.topic",
        "routing-keys": ["a.b"],
    }
    rest = {name: value for name, value in letter.headers.items() if name != "x-death"}
    assert rest == {
        **headers,
        "x-first-death-queue": "q",
        "x-first-death-reason": "rejected",
        "x-first-death-exchange": "amq.topic",
        "x-last-death-queue": "q",
        "x-last-death-reason": "rejected",
        "x-last-death-exchange": "amq.topic",
    }


async def test_the_numbers_of_a_letter_are_64_bits_wide_and_others_keep_their_width(broker):
    channel = await open_channel(broker)
    await channel.declare("q", arguments=LETTERS)
    small = wire.join_table({"n": b"b\x07", "u": b"u\0\x08"})
    method = methods.encode(1, methods.BasicPublish(routing_key="q"))
    raw = properties.join({"headers": small})
    await channel.client.write(method + content.build(1, raw, b"", 0))
    await channel.reject((await channel.get("q")).tag, requeue=False)
    await channel.settle()
    await channel.send(methods.BasicGet(queue="letters", no_ack=True))
    received = b""
    while b"x-last-death-exchange" not in received or not received.endswith(b"\xce"):
        received += await channel.client.stream.receive_some(4096)
    assert b"\x01nb\x07" in received
    assert b"\x01uu\0\x08" in received
    assert b"\x05countl" + (1).to_bytes(8) in received


async def test_nack_without_requeue_makes_letters_too(broker):
    channel = await open_channel(broker)
    await channel.declare("q", arguments=LETTERS)
    for number in range(3):
        await channel.publish(b"%d" % number, to="q")
    await channel.consume("q")
    await channel.messages(3)
    await channel.nack(0, multiple=True, requeue=False)
    assert [letter.body for letter in await letters(channel, 3)] == [b"0", b"1", b"2"]


async def test_a_routing_key_for_letters_replaces_all_keys(broker):
    channel = await open_channel(broker)
    for name in ("q", "copy"):
        await channel.declare(name, arguments=LETTERS)
    await channel.publish(b"", to="q", headers={"CC": ["copy"]})
    await channel.reject((await channel.get("q")).tag, requeue=False)
    (letter,) = await letters(channel, 1)
    assert letter.method.routing_key == "letters"
    assert "CC" not in letter.headers
    assert letter.headers["x-death"][0]["routing-keys"] == ["q", "copy"]


async def test_without_a_key_for_letters_all_keys_count_again(broker):
    channel = await open_channel(broker)
    await channel.declare("q", arguments={"x-dead-letter-exchange": "amq.direct"})
    await channel.declare("copy")
    await channel.bind("letters", "amq.direct", "q")
    await channel.bind("copy", "amq.direct", "other")
    await channel.publish(b"", to="q", headers={"CC": ["other"]})
    await channel.reject((await channel.get("q")).tag, requeue=False)
    (letter,) = await letters(channel, 1)
    assert letter.headers["CC"] == ["other"]
    assert await channel.get("copy") is not None


async def test_letters_without_an_exchange_are_dropped(broker):
    channel = await open_channel(broker)
    await channel.declare("q", arguments={"x-dead-letter-exchange": "nope"})
    await channel.publish(b"", to="q")
    await channel.reject((await channel.get("q")).tag, requeue=False)
    assert await channel.came() == []
    assert broker.node.topology.vhost("/").queue("q").unacked_count == 0


async def test_a_second_death_is_the_first_of_the_list(broker):
    channel = await open_channel(broker)
    await channel.declare("second", arguments=LETTERS)
    await channel.declare(
        "first", arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "second"}
    )
    await channel.publish(b"", to="first")
    for name in ("first", "second"):
        await channel.reject((await channel.get(name)).tag, requeue=False)
        await channel.settle()
    (letter,) = await letters(channel, 1)
    assert [(death["queue"], death["count"]) for death in letter.headers["x-death"]] == [
        ("second", 1),
        ("first", 1),
    ]
    assert letter.headers["x-first-death-queue"] == "first"
    assert letter.headers["x-last-death-queue"] == "second"


async def test_whoever_rejects_may_have_it_go_round_and_round(broker):
    channel = await open_channel(broker)
    await channel.declare("q", arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q"})
    await channel.publish(b"", to="q")
    await channel.qos(1)
    await channel.consume("q")
    first_time = None
    for count in range(5):
        message = await channel.message()
        if count:
            (death,) = message.headers["x-death"]
            assert death["count"] == count
            assert death["time"] == (first_time := first_time or death["time"])
        await channel.reject(message.tag, requeue=False)


# ---- time ----


async def test_a_queues_time_limit(mock_broker, mock_clock):
    channel = await open_channel(mock_broker)
    await channel.declare("q", arguments={**LETTERS, "x-message-ttl": 1000})
    await channel.publish(b"1", to="q")
    await channel.settle()
    await pass_time(mock_clock, 0.6)
    await channel.publish(b"2", to="q")
    await channel.settle()
    await pass_time(mock_clock, 0.6)
    assert [await channel.depth(name) for name in ("q", "letters")] == [1, 1]
    await pass_time(mock_clock, 0.6)
    first, second = await letters(channel, 2)
    assert [first.body, second.body] == [b"1", b"2"]
    assert first.headers["x-death"][0]["reason"] == "expired"
    assert "original-expiration" not in first.headers["x-death"][0]


async def test_a_messages_own_time_limit_is_told_and_lost(mock_broker, mock_clock):
    channel = await open_channel(mock_broker)
    await channel.declare("q", arguments=LETTERS)
    await channel.publish(b"1", to="q", expiration="500")
    await channel.settle()
    await pass_time(mock_clock, 0.6)
    (letter,) = await letters(channel, 1)
    assert letter.properties.expiration is None
    (death,) = letter.headers["x-death"]
    assert next(iter(death)) == "original-expiration"
    assert (death["original-expiration"], death["reason"]) == ("500", "expired")


async def test_the_shorter_limit_counts(mock_broker, mock_clock):
    channel = await open_channel(mock_broker)
    await channel.declare("q", arguments={**LETTERS, "x-message-ttl": 1000})
    await channel.publish(b"own", to="q", expiration="300")
    await channel.publish(b"queue's", to="q", expiration="5000")
    await channel.settle()
    await pass_time(mock_clock, 0.5)
    assert await channel.depth("q") == 1
    await pass_time(mock_clock, 0.6)
    assert [letter.body for letter in await letters(channel, 2)] == [b"own", b"queue's"]


async def test_a_message_expires_wherever_it_stands(mock_broker, mock_clock):
    channel = await open_channel(mock_broker)
    await channel.declare("q", arguments=LETTERS)
    for number in range(5):
        limit = {"expiration": "1000"} if number in (1, 3) else {}
        await channel.publish(b"%d" % number, to="q", **limit)
    await channel.settle()
    await pass_time(mock_clock, 1.1)
    assert [letter.body for letter in await letters(channel, 2)] == [b"1", b"3"]
    assert [(await channel.get("q")).body for _ in range(3)] == [b"0", b"2", b"4"]


async def test_what_is_given_back_keeps_its_moment(mock_broker, mock_clock):
    channel = await open_channel(mock_broker)
    await channel.declare("q", arguments={**LETTERS, "x-message-ttl": 1000})
    await channel.publish(b"", to="q")
    message = await channel.get("q")
    await pass_time(mock_clock, 0.6)
    await channel.nack(message.tag)
    await channel.settle()
    await pass_time(mock_clock, 0.6)
    (letter,) = await letters(channel, 1)
    assert letter.headers["x-death"][0]["reason"] == "expired"


async def test_what_is_out_does_not_expire(mock_broker, mock_clock):
    channel = await open_channel(mock_broker)
    await channel.declare("q", arguments={**LETTERS, "x-message-ttl": 1000})
    await channel.publish(b"", to="q")
    message = await channel.get("q")
    await pass_time(mock_clock, 10)
    assert await channel.depth("letters") == 0
    await channel.nack(message.tag)
    assert len(await letters(channel, 1)) == 1


async def test_no_time_at_all_means_now_or_never(broker):
    channel = await open_channel(broker)
    await channel.declare("q", arguments={**LETTERS, "x-message-ttl": 0})
    await channel.publish(b"never", to="q")
    await channel.settle()
    assert await channel.depth("q") == 0
    tag = await channel.consume("q", no_ack=True)
    await channel.publish(b"now", to="q")
    assert (await channel.message()).body == b"now"
    await channel.call(methods.BasicCancel(tag), methods.BasicCancelOk)
    assert [letter.body for letter in await letters(channel, 1)] == [b"never"]


async def test_time_alone_leads_no_message_in_a_circle(mock_broker, mock_clock):
    channel = await open_channel(mock_broker)
    for name, following in (("a", "b"), ("b", "a")):
        arguments = {
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": following,
            "x-message-ttl": 100,
        }
        await channel.declare(name, arguments=arguments)
    await channel.publish(b"", to="a")
    await channel.settle()
    await pass_time(mock_clock, 0.15)
    assert [await channel.depth(name) for name in "ab"] == [0, 1]
    await pass_time(mock_clock, 0.15)
    assert [await channel.depth(name) for name in "ab"] == [0, 0]


async def test_levels_of_delay(mock_broker, mock_clock):
    """As Celery's delayed delivery: level n waits 2^n seconds or is passed by, and level 0 delivers."""
    channel = await open_channel(mock_broker)
    levels = 4
    for level in range(levels):
        name, below = f"delay-{level}", f"delay-{level - 1}" if level else "delivery"
        await channel.exchange(name, "topic")
        arguments = {"x-message-ttl": 1000 * 2**level, "x-dead-letter-exchange": below}
        await channel.declare(name, arguments=arguments)
    await channel.exchange("delivery", "topic")
    await channel.bind("letters", "delivery", "#.target")
    for level in range(levels):
        stars = ".".join("*" * (levels - level - 1))
        prefix = stars + "." if stars else ""
        await channel.bind(f"delay-{level}", f"delay-{level}", f"{prefix}1.#")
        below = f"delay-{level - 1}" if level else "delivery"
        await channel.call(
            methods.ExchangeBind(destination=below, source=f"delay-{level}", routing_key=f"{prefix}0.#"),
            methods.ExchangeBindOk,
        )
    for seconds in (5, 2, 0):
        bits = ".".join(f"{seconds:04b}")
        await channel.publish(b"%d" % seconds, exchange="delay-3", to=f"{bits}.target")
    await channel.settle()
    arrived: list[tuple[int, int]] = []
    for second in range(7):
        while message := await channel.get("letters", no_ack=True):
            arrived.append((second, int(message.body)))
        await pass_time(mock_clock, 1.01)
    assert arrived == [(0, 0), (2, 2), (5, 5)]


# ---- length ----


async def test_the_oldest_go_when_there_are_too_many(broker):
    channel = await open_channel(broker)
    await channel.declare("q", arguments={**LETTERS, "x-max-length": 3})
    for number in range(5):
        await channel.publish(b"%d" % number, to="q")
    await channel.settle()
    found = await letters(channel, 2)
    assert [letter.body for letter in found] == [b"0", b"1"]
    assert found[0].headers["x-death"][0]["reason"] == "maxlen"
    assert [(await channel.get("q")).body for _ in range(3)] == [b"2", b"3", b"4"]


async def test_what_is_out_does_not_count(broker):
    channel = await open_channel(broker)
    await channel.declare("q", arguments={**LETTERS, "x-max-length": 2})
    for _ in range(2):
        await channel.publish(b"", to="q")
        await channel.get("q")
    for number in range(3):
        await channel.publish(b"%d" % number, to="q")
    assert [letter.body for letter in await letters(channel, 1)] == [b"0"]


async def test_a_limit_in_octets(broker):
    channel = await open_channel(broker)
    await channel.declare("q", arguments={**LETTERS, "x-max-length-bytes": 100})
    for number in range(4):
        await channel.publish(b"%d" % number * 40, to="q")
    assert [letter.body[:1] for letter in await letters(channel, 2)] == [b"0", b"1"]
    await channel.publish(bytes(101), to="q")
    assert len((await channel.messages(3))[2].body) == 101
    assert await channel.depth("q") == 0


async def test_refused_messages_can_be_letters(broker):
    channel = await open_channel(broker)
    await channel.declare("q", arguments={**LETTERS, "x-max-length": 1, "x-overflow": "reject-publish-dlx"})
    await channel.confirm_mode()
    await channel.publish(b"1", to="q")
    await channel.publish(b"2", to="q")
    assert await channel.confirms(2) == {1: True, 2: False}
    (letter,) = await letters(channel, 1)
    assert (letter.body, letter.headers["x-death"][0]["reason"]) == (b"2", "maxlen")


async def test_a_queue_that_is_its_own_graveyard_drops(broker):
    channel = await open_channel(broker)
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q", "x-max-length": 1}
    await channel.declare("q", arguments=arguments)
    for number in range(10):
        await channel.publish(b"%d" % number, to="q")
    await channel.settle()
    assert (await channel.get("q")).body == b"9"
    assert await channel.get("q") is None


# ---- histories that came with the message ----


async def raw_letter(channel: Channel, history: bytes) -> bytes:
    """The octets of the `x-death` of a message that came with one and was rejected."""
    raw = properties.join({"headers": wire.join_table({"x-death": history})})
    method = methods.encode(1, methods.BasicPublish(routing_key="q"))
    await channel.client.write(method + content.build(1, raw, b"", 0))
    await channel.reject((await channel.get("q")).tag, requeue=False)
    await channel.settle()
    await channel.send(methods.BasicGet(queue="letters", no_ack=True))
    received = b""
    while not received.endswith(b"\xce") or b"x-last-death-exchange" not in received:
        received += await channel.client.stream.receive_some(4096)
    size = 8 + int.from_bytes(received[3:7])  # of the basic.get-ok before the content
    values = properties.split(content.properties_of(received[size:]))
    return wire.split_table(values["headers"])["x-death"]


def entry(queue: str, reason: str, **fields: bytes) -> bytes:
    """An entry of `x-death`, the octets of whose other fields are given."""
    texts = {"queue": wire.write_value(queue), "reason": wire.write_value(reason)}
    return b"F" + wire.join_table({**texts, **fields})


async def test_entries_that_say_nothing_new_keep_their_octets(broker):
    channel = await open_channel(broker)
    await channel.declare("q", arguments=LETTERS)
    others = [
        entry("other", "expired", count=b"l" + (1).to_bytes(8), time=b"T" + (7).to_bytes(8)),
        entry("other", "rejected", count=b"I" + (2).to_bytes(4), odd=b"u\0\x08"),
        entry("q", "expired", count=b"f\x7f\xc0\0\0"),
    ]
    own = entry("q", "rejected", count=b"b\x07", time=b"T" + (8).to_bytes(8))
    history = await raw_letter(channel, wire.join_array([*others, own]))
    again = entry("q", "rejected", count=b"l" + (8).to_bytes(8), time=b"T" + (8).to_bytes(8))
    assert wire.split_array(history) == [again, *others]


async def test_equal_entries_without_a_count_are_one_that_counts_them(broker):
    """As RabbitMQ before 3.5 wrote them: one for each death."""
    channel = await open_channel(broker)
    await channel.declare("q", arguments=LETTERS)
    old = [entry("a", "expired")] * 4 + [entry("b", "expired")] + [entry("q", "rejected")] * 2
    history = await raw_letter(channel, wire.join_array([*old, entry("a", "expired")]))
    deaths = [wire.read_value(raw) for raw in wire.split_array(history)]
    assert [(death["queue"], death["reason"], death["count"]) for death in deaths] == [
        ("q", "rejected", 3),
        ("a", "expired", 5),
        ("b", "expired", 1),
    ]
    assert history.count(b"\x05countl") == 3


# ---- what a client may have written itself ----

ODD_HISTORIES: list[Any] = [
    "nonsense",
    1,
    [],
    ["nonsense", 1, None],
    [{}],
    [{"queue": "q", "reason": "rejected"}],
    [{"queue": "q", "reason": "rejected", "count": "many"}],
    [{"queue": "q", "reason": "rejected", "count": 2**63 - 1}],
    [{"queue": "q", "reason": "rejected", "count": -(2**63)}],
    [{"queue": 1, "reason": ["x"], "count": 1, "time": datetime(1970, 1, 1, tzinfo=UTC)}],
    [{"queue": "q", "reason": "rejected", "count": 1, "deep": [[[[{"a": [b"\xff", 1.5, None]}]]]]}],
]


@pytest.mark.parametrize("history", ODD_HISTORIES, ids=str)
async def test_any_history_may_be_claimed(broker, history):
    channel = await open_channel(broker)
    await channel.declare("q", arguments=LETTERS)
    await channel.publish(b"body", to="q", headers={"x-death": history, "x-first-death-reason": 5})
    await channel.reject((await channel.get("q")).tag, requeue=False)
    (letter,) = await letters(channel, 1)
    assert letter.body == b"body"
    death = letter.headers["x-death"][0]
    assert (death["queue"], death["reason"]) == ("q", "rejected")
    assert 1 <= death["count"] <= 2**63 - 1 or history[0]["count"] == -(2**63)


@pytest.mark.parametrize(
    "table",
    [
        pytest.param(b"\0\0\0\x05\x01aZ\0\0", id="an unknown tag"),
        pytest.param(b"\0\0\0\x03\x05ab", id="a name that runs over"),
        pytest.param(b"\0\0\0\x03\x01\xffV", id="a name that is no UTF-8"),
        pytest.param(
            b"\0\0\0\x21\x07x-deathA\0\0\0\x14F\0\0\0\x0f\x04timeT" + b"\xff" * 8 + b"\x00" * 1,
            id="a time that no date can be",
        ),
    ],
)
async def test_headers_that_nobody_can_read(broker, table):
    """They pass as they are; whoever must read them gives them up."""
    channel = await open_channel(broker)
    await channel.declare("q", arguments=LETTERS)
    raw = properties.join({"headers": table})
    method = methods.encode(1, methods.BasicPublish(routing_key="q"))
    await channel.client.write(method + content.build(1, raw, b"body", 0))
    await channel.settle()
    queue = broker.node.topology.vhost("/").queue("q")
    assert queue.ready_count == 1
    other = await open_channel(broker)
    other.client._sort = lambda event: None  # type: ignore[method-assign]  # our own client cannot read it either
    await other.send(methods.BasicGet(queue="q"), methods.BasicReject(1, False))
    await until(lambda: broker.node.topology.vhost("/").queue("letters").ready_count == 1)
    assert await channel.depth("letters") == 1


# ---- what lasts ----


async def test_a_letter_is_as_durable_as_its_message(tmp_path):
    async with broker_here(tmp_path) as broker:
        client = await broker.connect()
        channel = await client.channel(1)
        await channel.declare("letters", durable=True)
        await channel.declare("q", durable=True, arguments=LETTERS)
        await channel.confirm_mode()
        for number in range(3):
            await channel.publish(b"%d" % number, to="q", delivery_mode=2)
        await channel.confirms(3)
        await channel.reject((await channel.get("q")).tag, requeue=False)
        await channel.settle()
        await broker.node.settled()
        await client.close()
    async with broker_here(tmp_path) as broker:
        channel = await (await broker.connect()).channel(1)
        letter = await channel.get("letters")
        assert (letter.body, letter.headers["x-first-death-queue"]) == (b"0", "q")
        assert [await channel.depth(name) for name in ("q", "letters")] == [2, 0]


async def test_what_expired_while_the_broker_was_down_is_a_letter_after_the_start(tmp_path):
    async with broker_here(tmp_path) as broker:
        client = await broker.connect()
        channel = await client.channel(1)
        await channel.declare("letters", durable=True)
        await channel.declare("q", durable=True, arguments=LETTERS)
        await channel.confirm_mode()
        await channel.publish(b"long", to="q", delivery_mode=2, expiration="600000")
        await channel.publish(b"short", to="q", delivery_mode=2, expiration="1")
        await channel.confirms(2)
        await client.close()
        expired_at = time.time() + 0.001
    await until(lambda: time.time() > expired_at)
    async with broker_here(tmp_path) as broker:
        channel = await (await broker.connect()).channel(1)
        assert {letter.body for letter in await letters(channel, 1)} == {b"short"}
        assert (await channel.get("q")).body == b"long"


async def test_a_length_limit_holds_for_what_comes_back(channel):
    await channel.declare("dead")
    arguments = {"x-max-length": 2, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    await channel.declare("q", arguments=arguments)
    await channel.publish(b"1", to="q")
    first = await channel.get("q")
    for body in (b"2", b"3"):
        await channel.publish(body, to="q")
    await channel.send(methods.BasicReject(first.tag, requeue=True))
    await channel.settle()
    assert (await channel.get("dead", no_ack=True)).body == b"1"
    assert [(await channel.get("q", no_ack=True)).body for _ in range(2)] == [b"2", b"3"]
