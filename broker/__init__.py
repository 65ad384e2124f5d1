"""Leveret: a RabbitMQ-style exchange broker and a partitioned log in one small process."""

__version__ = "0.1.0"
