"""Declare, bind and delete, for whoever asks: AMQP, HTTP, the configuration file.

Flow:   the rules are the model's; here what they made becomes a definition and, for a queue, a store.
        Whoever answers "ok" waits for `Flusher.unsafe_definitions` first.
Shape:  a durable exchange, a durable queue that no connection owns, and a binding between two such are
        definitions; everything else lives as long as the process.
Limits: `arguments_size_max` for the arguments of a declaration or a binding, encoded as a field table: AMQP's
        frames allow no more, and so HTTP and the configuration file may not either.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from typing import Any

from broker.amqp import wire
from broker.model.arguments import (
    OBSOLETE,
    Arguments,
    QueueSettings,
    read_queue_arguments,
)
from broker.model.errors import ModelError, NotFound, PreconditionFailed
from broker.model.exchange import EXCHANGE, QUEUE, Binding, Destination, Exchange
from broker.model.message import Sink, Slice
from broker.model.queue import Memory, Queue
from broker.model.resource import spoken
from broker.model.vhost import Removed, Vhost
from broker.node import definitions
from broker.node.accounts import Accounts
from broker.node.clock import Clock
from broker.node.definitions import Change
from broker.node.flusher import Flusher
from broker.node.metrics import Metrics
from broker.node.queue_store import QueueStore
from broker.storage.file import Files, Handles
from broker.storage.log import Log

logger = logging.getLogger("broker.node")


class Topology:
    """The virtual hosts of a node and what is in them."""

    def __init__(
        self,
        flusher: Flusher,
        accounts: Accounts,
        metrics: Metrics,
        clock: Clock,
        files: Files,
        reader: Handles,
        queues_directory: str,
        bury: Callable[[Queue, str, Slice], None],
        *,
        arguments_size_max: int,
        queue_memory_max: int,
        memory: Memory,
        segment_size_max: int,
    ) -> None:
        self.vhosts: dict[str, Vhost] = {}
        self.vhost_deleted: list[Callable[[Vhost], None]] = []
        """Called before a virtual host goes: its connections must close."""
        self._flusher = flusher
        self._accounts = accounts
        self._metrics = metrics
        self._clock = clock
        self._files = files
        self._reader = reader
        self._queues_directory = queues_directory
        self._bury = bury
        self._arguments_size_max = arguments_size_max
        self._queue_memory_max = queue_memory_max
        self._memory = memory
        self._segment_size_max = segment_size_max
        self._stores: dict[Queue, QueueStore] = {}
        self._next_id = 1
        self._timed: Callable[[Queue], None] = lambda queue: None

    def on_timed(self, call: Callable[[Queue], None]) -> None:
        """`call` hears of each queue that may need a timer."""
        self._timed = call

    # ---- virtual hosts ----

    def vhost(self, name: str) -> Vhost:
        """Raises NotFound."""
        vhost = self.vhosts.get(name)
        if vhost is None:
            raise NotFound(f"vhost {name} not found")
        return vhost

    def put_vhost(
        self, name: str, *, description: str | None = None, tags: tuple[str, ...] | None = None
    ) -> bool:
        """Make it if it is missing, and say of it what is given; whether it is new.

        Raises PreconditionFailed for an empty name.
        """
        if not name:
            raise PreconditionFailed("a virtual host needs a name")
        new = name not in self.vhosts
        vhost = self.vhosts.setdefault(name, Vhost(name))
        before = (vhost.description, vhost.tags)
        vhost.description = vhost.description if description is None else description
        vhost.tags = vhost.tags if tags is None else tags
        if new or (vhost.description, vhost.tags) != before:
            value = {"description": vhost.description, "tags": list(vhost.tags)}
            self._flusher.change([Change(definitions.key(definitions.VHOST, name), value)])
        return new

    def delete_vhost(self, name: str) -> None:
        """With everything in it. Raises NotFound."""
        vhost = self.vhost(name)
        for call in self.vhost_deleted:
            call(vhost)
        for queue in list(vhost.queues.values()):
            self.delete_queue(vhost, queue)
        for exchange in list(vhost.exchanges.values()):
            if exchange.name in vhost.exchanges and exchange.name and not exchange.name.startswith("amq."):
                self._forget(vhost, vhost.delete_exchange(exchange.name))
        self._forget(vhost, Removed(bindings=list(vhost.bindings())))
        del self.vhosts[name]
        self._accounts.forget_vhost(name)
        self._flusher.change([Change(definitions.key(definitions.VHOST, name), None)])

    # ---- exchanges ----

    def declare_exchange(
        self,
        vhost: Vhost,
        name: str,
        type: str,
        *,
        durable: bool = True,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Arguments | None = None,
    ) -> tuple[Exchange, bool]:
        """As `Vhost.declare_exchange`, and a definition if it is new and durable.

        Raises PreconditionFailed, too, for arguments that are too large.
        """
        self._check_size(arguments, spoken(EXCHANGE, name, vhost.name))
        exchange, new = vhost.declare_exchange(
            name,
            type,
            durable=durable,
            auto_delete=auto_delete,
            internal=internal,
            arguments=arguments or {},
        )
        if new and durable:
            value = {
                "type": type,
                "auto_delete": auto_delete,
                "internal": internal,
                "arguments": dict(exchange.arguments),
            }
            self._flusher.change([Change(_exchange_key(vhost, exchange), value)])
        return exchange, new

    def delete_exchange(self, vhost: Vhost, name: str, *, if_unused: bool = False) -> None:
        """As `Vhost.delete_exchange`."""
        self._forget(vhost, vhost.delete_exchange(name, if_unused=if_unused))

    # ---- queues ----

    def declare_queue(
        self,
        vhost: Vhost,
        name: str,
        *,
        durable: bool = True,
        auto_delete: bool = False,
        owner: object = None,
        exclusive: bool = False,
        arguments: Arguments | None = None,
        chosen_here: bool = False,
    ) -> tuple[Queue, bool]:
        """As `Vhost.declare_queue`, with a store, and a definition if it is new and lasts.

        Raises PreconditionFailed, too, for arguments that are too large.
        """
        self._check_size(arguments, spoken(QUEUE, name, vhost.name))
        given = arguments or {}
        queue, new = vhost.declare_queue(
            name,
            lambda cleaned, settings: self._make_queue(
                vhost,
                cleaned,
                settings,
                self.take_id(),
                durable,
                auto_delete,
                owner if exclusive else None,
                given,
            ),
            durable=durable,
            auto_delete=auto_delete,
            owner=owner,
            exclusive=exclusive,
            arguments=given,
            chosen_here=chosen_here,
        )
        self._metrics.queues_declared += 1
        if not new:
            queue.used(self._clock.now_ms())
            return queue, False
        self._metrics.queues_created += 1
        for argument in sorted(OBSOLETE & given.keys()):
            logger.info(
                "%s: the argument %s has no meaning any more",
                _name(vhost, queue),
                argument,
            )
        if queue.lasting:
            value = {
                "id": self._stores[queue].log.id,
                "auto_delete": auto_delete,
                "arguments": dict(given),
            }
            self._flusher.change([Change(_queue_key(vhost, queue), value)])
        self._timed(queue)
        return queue, True

    def take_id(self) -> int:
        """For a new log."""
        taken = self._next_id
        self._next_id += 1
        return taken

    def known_id(self, id: int) -> None:
        """A log has it already."""
        self._next_id = max(self._next_id, id + 1)

    def _make_queue(
        self,
        vhost: Vhost,
        name: str,
        settings: QueueSettings,
        id: int,
        durable: bool,
        auto_delete: bool,
        owner: object,
        arguments: Arguments,
        log: Log | None = None,
    ) -> Queue:
        if log is None:
            directory = self.queue_directory(id)
            log = Log(id, directory, self._reader, [], segment_size_max=self._segment_size_max)
        spoken_name = f"'{vhost.name}'/{name}"
        store = QueueStore(
            spoken_name,
            log,
            self._files,
            self._reader,
            self._flusher,
            self._clock.now_ms,
        )
        queue = Queue(
            name,
            vhost.name,
            store,
            self._bury,
            durable=durable,
            auto_delete=auto_delete,
            owner=owner,
            arguments=arguments,
            settings=settings,
            memory_max=self._queue_memory_max,
            memory=self._memory,
            now_ms=self._clock.now_ms(),
        )
        self._stores[queue] = store
        return queue

    def queue_directory(self, id: int) -> str:
        return f"{self._queues_directory}/{id}"

    def delete_queue(
        self,
        vhost: Vhost,
        queue: Queue,
        *,
        if_unused: bool = False,
        if_empty: bool = False,
    ) -> int:
        """Returns how many messages it held. Raises PreconditionFailed for the conditions."""
        of = spoken(QUEUE, queue.name, vhost.name)
        if if_unused and len(queue.consumers):
            raise PreconditionFailed(f"{of} in use")
        if if_empty and queue.ready_count:
            raise PreconditionFailed(f"{of} not empty")
        if queue.deleted:
            return 0
        count = queue.ready_count
        queue.deleted = True
        for consumer in queue.consumers:
            consumer.queue_deleted(queue)
        if queue.lasting:
            self._flusher.change([Change(_queue_key(vhost, queue), None)])
        self._forget(vhost, vhost.remove_queue(queue))
        queue.let_go()
        self._flusher.forget(self._stores.pop(queue))
        self._metrics.queues_deleted += 1
        return count

    def store_of(self, queue: Queue) -> QueueStore:
        return self._stores[queue]

    def queues(self) -> list[Queue]:
        return list(self._stores)

    # ---- bindings ----

    def bind(
        self,
        vhost: Vhost,
        source: str,
        destination: Destination,
        routing_key: str = "",
        arguments: Arguments | None = None,
    ) -> tuple[Binding, bool]:
        """As `Vhost.bind`, and a definition if it is new and both its ends last.

        Raises PreconditionFailed, too, for arguments that are too large.
        """
        self._check_size(arguments, f"a binding of {spoken(destination.kind, destination.name, vhost.name)}")
        binding, new = vhost.bind(source, destination, routing_key, arguments or {})
        if new and self._lasts(vhost, binding):
            value = {"routing_key": routing_key, "arguments": dict(binding.arguments)}
            self._flusher.change([Change(_binding_key(vhost, binding), value)])
        return binding, new

    def unbind(
        self,
        vhost: Vhost,
        source: str,
        destination: Destination,
        routing_key: str,
        arguments: Arguments,
    ) -> bool:
        """Whether there was such a binding."""
        removed = vhost.unbind(source, destination, routing_key, arguments)
        self._forget(vhost, removed)
        return bool(removed.bindings)

    def add_topic(self, vhost: Vhost, topic: Sink) -> None:
        """As `Vhost.add_topic`: what it is, somebody else keeps."""
        vhost.add_topic(topic)

    def remove_topic(self, vhost: Vhost, name: str) -> None:
        """With its bindings."""
        self._forget(vhost, vhost.remove_topic(name))

    def _check_size(self, arguments: Arguments | None, of: str) -> None:
        if not arguments:
            return
        size = len(wire.table(arguments))
        if size > self._arguments_size_max:
            raise PreconditionFailed(
                f"the arguments of {of} have {size} bytes as a field table, "
                f"at most {self._arguments_size_max} are allowed (frame_max)"
            )

    def _lasts(self, vhost: Vhost, binding: Binding) -> bool:
        if not binding.durable:
            return False
        queue = vhost.queues.get(binding.destination.name) if binding.destination.kind == QUEUE else None
        return queue is None or queue.lasting

    def _forget(self, vhost: Vhost, removed: Removed) -> None:
        changes = [
            Change(_exchange_key(vhost, exchange), None) for exchange in removed.exchanges if exchange.durable
        ]
        changes += [
            Change(_binding_key(vhost, binding), None) for binding in removed.bindings if binding.durable
        ]
        self._flusher.change(changes)

    # ---- at start ----

    def load(self, found: dict[str, dict[str, Any]], open_log: Callable[[int, str], Log]) -> None:
        """Make everything that the definitions say, with the messages of the queues."""
        by_kind: dict[str, list[tuple[list[str], dict[str, Any]]]] = {}
        for key, value in found.items():
            kind, names = definitions.names_of(key)
            by_kind.setdefault(kind, []).append((names, value))
        for (name,), value in by_kind.get(definitions.VHOST, ()):
            made = self.vhosts[name] = Vhost(name)
            made.description = value.get("description", "")
            made.tags = tuple(value.get("tags", ()))
        for (name,), value in by_kind.get(definitions.USER, ()):
            self._accounts.load_user(name, value)
        for (vhost, name), value in by_kind.get(definitions.PERMISSION, ()):
            self._accounts.load_permission(vhost, name, value)
        for (vhost, name), value in by_kind.get(definitions.EXCHANGE, ()):
            self.vhosts[vhost].declare_exchange(name, durable=True, **value)
        for (vhost, name), value in by_kind.get(definitions.QUEUE, ()):
            self._load_queue(self.vhosts[vhost], name, value, open_log)

    def load_bindings(self, found: dict[str, dict[str, Any]]) -> None:
        """Those among all definitions, when everything is there that they lead to."""
        for key, value in found.items():
            kind, names = definitions.names_of(key)
            if kind == definitions.BINDING:
                vhost, source, end, name, _ = names
                self._load_binding(self.vhosts[vhost], source, Destination(end, name), value)

    def _load_queue(
        self,
        vhost: Vhost,
        name: str,
        value: dict[str, Any],
        open_log: Callable[[int, str], Log],
    ) -> None:
        settings = read_queue_arguments(name, vhost.name, value["arguments"])
        log = open_log(value["id"], f"'{vhost.name}'/{name}")
        queue = self._make_queue(
            vhost,
            name,
            settings,
            log.id,
            True,
            value["auto_delete"],
            None,
            value["arguments"],
            log,
        )
        vhost.queues[name] = queue
        self.known_id(log.id)
        store = self._stores[queue]
        queue.restore(log.next_offset, log.start_offset, log.live, store.live_size())
        self._timed(queue)

    def _load_binding(
        self, vhost: Vhost, source: str, destination: Destination, value: dict[str, Any]
    ) -> None:
        try:
            vhost.bind(source, destination, value["routing_key"], value["arguments"])
        except ModelError as error:
            logger.error(
                "vhost '%s': a binding from '%s' is left out: %s",
                vhost.name,
                source,
                error,
            )


def _name(vhost: Vhost, queue: Queue) -> str:
    return f"queue '{vhost.name}'/{queue.name}"


def _exchange_key(vhost: Vhost, exchange: Exchange) -> str:
    return definitions.key(definitions.EXCHANGE, vhost.name, exchange.name)


def _queue_key(vhost: Vhost, queue: Queue) -> str:
    return definitions.key(definitions.QUEUE, vhost.name, queue.name)


def _binding_key(vhost: Vhost, binding: Binding) -> str:
    """The routing key and the arguments may be long: their hash tells a binding from its others."""
    _, routing_key, arguments = binding.identity
    told = hashlib.sha256(f"{routing_key}\0{arguments}".encode()).hexdigest()[:32]
    end = binding.destination
    return definitions.key(definitions.BINDING, vhost.name, binding.source, end.kind, end.name, told)
