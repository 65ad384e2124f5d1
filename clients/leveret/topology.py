"""Exchanges, queues and bindings, as a channel declares and deletes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from broker.amqp import methods
from broker.amqp.methods import Method

M = TypeVar("M", bound=Method)

Arguments = Mapping[str, Any]

_NO_ARGUMENTS: Final[Arguments] = {}


@dataclass(slots=True, frozen=True)
class DeclaredQueue:
    """What the broker says of a queue that is declared."""

    name: str
    """The broker's choice if none was given."""
    message_count: int
    """Messages that wait; those with consumers are not counted."""
    consumer_count: int


class Topology(ABC):
    """What there is and where it leads; a part of Channel.

    Everything here may be done again: to declare what is there just as it is, or to delete what is not
    there, changes nothing. Whatever the broker refuses closes the channel, and is raised as
    ChannelClosed with the broker's code and text: 404 it does not exist, 403 the user may not, 405 it
    belongs to another connection, 406 it exists and is different, or is in use.
    """

    @abstractmethod
    async def _call(self, method: Method, kind: type[M]) -> M:
        """Send a method and wait for its answer."""

    # ---- queues ----

    async def declare_queue(
        self,
        name: str = "",
        *,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        passive: bool = False,
        arguments: Arguments = _NO_ARGUMENTS,
    ) -> DeclaredQueue:
        """Without a name the broker chooses one; `passive` only asks whether it is there."""
        answer = await self._call(
            methods.QueueDeclare(
                queue=name,
                passive=passive,
                durable=durable,
                exclusive=exclusive,
                auto_delete=auto_delete,
                arguments=arguments,
            ),
            methods.QueueDeclareOk,
        )
        return DeclaredQueue(answer.queue, answer.message_count, answer.consumer_count)

    async def delete_queue(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Returns how many messages went with it."""
        method = methods.QueueDelete(queue=name, if_unused=if_unused, if_empty=if_empty)
        return (await self._call(method, methods.QueueDeleteOk)).message_count

    async def purge_queue(self, name: str) -> int:
        """Drop the messages that wait in it; returns how many."""
        return (await self._call(methods.QueuePurge(queue=name), methods.QueuePurgeOk)).message_count

    async def bind_queue(
        self, queue: str, exchange: str, routing_key: str = "", arguments: Arguments = _NO_ARGUMENTS
    ) -> None:
        method = methods.QueueBind(
            queue=queue, exchange=exchange, routing_key=routing_key, arguments=arguments
        )
        await self._call(method, methods.QueueBindOk)

    async def unbind_queue(
        self, queue: str, exchange: str, routing_key: str = "", arguments: Arguments = _NO_ARGUMENTS
    ) -> None:
        method = methods.QueueUnbind(
            queue=queue, exchange=exchange, routing_key=routing_key, arguments=arguments
        )
        await self._call(method, methods.QueueUnbindOk)

    # ---- exchanges ----

    async def declare_exchange(
        self,
        name: str,
        type: str = "direct",
        *,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        passive: bool = False,
        arguments: Arguments = _NO_ARGUMENTS,
    ) -> None:
        """`type` is direct, fanout, topic or headers; `passive` only asks whether it is there."""
        await self._call(
            methods.ExchangeDeclare(
                exchange=name,
                type=type,
                passive=passive,
                durable=durable,
                auto_delete=auto_delete,
                internal=internal,
                arguments=arguments,
            ),
            methods.ExchangeDeclareOk,
        )

    async def delete_exchange(self, name: str, *, if_unused: bool = False) -> None:
        await self._call(methods.ExchangeDelete(exchange=name, if_unused=if_unused), methods.ExchangeDeleteOk)

    async def bind_exchange(
        self, destination: str, source: str, routing_key: str = "", arguments: Arguments = _NO_ARGUMENTS
    ) -> None:
        """What `source` routes by this binding goes on through `destination`."""
        method = methods.ExchangeBind(
            destination=destination, source=source, routing_key=routing_key, arguments=arguments
        )
        await self._call(method, methods.ExchangeBindOk)

    async def unbind_exchange(
        self, destination: str, source: str, routing_key: str = "", arguments: Arguments = _NO_ARGUMENTS
    ) -> None:
        method = methods.ExchangeUnbind(
            destination=destination, source=source, routing_key=routing_key, arguments=arguments
        )
        await self._call(method, methods.ExchangeUnbindOk)
