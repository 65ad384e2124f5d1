"""tx.*: publishes and acknowledgements that happen together or not at all.

Flow:   between tx.select and tx.commit they are kept; a commit carries them out in one pass and in one
        record of the journal, and is answered when that is safe.
Limits: `transaction_size_max` octets of messages kept, and 65,536 acknowledgements.
Spec:   AMQP 0-9-1 section 1.9; RabbitMQ's are atomic for one queue only, these for all that one channel did.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from broker.amqp import methods
from broker.amqp.envelope import PublishRun
from broker.model.channel import Unacked, unknown_delivery_tag
from broker.model.errors import PreconditionFailed
from broker.server.amqp.basic import Outcome, decide, find, publish_now
from broker.server.amqp.channel import Channel, handles

_ACKS_MAX: Final = 65_536


class _Settlement(NamedTuple):
    outcome: Outcome
    entries: list[Unacked]


class Transaction:
    """What a channel has kept since the last commit or rollback."""

    def __init__(self, channel: Channel, size_max: int) -> None:
        self._channel = channel
        self._size_max = size_max
        self._begin()

    def _begin(self) -> None:
        self._runs: list[PublishRun] = []
        self._size = 0
        # They are in the ledger no more, so that nobody settles them twice, and come back with a rollback.
        self._settlements: list[_Settlement] = []
        self.ack_count = 0

    @property
    def publish_count(self) -> int:
        return sum(len(run.contents) for run in self._runs)

    def publish(self, runs: list[PublishRun]) -> None:
        """Raises PreconditionFailed for a message that cannot be routed, or one too many."""
        connection = self._channel.connection
        connection.node.check(connection.vhost, runs)
        self._size += sum(len(closed) for run in runs for closed in run.contents)
        if self._size > self._size_max:
            raise PreconditionFailed(f"the transaction is larger than the maximum of {self._size_max} octets")
        self._runs += runs

    def settle(self, first: int, last: int, multiple: bool, outcome: Outcome) -> None:
        """Raises PreconditionFailed for a tag that is not outstanding, or was settled in here already."""
        entries, unknown = find(self._channel, first, last, multiple)
        self._settlements.append(_Settlement(outcome, entries))
        self.ack_count += sum(len(entry.piece) for entry in entries)
        if unknown is not None:
            raise unknown_delivery_tag(unknown)
        if self.ack_count > _ACKS_MAX:
            raise PreconditionFailed(
                f"the transaction has more than the maximum of {_ACKS_MAX} acknowledgements"
            )

    def commit(self) -> None:
        """Carry everything out. Raises NotFound if an exchange is gone; then nothing has happened."""
        channel = self._channel
        runs, settlements = self._runs, self._settlements
        channel.connection.node.check(channel.connection.vhost, runs)
        self._begin()
        if runs:
            publish_now(channel, runs, plain=all(run.envelope.plain for run in runs))
        for outcome, entries in settlements:
            decide(channel, entries, outcome)

    def roll_back(self) -> None:
        """Forget the messages; what was settled is outstanding again."""
        settlements = self._settlements
        self._begin()
        self._channel.ledger.put_back([entry for _, entries in settlements for entry in entries])


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
    commit = channel.connection.node.flusher.open
    if transaction.ack_count:
        commit.atomic = True
    else:
        commit.atomic_messages = True
    transaction.commit()
    channel.reply(methods.TxCommitOk(), after=commit)


@handles(methods.TxRollback)
def tx_rollback(channel: Channel, method: methods.TxRollback) -> None:
    _of(channel).roll_back()
    channel.send(methods.TxRollbackOk())
