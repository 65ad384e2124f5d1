"""Messages on a channel: publish, return, acknowledge, get, recover, and the confirm mode.

Flow:   a run of publishes is checked and routed once for all its messages; acknowledgements come as
        ranges of tags and find their slices in the ledger.
Spec:   AMQP 0-9-1 section 1.8.3; RabbitMQ for confirms, basic.nack, CC and BCC, the user-id check and
        direct reply-to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from broker.amqp import content, methods, properties, wire
from broker.amqp.envelope import Envelope, PublishRun
from broker.amqp.errors import ProtocolError
from broker.amqp.frames import AckRun, OversizedContent, Publishes
from broker.amqp.spec import DIRECT_REPLY_TO, ReplyCode
from broker.model.channel import Unacked, unknown_delivery_tag
from broker.model.consumers import Source
from broker.model.errors import (
    AccessRefused,
    ModelError,
    NotImplementedHere,
    PreconditionFailed,
)
from broker.model.exchange import EXCHANGE, QUEUE
from broker.model.message import Slice
from broker.model.resource import spoken
from broker.model.user import Right
from broker.node.published import Published
from broker.server.amqp import stream
from broker.server.amqp.channel import Channel, handles
from broker.server.amqp.confirms import Confirms
from broker.server.amqp.topology import name_of, queue_of

_REPLY_PREFIX = DIRECT_REPLY_TO + "."

# What is decided of deliveries: `acknowledge`, `reject` or `give_back`.
Outcome: TypeAlias = Callable[[Channel, Sequence[Unacked]], None]

# ---- publishing ----


@handles(Publishes)
def publish(channel: Channel, event: Publishes) -> None:
    runs = event.runs
    plain = True
    granted = channel.granted()
    for number, run in enumerate(runs):
        envelope = run.envelope
        if envelope.kind not in granted:
            try:
                if _check_run(channel, run):
                    granted.add(envelope.kind)
            except (ModelError, ProtocolError):
                _carry_out(channel, runs[:number], plain)  # what came before was right
                raise
        if not run.envelope.plain:
            plain = False
    _carry_out(channel, runs, plain)


def _check_run(channel: Channel, run: PublishRun) -> bool:
    """Whether others of this kind need not be checked. Raises as `check_publish`."""
    envelope = run.envelope
    check_publish(channel, envelope)
    if envelope.facts.has_copies:
        channel.connection.node.check(channel.connection.vhost, [run])
    if envelope.facts.asks_direct_reply:
        _name_requester(channel, run)
    return not (envelope.facts.has_copies or envelope.facts.asks_direct_reply)


def _carry_out(channel: Channel, runs: list[PublishRun], plain: bool) -> None:
    if channel.transaction is not None:
        channel.transaction.publish(runs)
    else:
        publish_now(channel, runs, plain)


def check_publish(channel: Channel, envelope: Envelope) -> None:
    """Everything that may speak against it. Raises what closes the channel or the connection."""
    connection = channel.connection
    if envelope.immediate:
        raise NotImplementedHere("immediate=true")
    channel.check(Right.WRITE, EXCHANGE, envelope.exchange)
    if connection.vhost.exchange(envelope.exchange).internal:
        name = spoken("exchange", envelope.exchange, connection.vhost.name)
        raise AccessRefused(f"cannot publish to internal {name}")
    facts = envelope.facts
    if facts.expiration_problem:
        raise PreconditionFailed(facts.expiration_problem)
    if facts.user_id is not None:
        _check_user_id(channel, facts.user_id)


def _check_user_id(channel: Channel, claimed: str) -> None:
    user = channel.connection.user
    assert user is not None
    if claimed != user.name and "impersonator" not in user.tags:
        raise PreconditionFailed(
            f"user_id property set to '{claimed}' but authenticated user was '{user.name}'"
        )


def publish_now(channel: Channel, runs: list[PublishRun], plain: bool) -> None:
    """Route and push; what cannot be routed goes back or is dropped; the confirms are on their way.

    `plain` says that none of it is a direct reply.
    """
    connection = channel.connection
    node = connection.node
    if node.alarms.active:
        connection.block()
    count = len(runs[0].contents) if len(runs) == 1 else sum([len(run.contents) for run in runs])
    published = node.publish(connection.vhost, runs) if plain else _publish_with_replies(channel, runs)
    channel.published += count
    metrics = node.metrics
    metrics.messages_received += count
    if published.unroutable:
        _return_or_drop(channel, runs, published.unroutable)
        metrics.messages_routed -= len(published.unroutable)
    metrics.messages_routed += count
    if channel.confirms is not None:
        metrics.messages_received_confirm += count
        channel.confirms.add(count, published.commit, published.refused)
    if node.flusher.crowded:
        connection.slow_down(node.flusher.open)


def _return_or_drop(channel: Channel, runs: list[PublishRun], unroutable: Sequence[int]) -> None:
    metrics = channel.connection.node.metrics
    wanted = set(unroutable)
    index = 0
    for run in runs:
        lost = [content for at, content in enumerate(run.contents, index) if at in wanted]
        index += len(run.contents)
        if run.envelope.mandatory:
            _return(channel, run.envelope, lost)
            metrics.messages_unroutable_returned += len(lost)
        else:
            metrics.messages_unroutable_dropped += len(lost)


def _return(channel: Channel, envelope: Envelope, contents: list[bytes]) -> None:
    method = methods.BasicReturn(
        reply_code=ReplyCode.NO_ROUTE,
        reply_text="NO_ROUTE",
        exchange=envelope.exchange,
        routing_key=envelope.routing_key,
    )
    frame = methods.encode(channel.number, method)
    for closed in contents:
        channel.connection.send(frame + closed)
    channel.returned += len(contents)


@handles(OversizedContent)
def oversized(channel: Channel, event: OversizedContent) -> None:
    limit = channel.connection.server.options.message_size_max
    raise PreconditionFailed(f"message size {event.size} is larger than configured max size {limit}")


# ---- direct reply-to ----


def _name_requester(channel: Channel, run: PublishRun) -> None:
    """The request goes out with the address of this channel in its reply-to."""
    if not channel.reply_token:
        raise PreconditionFailed("fast reply consumer does not exist")
    address = wire.shortstr(_REPLY_PREFIX + channel.reply_token)
    envelope = run.envelope
    for index, closed in enumerate(run.contents):
        values = properties.split(content.properties_of(closed))
        values["reply_to"] = address
        raw = properties.join(values)
        run.contents[index] = content.build(
            envelope.channel, raw, content.body_of(closed), envelope.frame_max
        )
    run.envelope = envelope.with_facts(properties.facts_of(raw))


def _publish_with_replies(channel: Channel, runs: list[PublishRun]) -> Published:
    """Run by run, as some go past all queues."""
    node, vhost = channel.connection.node, channel.connection.vhost
    published = Published()
    unroutable: list[int] = []
    refused: list[int] = []
    index = 0
    for run in runs:
        envelope = run.envelope
        if not envelope.exchange and envelope.routing_key.startswith(_REPLY_PREFIX):
            if not _reply_directly(channel, run):
                unroutable += range(index, index + len(run.contents))
        else:
            one = node.publish(vhost, [run])
            published.commit = one.commit or published.commit
            unroutable += [index + at for at in one.unroutable]
            refused += [index + at for at in one.refused]
        index += len(run.contents)
    published.unroutable, published.refused = unroutable, refused
    return published


def _reply_directly(channel: Channel, run: PublishRun) -> bool:
    """To the requester, if it is still there; whether it is."""
    key = run.envelope.routing_key
    requester = channel.connection.server.reply_channels.get(key.removeprefix(_REPLY_PREFIX))
    if requester is None or requester.connection.vhost is not channel.connection.vhost:
        return False
    connection = requester.connection
    if connection.overfull:
        return True  # nobody reads there: the reply is lost, as with RabbitMQ
    for closed in content.fitted(run.contents, requester.number, connection.frame_max):
        method = methods.BasicDeliver(
            consumer_tag=requester.reply_tag,
            delivery_tag=requester.next_tag,
            redelivered=False,
            exchange="",
            routing_key=key,
        )
        requester.next_tag += 1
        connection.send(methods.encode(requester.number, method) + closed)
        requester.count_delivered(1, False, False)
    return True


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
    entries, unknown = find(channel, first, last, multiple)
    decide(channel, entries, outcome)
    if unknown is not None:
        raise unknown_delivery_tag(unknown)


def find(channel: Channel, first: int, last: int, multiple: bool) -> tuple[list[Unacked], int | None]:
    """Take deliveries out of the ledger: those there are, and the first tag that is unknown, if one is.

    Raises PreconditionFailed if `multiple` goes up to an unknown tag; then the ledger is as before.
    """
    if multiple:
        return channel.ledger.settle_up_to(last), None
    return channel.ledger.settle_each(first, last)


def decide(channel: Channel, entries: Sequence[Unacked], outcome: Outcome) -> None:
    outcome(channel, entries)
    _make_room(channel, entries)


def acknowledge(channel: Channel, entries: Sequence[Unacked]) -> None:
    count = 0
    for entry in entries:
        if not entry.queue.deleted:
            entry.queue.acknowledge(entry.piece)
        count += len(entry.piece.offsets)
    channel.acknowledged += count
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
    by_queue: dict[Source, list[Slice]] = {}
    for entry in entries:
        by_queue.setdefault(entry.queue, []).append(entry.piece)
    for queue, pieces in by_queue.items():
        if not queue.deleted:
            queue.requeue(pieces, node.clock.now_ms())
            node.mark(queue)


def _make_room(channel: Channel, entries: Sequence[Unacked]) -> None:
    """What is settled counts against no prefetch limit any more."""
    mark = channel.connection.node.mark
    window = channel.prefetch
    for entry in entries:
        entry.make_room(window)
        if not window.limit and entry.queue.ready_count:
            mark(entry.queue)
    if window.limit:  # of all queues of the channel, the one that waited longest has the room first
        channel.wake_consumers()


# ---- getting ----


@handles(methods.BasicGet)
def basic_get(channel: Channel, method: methods.BasicGet) -> None:
    connection = channel.connection
    name = name_of(channel, method.queue)
    channel.check(Right.READ, QUEUE, name)
    if (topic := stream.topic_of(channel, name)) is not None:
        raise stream.refuse("basic.get", topic)
    queue = queue_of(channel, name)
    metrics = connection.node.metrics
    queue.dispatch()  # consumers that wait come first
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
        exchange=piece.envelope.exchange,
        routing_key=piece.envelope.routing_key,
        message_count=queue.ready_count,
    )
    channel.send(found)
    connection.send(content.fitted(piece.contents, channel.number, connection.frame_max)[0])
    if method.no_ack:
        channel.got_no_ack += 1
        metrics.messages_delivered_get_auto_ack += 1
    else:
        channel.ledger.add(Unacked(tag, piece, queue, None))
        channel.got += 1
        metrics.messages_delivered_get_manual_ack += 1
    if piece.redelivered:
        channel.redelivered += 1
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
            connection.guard,
            connection.node.metrics,
        )
    if not method.nowait:
        channel.send(methods.ConfirmSelectOk())
