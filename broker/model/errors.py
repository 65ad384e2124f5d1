"""What the rules of the model refuse, in words for the one who asked.

Each protocol has one table from these to its own codes. The texts are RabbitMQ's wherever it has one:
clients and their test suites compare them.
"""


class ModelError(Exception):
    """A rule was broken by whoever asked; nothing has changed. The message is the text for the peer."""


class NotFound(ModelError):
    """There is no such exchange, queue or virtual host."""


class AccessRefused(ModelError):
    """The name is reserved, somebody else has it exclusively, or the user has no permission."""


class ResourceLocked(ModelError):
    """The queue belongs to another connection."""


class PreconditionFailed(ModelError):
    """It exists and is different, is in use, or an argument has a value that cannot be."""


class NotAllowed(ModelError):
    """Not on this connection, not in this virtual host, or over a limit."""


class NotImplementedHere(ModelError):
    """The protocol has it; this broker, like RabbitMQ, does not."""


class AlreadyExists(PreconditionFailed):
    """There is a topic with this name."""


class InvalidTopicName(PreconditionFailed):
    """No topic can be called so."""


class InvalidConfig(PreconditionFailed):
    """There is no such configuration, or not with this value."""


class InvalidPartitions(PreconditionFailed):
    """A topic cannot have so many partitions, or not fewer than it has."""


class InvalidReplicas(PreconditionFailed):
    """There are not so many brokers."""


class OffsetOutOfRange(ModelError):
    """The log does not reach there, or no longer."""


class UnknownTopic(NotFound):
    """There is no such topic, or not with so many partitions."""
