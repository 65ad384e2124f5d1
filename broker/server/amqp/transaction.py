"""tx.*: publishes and acknowledgements that happen together or not at all.

Flow:   between tx.select and tx.commit they are kept; a commit carries them out in one pass and in one
        record of the journal, and is answered when that is safe.
Limits: `transaction_size_max` octets of messages kept, and 65,536 acknowledgements.
Spec:   AMQP 0-9-1 section 1.9; RabbitMQ's are atomic for one queue only, these for all that one channel did.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from broker.amqp import methods
from broker.amqp.frames import PublishRun
from broker.model.channel import unknown_delivery_tag
from broker.model.errors import PreconditionFailed
from broker.server.amqp.basic import Outcome, publish_now, settle
from broker.server.amqp.channel import Channel, handles

_ACKS_MAX: Final = 65_536


class _Settlement(NamedTuple):
    first: int
    last: int
    multiple: bool
    outcome: Outcome


class Transaction:
    """What a channel has kept since the last commit or rollback."""

    def __init__(self, channel: Channel, size_max: int) -> None:
        self._channel = channel
        self._size_max = size_max
        self.clear()

    def clear(self) -> None:
        self._runs: list[PublishRun] = []
        self._size = 0
        self._settlements: list[_Settlement] = []
        self._settled: set[int] = set()
        self._settled_up_to = 0

    @property
    def publish_count(self) -> int:
        return sum(len(run.contents) for run in self._runs)

    @property
    def ack_count(self) -> int:
        return len(self._settlements)

    def publish(self, runs: list[PublishRun]) -> None:
        self._size += sum(len(closed) for run in runs for closed in run.contents)
        if self._size > self._size_max:
            raise PreconditionFailed(f"the transaction is larger than the maximum of {self._size_max} octets")
        self._runs += runs

    def settle(self, first: int, last: int, multiple: bool, outcome: Outcome) -> None:
        """Raises PreconditionFailed for a tag that is not outstanding, or was settled in here already."""
        tags = range(last, last + 1) if multiple else range(first, last + 1)
        if not (multiple and last == 0):
            for tag in tags:
                if not self._channel.ledger.holds(tag) or tag <= self._settled_up_to or tag in self._settled:
                    raise unknown_delivery_tag(tag)
        if len(self._settlements) >= _ACKS_MAX:
            raise PreconditionFailed(
                f"the transaction has more than the maximum of {_ACKS_MAX} acknowledgements"
            )
        self._settlements.append(_Settlement(first, last, multiple, outcome))
        if multiple:
            self._settled_up_to = max(self._settled_up_to, last or self._channel.next_tag - 1)
        else:
            self._settled.update(tags)

    def commit(self) -> None:
        """Carry everything out."""
        runs, settlements = self._runs, self._settlements
        self.clear()
        if runs:
            publish_now(self._channel, runs, plain=all(run.envelope.plain for run in runs))
        for entry in settlements:
            settle(self._channel, *entry)


def _of(channel: Channel) -> Transaction:
    if channel.transaction is None:
        raise PreconditionFailed("channel is not transactional")
    return channel.transaction


@handles(methods.TxSelect)
def tx_select(channel: Channel, method: methods.TxSelect) -> None:
    if channel.confirms is not None:
        raise PreconditionFailed("cannot switch from confirm to tx mode")
    if channel.transaction is None:
        limit = channel.connection.server.options.transaction_size_max
        channel.transaction = Transaction(channel, limit)
    channel.send(methods.TxSelectOk())


@handles(methods.TxCommit)
def tx_commit(channel: Channel, method: methods.TxCommit) -> None:
    transaction = _of(channel)
    flusher = channel.connection.node.flusher
    flusher.open.atomic = True
    commit = flusher.open
    transaction.commit()
    channel.reply(methods.TxCommitOk(), after=commit)


@handles(methods.TxRollback)
def tx_rollback(channel: Channel, method: methods.TxRollback) -> None:
    _of(channel).clear()
    channel.send(methods.TxRollbackOk())
