"""A client for partitioned logs: Leveret's, Kafka's, and others with Kafka's protocol."""

from leveret.log.log import Log, connect
from leveret.log.producer import Producer

__all__ = ["connect", "Log", "Producer"]
