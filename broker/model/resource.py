"""How exchanges and queues are called in texts, and which names are taken."""

from broker.model.errors import AccessRefused

_RESERVED = "amq."


def spoken(kind: str, name: str, vhost: str) -> str:
    """`queue 'orders' in vhost '/'`, as every text of RabbitMQ says it."""
    return f"{kind} '{name}' in vhost '{vhost}'"


def check_not_reserved(kind: str, name: str) -> None:
    """Raises AccessRefused for a name that only the broker may make."""
    if name.startswith(_RESERVED):
        raise AccessRefused(f"{kind} name '{name}' contains reserved prefix 'amq.*'")


def cleaned(name: str) -> str:
    """RabbitMQ strips line ends from declared names."""
    return name.replace("\r", "").replace("\n", "")
