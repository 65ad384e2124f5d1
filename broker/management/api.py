"""The management API: from a request to the function that answers it, and from errors to statuses.

Flow:   `http` gives requests; the path finds a route, the route says who may ask, its function answers. What the
        model refuses becomes a status in `errors`.
Spec:   RabbitMQ: a path that nobody has is 404 and a method that it has not 405, whoever asks; then 401.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import trio

from broker.management import (
    bindings,
    channels,
    connections,
    consumers,
    exchanges,
    groups,
    health,
    messages,
    nodes,
    offsets,
    overview,
    permissions,
    prometheus,
    queues,
    records,
    runtime,
    topics,
    users,
    vhosts,
)
from broker.management.auth import Logins
from broker.management.call import Call
from broker.management.errors import model_refusal
from broker.management.http import Request, Response, refusal, refuse_large
from broker.management.lag import Lags
from broker.management.options import ManagementOptions
from broker.management.rates import Rates
from broker.management.routes import ROUTES, Needs, Route, allowed
from broker.model.errors import ModelError
from broker.node.node import Node

logger = logging.getLogger("broker.management")

_WITH_BODIES: Final = ("POST", "PUT")

# Their functions are found by path (see `routes.route`).
RESOURCES = (
    bindings,
    channels,
    connections,
    consumers,
    exchanges,
    groups,
    health,
    messages,
    nodes,
    offsets,
    overview,
    permissions,
    prometheus,
    queues,
    records,
    topics,
    users,
    vhosts,
)


class Api:
    """What the functions of the resources share."""

    def __init__(self, node: Node, options: ManagementOptions) -> None:
        self.node = node
        self.options = options
        self.rates = Rates(node)
        self.lags = Lags(node)
        self.browsing = trio.CapacityLimiter(1)
        """Opens batches of records, one request at a time."""
        self.logins = Logins(node.accounts, options.loopback_users)
        self.started_at_s = runtime.started_at_s()
        self.serving = True
        """Until the server stops."""
        self.connection_count: Callable[[], int] = lambda: 0
        """Of HTTP itself."""
        self._can_check_bodies = False

    async def handle(self, request: Request) -> Response:
        """Answer a request. Raises Refused."""
        return await self._handle(request, ROUTES.find(request.segments))

    async def admit(self, request: Request) -> int:
        """How many bytes the body of this request may have. Raises Refused."""
        routes, _ = ROUTES.find(request.segments)
        route = routes.get(request.method)
        if route is None or route.needs is Needs.NOTHING:
            return await refuse_large(request)
        await self.logins.user_of(request, route.needs)
        return route.body_size_max

    async def handle_metrics(self, request: Request) -> Response:
        """The same where only metrics are served, and without a login."""
        if request.segments[:1] != ("metrics",):
            return _nowhere()
        return await self._handle(request, ROUTES.find(request.segments), needs=Needs.NOTHING)

    async def _handle(
        self, request: Request, found: tuple[dict[str, Route], list[str]], needs: Needs | None = None
    ) -> Response:
        routes, values = found
        if not routes:
            return _nowhere()
        route = routes.get("GET" if request.method == "HEAD" else request.method)
        if route is None:
            status = 200 if request.method == "OPTIONS" else 405
            return Response(status, [("allow", allowed(routes))])
        needs = route.needs if needs is None else needs
        user = await self.logins.user_of(request, needs) if needs is not Needs.NOTHING else None
        if request.method in _WITH_BODIES and not self._can_check_bodies:
            await trio.to_thread.run_sync(_import_schema)
            self._can_check_bodies = True
        call = Call(self, request, user, dict(zip(route.names, values, strict=True)))
        try:
            return await route.handler(call)
        except ModelError as error:
            logger.info("http %s: %s %s: %s", request.peer, request.method, request.path, error)
            return model_refusal(error)


def _import_schema() -> None:
    """Takes a tenth of a second: not in the loop, and not before it is needed."""
    import broker.management.schema  # noqa: F401


def _nowhere() -> Response:
    return refusal(404, "Not Found", "Object Not Found")
