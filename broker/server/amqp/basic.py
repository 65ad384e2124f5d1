"""Messages on a channel: publish, return, acknowledge, get, recover, and the confirm mode.

Flow:   a run of publishes is checked and routed once for all its messages; acknowledgements come as
        ranges of tags and find their slices in the ledger.
Spec:   AMQP 0-9-1 section 1.8.3; RabbitMQ for confirms, basic.nack, CC and BCC, the user-id check and
        direct reply-to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from broker.amqp import content, methods, properties, wire
from broker.amqp.frames import AckRun, OversizedContent, PublishRun
from broker.amqp.spec import DIRECT_REPLY_TO, ReplyCode
from broker.model.channel import Unacked, unknown_delivery_tag
from broker.model.errors import AccessRefused, NotImplementedHere, PreconditionFailed
from broker.model.exchange import EXCHANGE, QUEUE
from broker.model.message import Slice
from broker.model.queue import Queue
from broker.model.resource import spoken
from broker.model.user import Right
from broker.node.node import Published
from broker.server.amqp.channel import Channel, handles
from broker.server.amqp.confirms import Confirms
from broker.server.amqp.topology import name_of, queue_of

_REPLY_PREFIX = DIRECT_REPLY_TO + "."

# What is decided of deliveries: `acknowledge`, `reject` or `give_back`.
Outcome: TypeAlias = Callable[[Channel, Sequence[Unacked]], None]

# ---- publishing ----


@handles(PublishRun)
def publish(channel: Channel, run: PublishRun) -> None:
    check_publish(channel, run)
    if channel.transaction is not None:
        channel.transaction.publish(run)
    else:
        publish_now(channel, run)


def check_publish(channel: Channel, run: PublishRun) -> None:
    """Everything that may speak against it. Raises what closes the channel or the connection."""
    connection = channel.connection
    connection.published()
    if run.immediate:
        raise NotImplementedHere("immediate=true")
    channel.check(Right.WRITE, EXCHANGE, run.exchange)
    if connection.vhost.exchange(run.exchange).internal:
        raise AccessRefused(f"cannot publish to internal {spoken('exchange', run.exchange, connection.vhost.name)}")
    facts = run.facts
    if facts.expiration_problem:
        raise PreconditionFailed(facts.expiration_problem)
    if facts.user_id is not None:
        _check_user_id(channel, facts.user_id)
    if facts.asks_direct_reply:
        _name_requester(channel, run)


def _check_user_id(channel: Channel, claimed: str) -> None:
    user = channel.connection.user
    assert user is not None
    if claimed != user.name and "impersonator" not in user.tags:
        raise PreconditionFailed(f"user_id property set to '{claimed}' but authenticated user was '{user.name}'")


def publish_now(channel: Channel, run: PublishRun) -> Published:
    """Route and push; what cannot be routed goes back or is dropped; the confirm is on its way."""
    count = len(run.contents)
    metrics = channel.connection.node.metrics
    metrics.messages_received += count
    channel.counts["published"] += count
    if not run.exchange and run.routing_key.startswith(_REPLY_PREFIX):
        published = _reply_directly(channel, run)
    else:
        published = channel.connection.node.publish(channel.connection.vhost, run)
    unroutable = len(published.unroutable)
    if unroutable:
        if run.mandatory:
            _return(channel, run, published.unroutable)
            metrics.messages_unroutable_returned += unroutable
        else:
            metrics.messages_unroutable_dropped += unroutable
    metrics.messages_routed += count - unroutable
    if channel.confirms is not None:
        metrics.messages_received_confirm += count
        channel.confirms.add(count, published.commit, published.refused)
    return published


@handles(OversizedContent)
def oversized(channel: Channel, event: OversizedContent) -> None:
    limit = channel.connection.server.options.message_size_max
    raise PreconditionFailed(f"message size {event.size} is larger than configured max size {limit}")


def _return(channel: Channel, run: PublishRun, unroutable: Iterable[int]) -> None:
    method = methods.BasicReturn(
        reply_code=ReplyCode.NO_ROUTE,
        reply_text="NO_ROUTE",
        exchange=run.exchange,
        routing_key=run.routing_key,
    )
    frame = methods.encode(channel.number, method)
    for index in unroutable:
        channel.connection.send(frame + run.contents[index])
        channel.counts["returned"] += 1


# ---- direct reply-to ----


def _name_requester(channel: Channel, run: PublishRun) -> None:
    """The request goes out with the address of this channel in its reply-to."""
    if not channel.reply_token:
        raise PreconditionFailed("fast reply consumer does not exist")
    address = wire.shortstr(_REPLY_PREFIX + channel.reply_token)
    for index, closed in enumerate(run.contents):
        values = properties.split(content.properties_of(closed))
        values["reply_to"] = address
        raw = properties.join(values)
        run.contents[index] = content.build(run.channel, raw, content.body_of(closed), run.frame_max)
    run.facts = properties.facts_of(raw)


def _reply_directly(channel: Channel, run: PublishRun) -> Published:
    """Past all queues to the requester, if it is still there."""
    requester = channel.connection.server.reply_channels.get(run.routing_key.removeprefix(_REPLY_PREFIX))
    if requester is None or requester.connection.vhost is not channel.connection.vhost:
        return Published(unroutable=range(len(run.contents)))
    connection = requester.connection
    if connection.overfull:
        return Published()  # nobody reads there: the reply is lost, as with RabbitMQ
    contents = content.fitted(run.contents, requester.number, connection.frame_max)
    for closed in contents:
        method = methods.BasicDeliver(
            consumer_tag=requester.reply_tag,
            delivery_tag=requester.next_tag,
            redelivered=False,
            exchange="",
            routing_key=run.routing_key,
        )
        requester.next_tag += 1
        connection.send(methods.encode(requester.number, method) + closed)
        requester.count_delivered(1, acks=False, redelivered=False)
    return Published()


# ---- acknowledging ----


@handles(AckRun)
def ack(channel: Channel, event: AckRun) -> None:
    if channel.transaction is not None:
        channel.transaction.settle(event.first, event.last, event.multiple, acknowledge)
        return
    settle(channel, event.first, event.last, event.multiple, acknowledge)


@handles(methods.BasicReject)
def basic_reject(channel: Channel, method: methods.BasicReject) -> None:
    tag = method.delivery_tag
    _settle_or_keep(channel, tag, multiple=False, requeue=method.requeue)


@handles(methods.BasicNack)
def basic_nack(channel: Channel, method: methods.BasicNack) -> None:
    _settle_or_keep(channel, method.delivery_tag, multiple=method.multiple, requeue=method.requeue)


def _settle_or_keep(channel: Channel, tag: int, *, multiple: bool, requeue: bool) -> None:
    outcome = give_back if requeue else reject
    if channel.transaction is not None:
        channel.transaction.settle(tag, tag, multiple, outcome)
    else:
        settle(channel, tag, tag, multiple, outcome)


def settle(channel: Channel, first: int, last: int, multiple: bool, outcome: Outcome) -> None:
    """Take deliveries out of the ledger and do with them what was decided.

    Raises PreconditionFailed for a tag that is not outstanding; those before it are settled.
    """
    unknown = 0
    if multiple:
        entries = channel.ledger.settle_up_to(last)
    else:
        entries, unknown = channel.ledger.settle_each(first, last)
    outcome(channel, entries)
    _make_room(channel, entries)
    if unknown:
        raise unknown_delivery_tag(unknown)


def acknowledge(channel: Channel, entries: Sequence[Unacked]) -> None:
    count = 0
    for entry in entries:
        entry.queue.acknowledge(entry.piece)
        count += len(entry.piece.offsets)
    channel.counts["acknowledged"] += count
    channel.connection.node.metrics.messages_acknowledged += count


def reject(channel: Channel, entries: Sequence[Unacked]) -> None:
    """They are dead letters, or gone."""
    for entry in entries:
        if not entry.queue.deleted:
            entry.queue.reject(entry.piece)
            channel.connection.node.mark(entry.queue)


def give_back(channel: Channel, entries: Sequence[Unacked]) -> None:
    """They are ready again where they were."""
    node = channel.connection.node
    by_queue: dict[Queue, list[Slice]] = {}
    for entry in entries:
        by_queue.setdefault(entry.queue, []).append(entry.piece)
    for queue, pieces in by_queue.items():
        if not queue.deleted:
            queue.requeue(pieces, node.clock.now_ms())
            node.mark(queue)


def _make_room(channel: Channel, entries: Sequence[Unacked]) -> None:
    """What is settled counts against no prefetch limit any more."""
    mark = channel.connection.node.mark
    for entry in entries:
        prefetch = entry.prefetch
        if prefetch is not None:
            count = len(entry.piece.offsets)
            prefetch.used -= count
            channel.prefetch.used -= count
            if entry.queue.ready_count:
                mark(entry.queue)
    if channel.prefetch.limit:
        for consumer in channel.consumers.values():
            mark(consumer.queue)


# ---- getting ----


@handles(methods.BasicGet)
def basic_get(channel: Channel, method: methods.BasicGet) -> None:
    connection = channel.connection
    name = name_of(channel, method.queue)
    channel.check(Right.READ, QUEUE, name)
    queue = queue_of(channel, name)
    metrics = connection.node.metrics
    piece = queue.get(connection.node.clock.now_ms(), acks=not method.no_ack)
    if piece is None:
        metrics.messages_get_empty += 1
        channel.send(methods.BasicGetEmpty())
        return
    tag = channel.next_tag
    channel.next_tag += 1
    found = methods.BasicGetOk(
        delivery_tag=tag,
        redelivered=piece.redelivered,
        exchange=piece.run.exchange,
        routing_key=piece.run.routing_key,
        message_count=queue.ready_count,
    )
    channel.send(found)
    connection.send(content.fitted(piece.contents, channel.number, connection.frame_max)[0])
    if method.no_ack:
        channel.counts["got_no_ack"] += 1
        metrics.messages_delivered_get_auto_ack += 1
    else:
        channel.ledger.add(Unacked(tag, piece, queue, None))
        channel.counts["got"] += 1
        metrics.messages_delivered_get_manual_ack += 1
    if piece.redelivered:
        channel.counts["redelivered"] += 1
        metrics.messages_redelivered += 1
    connection.node.mark(queue)


# ---- recovering ----


@handles(methods.BasicRecover)
def basic_recover(channel: Channel, method: methods.BasicRecover) -> None:
    _recover(channel, method.requeue)
    channel.send(methods.BasicRecoverOk())


@handles(methods.BasicRecoverAsync)
def basic_recover_async(channel: Channel, method: methods.BasicRecoverAsync) -> None:
    _recover(channel, method.requeue)


def _recover(channel: Channel, requeue: bool) -> None:
    if not requeue:
        raise NotImplementedHere("requeue=false")
    channel.requeue_all()


# ---- confirm mode ----


@handles(methods.ConfirmSelect)
def confirm_select(channel: Channel, method: methods.ConfirmSelect) -> None:
    if channel.transaction is not None:
        raise PreconditionFailed("cannot switch from tx to confirm mode")
    if channel.confirms is None:
        connection = channel.connection
        channel.confirms = Confirms(
            channel.number,
            connection.send,
            lambda: connection.server.confirm_soon(channel),
            connection.node.metrics,
        )
    if not method.nowait:
        channel.send(methods.ConfirmSelectOk())
