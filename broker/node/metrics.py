"""What the node counts. Plain numbers that whoever shows them reads."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Metrics:
    """Since the node was opened."""

    messages_received: int = 0
    messages_received_confirm: int = 0
    messages_confirmed: int = 0
    messages_routed: int = 0
    messages_unroutable_dropped: int = 0
    messages_unroutable_returned: int = 0
    messages_delivered_consume_auto_ack: int = 0
    messages_delivered_consume_manual_ack: int = 0
    messages_delivered_get_auto_ack: int = 0
    messages_delivered_get_manual_ack: int = 0
    messages_get_empty: int = 0
    messages_redelivered: int = 0
    messages_acknowledged: int = 0
    records_received: int = 0
    """From Kafka's producers, as what follows is of Kafka's clients."""
    record_octets_received: int = 0
    record_octets_sent: int = 0
    produce_requests: int = 0
    fetch_requests: int = 0
    dead_lettered: Counter[str] = field(default_factory=Counter)
    """By reason; those of queues that have an exchange for them."""
    discarded: Counter[str] = field(default_factory=Counter)
    """By reason; those of queues that have none."""
    connections_opened: int = 0
    connections_closed: int = 0
    channels_opened: int = 0
    channels_closed: int = 0
    queues_declared: int = 0
    queues_created: int = 0
    queues_deleted: int = 0
    logins: int = 0
    logins_failed: int = 0
    kafka_logins: int = 0
    kafka_logins_failed: int = 0

    @property
    def messages_delivered(self) -> int:
        """Pushed or got."""
        return (
            self.messages_delivered_consume_auto_ack
            + self.messages_delivered_consume_manual_ack
            + self.messages_delivered_get_auto_ack
            + self.messages_delivered_get_manual_ack
        )


@dataclass(slots=True)
class Traffic:
    """Of one partition, since the node was opened.

    What Kafka's consumers fetch is counted in octets only, as nobody opens it for them.
    """

    records_in: int = 0
    octets_in: int = 0
    """Of batches, as they lie in the log."""
    octets_out: int = 0
    """Of batches that were fetched, and of records' values that were delivered."""
    delivered: int = 0
    """Records, to AMQP's consumers."""
