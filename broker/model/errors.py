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
