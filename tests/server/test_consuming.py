"""Messages on their way out: who gets them, in which order, and what becomes of them."""

from __future__ import annotations

import pytest
import trio

from amqp_client import Channel, Refused
from broker.amqp import methods
from broker.amqp.frames import FrameReader
from patience import WAIT_S


async def filled(channel: Channel, queue: str, count: int, **options: object) -> None:
    """Declare it and publish so many messages: 1, 2, 3 ..."""
    await channel.declare(queue, **options)
    await channel.client.write(
        b"".join(channel.publishing(b"%d" % number, to=queue) for number in range(1, count + 1))
    )
    await channel.settle()


async def cancel(channel: Channel, tag: str) -> None:
    await channel.call(methods.BasicCancel(tag), methods.BasicCancelOk)


def bodies(messages: list) -> list[int]:
    return [int(message.body) for message in messages]


# ---- order ----


async def test_messages_come_in_order_with_rising_tags(channel):
    await filled(channel, "q", 1000)
    await channel.consume("q", consumer_tag="c")
    messages = await channel.messages(1000)
    assert bodies(messages) == list(range(1, 1001))
    assert [message.tag for message in messages] == list(range(1, 1001))
    assert messages[0].method == methods.BasicDeliver("c", 1, False, "", "q")


async def test_tags_count_over_all_consumers_and_gets_of_a_channel(channel):
    await filled(channel, "a", 2)
    await filled(channel, "b", 2)
    await channel.consume("a")
    await channel.messages(2)
    assert (await channel.get("b")).tag == 3
    assert (await channel.get("b", no_ack=True)).tag == 4


async def test_equal_consumers_take_turns(client, channel):
    await channel.declare("q")
    channels = [await client.channel(number) for number in (2, 3, 4)]
    for one in channels:
        await one.consume("q", no_ack=True)
    await filled(channel, "q", 30)
    for one in channels:
        assert len(await one.messages(10)) == 10
        assert await one.came() == []


async def test_those_who_come_one_by_one_take_turns_too(client, channel):
    await channel.declare("q")
    channels = [await client.channel(number) for number in (2, 3)]
    for one in channels:
        await one.consume("q", no_ack=True)
    for number in range(6):
        await channel.publish(b"%d" % number, to="q")
        await channel.settle()
    first, second = [bodies(await one.messages(3)) for one in channels]
    assert {tuple(first), tuple(second)} == {(0, 2, 4), (1, 3, 5)}


async def test_the_higher_priority_comes_first_while_it_has_room(client, channel):
    await channel.declare("q")
    low, high = await client.channel(2), await client.channel(3)
    await low.consume("q", arguments={"x-priority": -1})
    await high.qos(3)
    await high.consume("q", arguments={"x-priority": 10})
    await filled(channel, "q", 5)
    assert bodies(await high.messages(3)) == [1, 2, 3]
    assert bodies(await low.messages(2)) == [4, 5]
    await high.ack(2, multiple=True)
    await high.settle()
    await filled(channel, "q", 3)
    assert bodies(await high.messages(2)) == [1, 2]
    assert bodies(await low.messages(1)) == [3]


async def test_an_exclusive_consumer_is_alone(client, channel):
    await channel.declare("q")
    tag = await channel.consume("q", exclusive=True)
    other = await client.channel(2)
    with pytest.raises(Refused, match="403 ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use"):
        await other.consume("q")
    await other.send(methods.ChannelCloseOk())
    await cancel(channel, tag)
    other = await client.channel(2)
    await other.consume("q")


async def test_the_same_tag_on_two_channels(client, channel):
    await filled(channel, "q", 2)
    other = await client.channel(2)
    await channel.consume("q", consumer_tag="c", no_ack=True)
    await channel.messages(2)
    await other.consume("q", consumer_tag="c", no_ack=True)
    await filled(channel, "q", 2)
    assert len(await other.messages(1)) == 1


# ---- prefetch ----


async def test_a_consumer_gets_as_many_as_its_prefetch(channel):
    await filled(channel, "q", 10)
    await channel.qos(3)
    await channel.consume("q")
    assert bodies(await channel.came()) == [1, 2, 3]
    await channel.ack(1)
    assert bodies(await channel.came()) == [4]
    await channel.ack(4, multiple=True)
    assert bodies(await channel.came()) == [5, 6, 7]
    await channel.reject(5, requeue=False)
    await channel.nack(7, multiple=True, requeue=False)
    assert bodies(await channel.came()) == [8, 9, 10]


async def test_prefetch_is_for_each_consumer_that_comes_later(channel):
    for name in ("a", "b", "c"):
        await filled(channel, name, 10)
    await channel.consume("a", consumer_tag="a")
    await channel.qos(2)
    await channel.consume("b", consumer_tag="b")
    await channel.qos(3)
    await channel.consume("c", consumer_tag="c")
    tags = [message.method.consumer_tag for message in await channel.came()]
    assert {tag: tags.count(tag) for tag in "abc"} == {"a": 10, "b": 2, "c": 3}


async def test_a_shared_prefetch_is_for_all_consumers_of_the_channel(channel):
    for name in ("a", "b"):
        await filled(channel, name, 10)
    await channel.qos(4, shared=True)
    await channel.consume("a")
    await channel.consume("b")
    first = await channel.came()
    assert len(first) == 4
    await channel.ack(2, multiple=True)
    assert len(await channel.came()) == 2
    await channel.ack(0, multiple=True)
    assert len(await channel.came()) == 4


async def test_a_shared_prefetch_holds_for_consumers_of_one_queue(channel):
    await channel.declare("q")
    await channel.qos(3, shared=True)
    for _ in range(4):
        await channel.consume("q")
    await filled(channel, "q", 10)
    assert bodies(await channel.came()) == [1, 2, 3]
    await channel.ack(1)
    assert bodies(await channel.came()) == [4]


async def test_both_kinds_of_prefetch_hold_together(channel):
    for name in ("a", "b"):
        await filled(channel, name, 10)
    await channel.qos(3)
    await channel.qos(5, shared=True)
    await channel.consume("a", consumer_tag="a")
    await channel.consume("b", consumer_tag="b")
    tags = [message.method.consumer_tag for message in await channel.came()]
    assert (tags.count("a"), tags.count("b")) == (3, 2)


async def test_a_shared_prefetch_can_be_widened_and_lifted(channel):
    await filled(channel, "q", 20)
    await channel.qos(2, shared=True)
    await channel.consume("q")
    assert len(await channel.came()) == 2
    await channel.qos(5, shared=True)
    assert len(await channel.came()) == 3
    await channel.qos(1, shared=True)
    await channel.ack(4, multiple=True)
    assert await channel.came() == []
    await channel.qos(0, shared=True)
    assert len(await channel.came()) == 15


async def test_a_shared_prefetch_makes_room_on_other_queues(channel):
    """What is given back goes elsewhere: the window is free for the other consumer of the channel."""
    await filled(channel, "a", 1)
    await filled(channel, "b", 1)
    await channel.qos(1, shared=True)
    tag = await channel.consume("a")
    await channel.message()
    await channel.consume("b", consumer_tag="b")
    await cancel(channel, tag)
    await channel.call(methods.BasicRecover(True), methods.BasicRecoverOk)
    assert (await channel.message()).method.consumer_tag == "b"


async def test_gets_and_consumers_without_acks_count_against_no_prefetch(channel):
    await filled(channel, "q", 10)
    await channel.qos(1)
    await channel.qos(1, shared=True)
    await channel.get("q")
    await channel.get("q")
    tag = await channel.consume("q")
    (third,) = await channel.came()
    assert third.body == b"3"
    await cancel(channel, tag)
    await channel.ack(third.tag)
    await channel.consume("q", no_ack=True)
    assert bodies(await channel.came()) == [4, 5, 6, 7, 8, 9, 10]


# ---- acknowledging ----


async def test_ack_of_one_some_and_all(channel, broker):
    await filled(channel, "q", 10)
    await channel.consume("q")
    await channel.messages(10)
    queue = broker.node.topology.vhost("/").queue("q")
    for tag, multiple, left in ((3, False, 9), (5, True, 5), (10, False, 4), (0, True, 0), (0, True, 0)):
        await channel.ack(tag, multiple=multiple)
        await channel.settle()
        assert queue.unacked_count == left


async def test_acks_in_any_order(channel, broker):
    await filled(channel, "q", 100)
    await channel.consume("q")
    await channel.messages(100)
    for tag in [*range(2, 101, 2), *range(99, 0, -2)]:
        await channel.ack(tag)
    await channel.settle()
    assert broker.node.topology.vhost("/").queue("q").unacked_count == 0


async def test_tags_belong_to_their_channel(client, channel):
    await filled(channel, "q", 1)
    await channel.consume("q")
    message = await channel.message()
    other = await client.channel(2)
    await other.ack(message.tag)
    assert (await other.refused()).reply_text == "PRECONDITION_FAILED - unknown delivery tag 1"
    await channel.ack(message.tag)
    assert await channel.came() == []


async def test_acks_before_an_unknown_tag_count(client, channel):
    await filled(channel, "q", 3)
    await channel.consume("q")
    await channel.messages(3)
    await client.write(b"".join(methods.encode(1, methods.BasicAck(tag, False)) for tag in (1, 2, 7)))
    assert (await channel.refused()).reply_text == "PRECONDITION_FAILED - unknown delivery tag 7"
    channel = await client.channel(1)
    message = await channel.get("q")
    assert (message.body, message.redelivered) == (b"3", True)
    assert await channel.get("q") is None


# ---- giving back ----


async def test_what_is_given_back_comes_first_and_is_marked(channel):
    await filled(channel, "q", 3)
    first = await channel.get("q")
    await channel.reject(first.tag)
    messages = [await channel.get("q") for _ in range(3)]
    assert bodies(messages) == [1, 2, 3]
    assert [message.redelivered for message in messages] == [True, False, False]


@pytest.mark.parametrize("how", ["nack", "reject", "recover", "recover-async", "close"])
async def test_everything_goes_back_to_its_place(client, channel, how):
    await filled(channel, "q", 6)
    taker = await client.channel(2)
    await taker.qos(4)
    await taker.consume("q", consumer_tag="c")
    await taker.messages(4)
    await cancel(taker, "c")
    await taker.ack(2)
    if how == "nack":
        await taker.nack(0, multiple=True)
    elif how == "reject":
        for tag in (4, 1, 3):
            await taker.reject(tag)
    elif how == "recover":
        await taker.call(methods.BasicRecover(True), methods.BasicRecoverOk)
    elif how == "recover-async":
        await taker.send(methods.BasicRecoverAsync(True))
    else:
        await taker.close()
    if how != "close":
        await taker.settle()
    messages = [await channel.get("q") for _ in range(5)]
    assert bodies(messages) == [1, 3, 4, 5, 6]
    assert [message.redelivered for message in messages] == [True, True, True, False, False]


async def test_what_several_consumers_give_back_is_in_order_again(client, channel):
    await channel.declare("q")
    takers = [await client.channel(number) for number in (2, 3)]
    for taker in takers:
        await taker.consume("q", consumer_tag="c")
    await filled(channel, "q", 10)
    for taker in takers:
        await taker.messages(5)
        await cancel(taker, "c")
    for taker in takers:
        await taker.close()
    assert bodies([await channel.get("q") for _ in range(10)]) == list(range(1, 11))


async def test_a_consumer_gets_again_what_it_gave_back(channel):
    await filled(channel, "q", 3)
    await channel.qos(1)
    await channel.consume("q")
    for tag in range(1, 6):
        message = await channel.message()
        assert (message.tag, message.body, message.redelivered) == (tag, b"1", tag > 1)
        await channel.nack(tag)
    message = await channel.message()
    await channel.ack(message.tag)
    assert (await channel.message()).body == b"2"


async def test_nack_without_requeue_drops(channel):
    await filled(channel, "q", 3)
    await channel.consume("q")
    await channel.messages(3)
    await channel.nack(2, multiple=True, requeue=False)
    await channel.reject(3, requeue=False)
    await channel.settle()
    assert await channel.depth("q") == 0


async def test_recover_is_answered_after_what_it_did(channel):
    await filled(channel, "q", 2)
    await channel.consume("q")
    await channel.messages(2)
    await channel.call(methods.BasicRecover(True), methods.BasicRecoverOk)
    messages = await channel.messages(2)
    assert [(message.tag, message.redelivered) for message in messages] == [(3, True), (4, True)]
    await channel.ack(1)
    assert (await channel.refused()).reply_text == "PRECONDITION_FAILED - unknown delivery tag 1"


# ---- cancelling ----


async def test_after_cancel_ok_nothing_more_comes(channel):
    await filled(channel, "q", 5)
    await channel.qos(2)
    tag = await channel.consume("q")
    await channel.messages(2)
    await cancel(channel, tag)
    await channel.ack(2, multiple=True)  # what was delivered can still be acknowledged
    assert await channel.came() == []
    assert await channel.depth("q") == 3
    await channel.consume("q", consumer_tag=tag)  # and the tag is free
    assert bodies(await channel.messages(2)) == [3, 4]


async def test_a_consumer_is_told_that_its_queue_is_gone(client, channel):
    await channel.declare("q")
    other = await client.channel(2)
    await other.consume("q", consumer_tag="c")
    await channel.call(methods.QueueDelete(queue="q"), methods.QueueDeleteOk)
    assert await other.next() == methods.BasicCancel("c", True)
    await other.send(methods.BasicCancelOk("c"))
    await channel.declare("q")
    await other.consume("q", consumer_tag="c")


@pytest.mark.parametrize(
    "options",
    [{}, {"durable": True}, {"durable": True, "arguments": {"x-queue-type": "stream"}}],
    ids=["transient", "durable", "stream"],
)
async def test_consumers_on_the_same_connection_are_told_behind_delete_ok(client, channel, options):
    await channel.declare("q", **options)
    other = await client.channel(2)
    for one in (channel, other):
        await one.qos(1)
        await one.consume("q")
    await channel.send(methods.QueueDelete(queue="q"))
    received: list[str] = []
    reader = FrameReader(1 << 20)
    with trio.fail_after(WAIT_S):
        while len(received) < 3:
            events = reader.read(await client.stream.receive_some(4096))
            received += [event.method.name for event in events]
    assert received == ["queue.delete-ok", "basic.cancel", "basic.cancel"]


async def test_a_consumer_is_told_though_delete_is_not_answered(channel):
    await channel.declare("q", durable=True)
    await channel.consume("q", consumer_tag="c")
    await channel.send(methods.QueueDelete(queue="q", nowait=True))
    assert await channel.next() == methods.BasicCancel("c", True)


async def test_whoever_cannot_hear_it_is_not_told(broker, channel):
    other = await (await broker.connect(capabilities={})).channel(1)
    await channel.declare("q")
    await other.consume("q")
    await channel.call(methods.QueueDelete(queue="q"), methods.QueueDeleteOk)
    assert await other.came() == []


# ---- getting ----


async def test_get_tells_how_many_are_left(channel):
    await filled(channel, "q", 3)
    counts = [(await channel.get("q")).method.message_count for _ in range(3)]
    assert counts == [2, 1, 0]
    assert await channel.get("q") is None


async def test_get_without_acks(channel):
    await filled(channel, "q", 2)
    assert (await channel.get("q", no_ack=True)).body == b"1"
    await channel.call(methods.BasicRecover(True), methods.BasicRecoverOk)
    assert (await channel.get("q")).body == b"2"
    assert await channel.get("q") is None


# ---- a window for the whole channel ----


async def test_queues_of_a_channel_share_its_window_in_turn(channel):
    await filled(channel, "a", 20)
    await filled(channel, "b", 20)
    await channel.qos(2, shared=True)
    for queue in ("a", "b"):
        await channel.consume(queue, consumer_tag=queue)
    came = []
    for _ in range(20):
        message = await channel.message()
        came.append(message.method.consumer_tag)
        await channel.ack(message.tag)
    assert 8 <= came.count("a") <= 12


async def test_a_consumer_without_acks_waits_while_the_window_of_its_channel_is_full(channel):
    await filled(channel, "a", 1)
    await filled(channel, "b", 1)
    await channel.qos(1, shared=True)
    await channel.consume("a")
    (held,) = await channel.messages(1)
    await channel.consume("b", no_ack=True)
    assert await channel.came() == []
    await channel.ack(held.tag)
    assert (await channel.message()).body == b"1"


# ---- basic.get beside consumers ----


async def test_a_consumer_that_waits_gets_a_message_before_basic_get(client, channel):
    await channel.declare("q")
    other = await client.channel(2)
    await other.consume("q")
    publish = channel.publishing(b"1", to="q")
    await client.write(publish + methods.encode(1, methods.BasicGet(queue="q")))
    assert (await other.message()).body == b"1"
    assert isinstance((await channel.came())[0], methods.BasicGetEmpty)
