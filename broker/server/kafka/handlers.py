"""What a handler of requests is.

Shape:  each module of handlers has a table `HANDLERS`, from the key of an API to a function. It is given the
        connection, the request and the place of its answer, answers now or later, and raises nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from broker.kafka.api import Request
from broker.server.kafka.connection import KafkaConnection
from broker.server.kafka.reply import Reply

Handler: TypeAlias = "Callable[[KafkaConnection, Request, Reply], None]"
