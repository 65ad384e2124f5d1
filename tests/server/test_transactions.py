"""tx: what happens together, and what does not happen at all."""

from __future__ import annotations

import pytest

from amqp_client import Channel, Message, Refused
from broker.amqp import methods
from broker_here import broker_here

REPLY_TO = "amq.rabbitmq.reply-to"


async def select(channel: Channel) -> None:
    await channel.call(methods.TxSelect(), methods.TxSelectOk)


async def commit(channel: Channel) -> None:
    await channel.call(methods.TxCommit(), methods.TxCommitOk)


async def roll_back(channel: Channel) -> None:
    await channel.call(methods.TxRollback(), methods.TxRollbackOk)


@pytest.fixture
async def other(client, channel):  # one after the other on the same socket
    """A channel that is not in a transaction, to look from outside."""
    return await client.channel(2)


async def filled(channel: Channel, count: int) -> None:
    await channel.declare("q", durable=True)
    for number in range(1, count + 1):
        await channel.publish(b"%d" % number, to="q", delivery_mode=2)
    await channel.settle()


async def test_nothing_is_published_before_the_commit(channel, other):
    await channel.declare("q", durable=True)
    await select(channel)
    await channel.publish(b"1", to="q", delivery_mode=2)
    await channel.publish(b"2", to="q")
    await channel.settle()
    assert await other.depth("q") == 0
    await commit(channel)
    assert [(await other.get("q")).body for _ in range(2)] == [b"1", b"2"]


async def test_a_rollback_forgets_the_messages(channel, other):
    await channel.declare("q")
    await select(channel)
    await channel.publish(b"1", to="q")
    await roll_back(channel)
    await channel.publish(b"2", to="q")
    await commit(channel)
    assert (await other.get("q")).body == b"2"
    assert await other.get("q") is None


async def test_nothing_is_acknowledged_before_the_commit(channel, other, broker):
    await filled(channel, 4)
    queue = broker.node.topology.vhost("/").queue("q")
    await select(channel)
    await channel.consume("q")
    await channel.messages(4)
    await channel.ack(2, multiple=True)
    await channel.reject(3, requeue=False)
    await channel.nack(4)
    await channel.settle()
    assert (queue.unacked_count, queue.ready_count) == (4, 0)
    await commit(channel)
    message = await channel.message()
    assert (message.body, message.redelivered) == (b"4", True)
    assert queue.unacked_count == 1


async def test_a_rollback_makes_them_outstanding_again(channel, broker):
    await filled(channel, 5)
    await select(channel)
    tag = await channel.consume("q")
    await channel.messages(5)
    await channel.call(methods.BasicCancel(tag), methods.BasicCancelOk)
    await channel.ack(4)
    await channel.ack(2, multiple=True)
    await channel.nack(5, requeue=False)
    await roll_back(channel)
    await channel.ack(1)
    await channel.ack(5, multiple=True)
    await commit(channel)
    queue = broker.node.topology.vhost("/").queue("q")
    assert (queue.unacked_count, queue.ready_count) == (0, 0)


async def test_a_tag_cannot_be_settled_twice_in_a_transaction(channel):
    await filled(channel, 2)
    await select(channel)
    await channel.consume("q")
    await channel.messages(2)
    await channel.ack(1)
    await channel.ack(1)
    assert (await channel.refused()).reply_text == "PRECONDITION_FAILED - unknown delivery tag 1"


async def test_closing_the_channel_rolls_back(channel, other):
    await filled(channel, 2)
    await select(channel)
    await channel.publish(b"never", to="q")
    first = await channel.get("q")
    await channel.ack(first.tag)
    await channel.close()
    messages = [await other.get("q") for _ in range(2)]
    assert [(message.body, message.redelivered) for message in messages] == [(b"1", True), (b"2", False)]
    assert await other.get("q") is None


async def test_recover_leaves_what_the_transaction_has(channel, broker):
    await filled(channel, 3)
    await select(channel)
    tag = await channel.consume("q")
    await channel.messages(3)
    await channel.call(methods.BasicCancel(tag), methods.BasicCancelOk)
    await channel.ack(2)
    await channel.call(methods.BasicRecover(True), methods.BasicRecoverOk)
    queue = broker.node.topology.vhost("/").queue("q")
    assert (queue.unacked_count, queue.ready_count) == (1, 2)
    await commit(channel)
    assert (queue.unacked_count, queue.ready_count) == (0, 2)


async def test_prefetch_counts_what_is_not_committed(channel):
    await filled(channel, 4)
    await select(channel)
    await channel.qos(2)
    await channel.consume("q")
    await channel.messages(2)
    await channel.ack(2, multiple=True)
    assert await channel.came() == []
    await commit(channel)
    assert [message.body for message in await channel.messages(2)] == [b"3", b"4"]


async def test_what_cannot_be_routed_comes_back_with_the_commit(channel):
    await select(channel)
    await channel.publish(b"1", to="nope", mandatory=True)
    assert await channel.came() == []
    await channel.send(methods.TxCommit())
    message, ok = await channel.next(), await channel.next()
    assert isinstance(message, Message)
    assert (message.method.reply_code, message.body) == (312, b"1")
    assert isinstance(ok, methods.TxCommitOk)


async def test_a_bad_message_is_refused_when_it_is_published(channel, client):
    await channel.declare("q")
    await select(channel)
    await channel.publish(b"1", to="q")
    await channel.publish(b"2", to="q", headers={"CC": 1})
    assert (await channel.refused()).reply_code == 406
    assert await (await client.channel(1)).depth("q") == 0


async def test_an_exchange_that_goes_before_the_commit_leaves_everything_undone(channel, other):
    await filled(channel, 1)
    await channel.exchange("x", "fanout")
    await select(channel)
    message = await channel.get("q")
    await channel.ack(message.tag)
    await channel.publish(b"2", to="q")
    await channel.publish(b"3", exchange="x")
    await channel.settle()
    await other.call(methods.ExchangeDelete(exchange="x"), methods.ExchangeDeleteOk)
    await channel.send(methods.TxCommit())
    closed = await channel.refused()
    assert (closed.reply_code, closed.reply_text) == (404, "NOT_FOUND - no exchange 'x' in vhost '/'")
    message = await other.get("q")
    assert (message.body, message.redelivered) == (b"1", True)
    assert await other.get("q") is None


async def test_an_empty_commit_and_select_twice(channel):
    await select(channel)
    await select(channel)
    await commit(channel)
    await roll_back(channel)
    await commit(channel)


async def test_commits_may_be_pipelined(channel, other):
    await channel.declare("q", durable=True)
    await select(channel)
    tx = methods.encode(1, methods.TxCommit())
    await channel.client.write(
        b"".join(channel.publishing(b"%d" % number, to="q", delivery_mode=2) + tx for number in range(5))
    )
    for _ in range(5):
        await channel.expect(methods.TxCommitOk)
    assert [(await other.get("q")).body for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_transaction_has_a_limit(tmp_path):
    async with broker_here(tmp_path, transaction_size_max=1000) as broker:
        channel = await (await broker.connect()).channel(1)
        await channel.declare("q")
        await select(channel)
        for _ in range(3):
            await channel.publish(bytes(400), to="q")
        assert (await channel.refused()).reply_text == (
            "PRECONDITION_FAILED - the transaction is larger than the maximum of 1000 octets"
        )


async def test_a_direct_reply_waits_for_the_commit(channel, other):
    await other.consume(REPLY_TO, no_ack=True)
    await channel.declare("q")
    await other.publish(b"", to="q", reply_to=REPLY_TO)
    await other.settle()
    address = (await channel.get("q", no_ack=True)).properties.reply_to
    await select(channel)
    await channel.publish(b"reply", to=address)
    await channel.settle()
    assert await other.came() == []
    await commit(channel)
    assert (await other.message()).body == b"reply"


async def test_a_commit_is_on_the_disk_when_it_is_answered(tmp_path):
    async with broker_here(tmp_path) as broker:
        channel = await (await broker.connect()).channel(1)
        await filled(channel, 2)
        await channel.declare("p", durable=True)
        await select(channel)
        message = await channel.get("q")
        await channel.ack(message.tag)
        await channel.publish(b"done", to="p", delivery_mode=2)
        before = broker.node.flusher.commits
        await commit(channel)
        assert broker.node.flusher.commits > before
    async with broker_here(tmp_path) as broker:
        channel = await (await broker.connect()).channel(1)
        assert (await channel.get("p")).body == b"done"
        assert (await channel.get("q")).body == b"2"
        assert await channel.get("q") is None


async def test_modes_do_not_mix(client, channel):
    await select(channel)
    with pytest.raises(Refused, match="406 PRECONDITION_FAILED - cannot switch from tx to confirm mode"):
        await channel.confirm_mode()
