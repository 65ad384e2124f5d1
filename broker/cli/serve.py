"""Put a broker together and run it: node, servers, management, signals, and what is printed."""

from __future__ import annotations

import gc
import json
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from pathlib import Path

import trio

from broker import __version__
from broker.cli.exits import BAD_CONFIG, FAILED, IN_USE
from broker.config.errors import ConfigError
from broker.config.layers import (
    amqp_options,
    declarations,
    kafka_options,
    management_options,
    node_options,
)
from broker.config.reading import read_config
from broker.config.settings import Config
from broker.management.listening import Listening
from broker.node.declarations import apply
from broker.node.node import Node, open_node
from broker.node.peers import CannotListen
from broker.server.serve import serve
from broker.storage.errors import DataFolderInUse, StorageError

logger = logging.getLogger("broker")

_IDLE_COLLECT_S = 30


# What strangers choose, as names of clients and groups, may hold a line of a log of their own.
_ESCAPED = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}


class Text(logging.Formatter):
    """One line for each record, and a trace behind it."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return super().formatMessage(record).translate(_ESCAPED)


class _Json(logging.Formatter):
    """A line of JSON for each record."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up_logging(config: Config) -> None:
    handler = logging.StreamHandler(sys.stderr)
    text = Text("%(asctime)s.%(msecs)03d %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S")
    handler.setFormatter(_Json() if config.log.format == "json" else text)
    logger.addHandler(handler)
    logger.setLevel(config.log.level.upper())


def start(flags: Mapping[str, str | Path | None]) -> int:
    """Read the settings and serve; returns the exit code. `flags` are `SERVE_FLAGS`, None for one that was not given."""
    settings = dict(flags)
    file = settings.pop("config", None) or os.environ.get("LEVERET_CONFIG")
    try:
        config = read_config(Path(file) if file else None, os.environ, settings)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return BAD_CONFIG
    return run(config)


def run(config: Config) -> int:
    """Serve until a signal comes; returns the exit code."""
    set_up_logging(config)
    _raise_descriptor_limit()
    # What is imported stays; and a broker that holds a million messages must not walk over all of them
    # each time that it has taken some more. Cycles are few, and collected when there is nothing to do.
    gc.freeze()
    gc.set_threshold(50_000, 10, 1_000_000)
    gc.enable()
    try:
        return trio.run(_serve, config)
    except DataFolderInUse as error:
        say(f"leveret: {error}")
        return IN_USE
    except (StorageError, OSError) as error:
        say(_last_words(error))
        return FAILED
    except BaseExceptionGroup as group:
        causes = _causes(group)
        if any(isinstance(cause, KeyboardInterrupt) for cause in causes):
            raise KeyboardInterrupt from None
        if not all(isinstance(cause, StorageError | OSError) for cause in causes):
            raise
        for cause in causes:
            say(_last_words(cause))
        return FAILED


def _raise_descriptor_limit() -> None:
    """Each connection needs a descriptor, and the usual 1,024 is for programs that use `select`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _last_words(error: BaseException) -> str:
    if isinstance(error, StorageError):
        return f"leveret: the disk failed: {error}; nothing that was not safe has been confirmed"
    assert isinstance(error, OSError)
    return f"leveret: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}"


def _causes(error: BaseException) -> list[BaseException]:
    """What it is, or, of a group, what is in it."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [cause for inner in error.exceptions for cause in _causes(inner)]


def say(line: str) -> None:
    """For whoever started the broker, and for tools that wait for a line."""
    print(line, flush=True)


async def _serve(config: Config) -> int:
    started = time.perf_counter()
    node = open_node(node_options(config))
    try:
        async with AsyncExitStack() as stack:
            listening = Listening()
            stack.push_async_callback(listening.close)
            await stack.enter_async_context(
                serve(
                    node,
                    amqp_options(config),
                    config.listeners.amqp,
                    kafka_options(config) if config.listeners.kafka is not None else None,
                    config.listeners.kafka,
                    config.limits.stop_timeout_s,
                    partial(_prepare, config, node, listening),
                )
            )
            if listening.api or listening.metrics:
                await stack.enter_async_context(_management(config, node, listening))
            nursery = await stack.enter_async_context(trio.open_nursery())
            nursery.start_soon(_collect_when_idle, node)
            # Whoever has read that it is ready may stop it.
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                _announce(config, node, time.perf_counter() - started)
                logger.info("%s received", signal.Signals(await anext(signals)).name)
            # A second one means it, and ends the process at once: what was confirmed is safe whatever it was doing.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            nursery.cancel_scope.cancel()
            logger.info("stopping: telling %d clients", len(node.peers))
    except BaseException as error:
        if all(isinstance(cause, CannotListen) for cause in _causes(error)):
            node.close()  # as nothing has happened to the disk
        raise
    node.close()
    say("Leveret stopped")
    return 0


async def _prepare(config: Config, node: Node, listening: Listening) -> None:
    """Listen for HTTP, too, and make what the file declares before clients come, who would make it another way."""
    await listening.open(config.listeners.management, config.listeners.metrics)
    for conflict in await apply(node, declarations(config)):
        logger.error("configuration: %s", conflict)
    if config.listeners.kafka is not None and config.kafka.vhost not in node.topology.vhosts:
        logger.error(
            "configuration: kafka.vhost: there is no virtual host '%s', so that Kafka's clients may do nothing",
            config.kafka.vhost,
        )


def _management(config: Config, node: Node, listening: Listening) -> AbstractAsyncContextManager[object]:
    """Imported only where it is served: a start must be quick."""
    from broker.management.server import management_server

    return management_server(node, listening, management_options(config))


def _announce(config: Config, node: Node, seconds: float) -> None:
    for listener in node.listeners:
        say(f"Listening for {listener.protocol} on {_spoken(listener.host, listener.port)}")
    say(
        f"Leveret {__version__}, data in {config.data.absolute()}, {len(node.topology.queues())} queues, "
        f"{len(node.topics.topics())} topics, {seconds:.3f} s"
    )
    say("Server startup complete")


def _spoken(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _collect_when_idle(node: Node) -> None:
    last = -1
    while True:
        await trio.sleep(_IDLE_COLLECT_S)
        now = node.metrics.messages_received + node.metrics.messages_delivered
        if now == last:
            gc.collect()
        last = now
