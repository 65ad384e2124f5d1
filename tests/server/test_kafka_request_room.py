"""What all requests of Kafka's clients together may take in memory: some are read, others wait in their sockets."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.kafka import api
from broker.kafka.errors import ErrorCode
from broker.node.flusher import UNWRITTEN_MAX, Commit
from broker.server.kafka.inbox import SMALL_SIZE, Inbox
from broker.server.kafka.request_room import RequestRoom
from broker_here import until
from kafka_here import kafka_here
from kafka_wire import KafkaClient, batch, produce_body

SIZE_MAX = 100_000
BATCH = batch([bytes(40_000)])


def frame(size: int, key: int = api.FETCH.key) -> bytes:
    return struct.pack(">ih", size, key) + bytes(size - 2)


# ---- the count ----


def inbox_in(room: RequestRoom) -> tuple[Inbox, list[str]]:
    told: list[str] = []
    return Inbox(room, 1 << 20, lambda: told.append("let in")), told


def test_small_frames_are_always_read() -> None:
    room = RequestRoom(10_000)
    room.take(20_000)
    inbox, _ = inbox_in(room)
    inbox.receive(frame(SMALL_SIZE)[:50])
    assert inbox.settle(0, stranger=True)
    inbox.receive(frame(SMALL_SIZE)[50:])
    assert len(inbox.take()) == SMALL_SIZE


def test_thousands_of_small_frames_count_before_they_are_cut() -> None:
    room = RequestRoom(1 << 20)
    inbox, _ = inbox_in(room)
    count = 3000
    inbox.receive(frame(20) * count)
    inbox.settle(0, stranger=False)
    assert count * 20 <= room.taken <= count * 24
    for _ in range(count):
        assert inbox
        assert inbox.take() == frame(20)[4:]
    assert not inbox
    inbox.settle(0, stranger=False)
    assert room.taken == 0


def test_a_large_frame_counts_as_a_whole_when_it_is_let_in_and_until_it_is_handled() -> None:
    room = RequestRoom(10_000)
    inbox, _ = inbox_in(room)
    octets = frame(50_000)
    inbox.receive(octets[:10])
    assert inbox.settle(0, stranger=False)
    assert (room.taken, inbox.counts_what_comes) == (50_000, True)
    inbox.receive(octets[10:] + octets[:3])
    assert inbox.settle(0, stranger=False)
    assert (room.taken, inbox.counts_what_comes) == (50_000, False)
    inbox.take()
    inbox.settle(7, stranger=False)
    assert room.taken == 7
    inbox.settle(0, stranger=False)
    assert room.taken == 0


@pytest.mark.parametrize(
    ("taken", "let_in"),
    [(0, 3), (2_499, 3), (2_500, 2), (4_999, 2), (5_000, 1), (9_999, 1), (10_000, 0)],
)
def test_strangers_and_producers_leave_room_for_others(taken: int, let_in: int) -> None:
    asked = [(api.FETCH, False), (api.PRODUCE, False), (api.FETCH, True)]
    found = []
    for each, stranger in asked:
        room = RequestRoom(10_000)
        room.take(taken)
        inbox, _ = inbox_in(room)
        inbox.receive(frame(5000, each.key)[:10])
        found.append(inbox.settle(0, stranger=stranger))
    assert found == [True] * let_in + [False] * (3 - let_in)


def test_whoever_has_waited_longest_is_let_in_first() -> None:
    room = RequestRoom(10_000)
    room.take(10_000)
    order: list[int] = []
    inboxes: list[Inbox] = []

    def asks_again(number: int) -> Callable[[], None]:
        def let_in() -> None:
            order.append(number)
            inboxes[number].settle(0, stranger=False)

        return let_in

    for number in range(4):
        inboxes.append(Inbox(room, 1 << 20, asks_again(number)))
        inboxes[number].receive(frame(6_000)[:10])
        assert not inboxes[number].settle(0, stranger=False)
        assert inboxes[number].waits
    inboxes[1].clear()
    room.take(-5_000)
    assert order == [0]
    inboxes[0].clear()
    assert order == [0, 2]
    room.take(-5_000)
    assert order == [0, 2, 3]
    assert room.taken == 12_000


events = st.tuples(
    st.sampled_from(["octets", "octets", "octets", "take", "hold", "clear"]),
    st.integers(0, 3),
    st.integers(1, 9000),
)


@given(st.lists(st.integers(2, 9_000), min_size=1, max_size=6), st.lists(events, max_size=60))
def test_what_is_counted_is_what_is_kept(sizes: list[int], walk: list[tuple[str, int, int]]) -> None:
    room = RequestRoom(12_000)
    inboxes = [inbox_in(room)[0] for _ in range(4)]
    streams = [b"".join(map(frame, sizes)) * 20 for _ in inboxes]
    held = [0] * 4
    may_read = [True] * 4
    for verb, number, size in walk:
        inbox = inboxes[number]
        if verb == "octets" and may_read[number]:
            inbox.receive(streams[number][:size])
            streams[number] = streams[number][size:]
        elif verb == "take" and inbox:
            inbox.take()
        elif verb == "hold":
            held[number] = size if not held[number] else 0
        elif verb == "clear":
            inbox.clear()
            inboxes[number] = inbox_in(room)[0]
            streams[number] = b"".join(map(frame, sizes)) * 20
            held[number] = 0
        for at, one in enumerate(inboxes):
            may_read[at] = one.settle(held[at], stranger=False)
        kept = [one._size + one._announced + held[at] for at, one in enumerate(inboxes)]
        assert room.taken == sum(kept)
        assert any(may_read) or room.taken >= room.size_max


# ---- on the wire ----


def alarm(kafka, on):
    alarms = kafka.node.alarms
    alarms.disk_free = lambda: -1 if on else 1 << 62
    alarms.check(disk_full=False)


async def blocked_producers(kafka, count) -> list[KafkaClient]:
    """Each has sent a batch, one after the other."""
    clients = [await kafka.dial() for _ in range(count)]
    for number, client in enumerate(clients):
        await client.send(api.PRODUCE, produce_body("t", BATCH))
        expected = min(number + 1, 2) * len(BATCH)
        await until(lambda expected=expected: kafka.server.request_room.taken >= expected)
    return clients


async def test_while_an_alarm_is_on_so_many_batches_are_read_and_no_more(tmp_path):
    async with kafka_here(tmp_path, requests_size_max=SIZE_MAX) as kafka:
        wire = await kafka.dial()
        await wire.create("t")
        alarm(kafka, True)
        producers = await blocked_producers(kafka, 5)
        room = kafka.server.request_room
        assert len(kafka.server._blocked) == 2  # the second came when the first had not taken half
        assert room.taken < SIZE_MAX
        # Others may still have large requests.
        groups = {"groups": [f"{number:060}" for number in range(200)]}
        assert len((await wire.call(api.DESCRIBE_GROUPS, groups))["groups"]) == 200
        alarm(kafka, False)
        for producer in producers:
            (answer,) = (await producer.answer())["responses"][0]["partition_responses"]
            assert answer["error_code"] == ErrorCode.NONE
        assert kafka.node.topics.find("/", "t").partitions[0].next_offset == 5
        assert room.taken == 0


async def test_who_goes_leaves_its_room_to_others(tmp_path):
    async with kafka_here(tmp_path, requests_size_max=SIZE_MAX) as kafka:
        await (await kafka.dial()).create("t")
        alarm(kafka, True)
        first, second, third = await blocked_producers(kafka, 3)
        room = kafka.server.request_room
        first.drop()
        await until(lambda: len(kafka.server._blocked) == 2)  # the second, and now the third
        assert 2 * len(BATCH) < room.taken < 2 * len(BATCH) + 1000
        for client in (second, third):
            client.drop()
        await until(lambda: room.taken == 0)
        alarm(kafka, False)
        assert kafka.node.topics.find("/", "t").partitions[0].next_offset == 0


async def test_clients_without_a_login_have_a_quarter(tmp_path):
    async with kafka_here(tmp_path, requests_size_max=SIZE_MAX, anonymous_user="") as kafka:
        kafka.add_user("alice")
        begun = frame(30_000, api.SASL_AUTHENTICATE.key)[:100]
        first, second = await kafka.dial(), await kafka.dial()
        await first.write(begun)
        room = kafka.server.request_room
        await until(lambda: room.taken == 30_000)
        await second.write(begun)
        inboxes = [connection._inbox for connection in kafka.server._connections]
        await until(lambda: any(inbox.waits for inbox in inboxes))
        alice = await kafka.log_in("alice")
        await alice.create("t")
        assert (await alice.produce("t", BATCH))["error_code"] == ErrorCode.NONE
        assert room.taken == 30_000
        first.drop()
        await until(lambda: not any(inbox.waits for inbox in inboxes))
        assert room.taken == 30_000


# ---- a disk that does not keep up ----


def busy_disk(kafka):
    """Nothing is written any more until what this returns is called."""
    flusher = kafka.node.flusher
    assert flusher.idle
    flusher._running = Commit(size=UNWRITTEN_MAX + 1)

    def release():
        flusher._running = None
        kafka.node.end_pass()

    return release


async def test_a_batch_waits_while_the_disk_does_not_keep_up(wire, kafka):
    await wire.create("t")
    release = busy_disk(kafka)
    for value in (b"a", b"b"):
        await wire.send(api.PRODUCE, produce_body("t", batch([value])))
    await until(lambda: kafka.server.request_room.taken > 0)
    other = await kafka.dial()
    await other.call(api.METADATA, {"topics": None})  # who does not produce is served
    partition = kafka.node.topics.find("/", "t").partitions[0]
    assert partition.next_offset == 0
    release()
    for offset in range(2):
        (answer,) = (await wire.answer())["responses"][0]["partition_responses"]
        assert (answer["error_code"], answer["base_offset"]) == (ErrorCode.NONE, offset)
    assert kafka.server.request_room.taken == 0


async def test_who_goes_while_its_batch_waits_for_the_disk_has_not_sent_it(wire, kafka):
    await wire.create("t")
    release = busy_disk(kafka)
    producer = await kafka.dial()
    await producer.send(api.PRODUCE, produce_body("t", batch([b"never"])))
    room = kafka.server.request_room
    await until(lambda: room.taken > 0)
    producer.drop()
    await until(lambda: room.taken == 0)
    release()
    assert (await wire.produce("t", [b"first"]))["base_offset"] == 0
