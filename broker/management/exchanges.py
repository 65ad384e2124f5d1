"""Exchanges: list, show, declare, delete. In a path the default exchange is called `amq.default`."""

from __future__ import annotations

from functools import partial

from broker.management.call import Call
from broker.management.errors import not_there
from broker.management.http import Response
from broker.management.listing import Row, listed, shown_once
from broker.management.rates import Rates, exchange_counts
from broker.management.routes import route
from broker.management.tables import shown
from broker.model.exchange import EXCHANGE, Exchange
from broker.model.user import Right
from broker.model.vhost import Vhost

# An exchange does not know its virtual host.
Placed = tuple[str, Exchange]


def key_of(placed: Placed) -> tuple[str, str]:
    return placed[0], placed[1].name


def exchange_of(call: Call, vhost: Vhost) -> Exchange:
    """The exchange in the path. Raises Refused if there is none."""
    exchange = vhost.exchanges.get(call.exchange_name("exchange"))
    if exchange is None:
        raise not_there()
    return exchange


def show(rates: Rates | None, placed: Placed) -> Row:
    """A row of a list; without rates, what does not change."""
    vhost, exchange = placed
    row: Row = {
        "name": exchange.name,
        "vhost": vhost,
        "type": exchange.type,
        "durable": exchange.durable,
        "auto_delete": exchange.auto_delete,
        "internal": exchange.internal,
        "arguments": shown(exchange.arguments),
        "policy": None,
    }
    if rates is not None and exchange.messages_in:
        row["message_stats"] = rates.exchanges.details(exchange, exchange_counts(exchange))
    return row


@route("GET", "/api/exchanges")
@route("GET", "/api/exchanges/{vhost}")
async def list_exchanges(call: Call) -> Response:
    placed = [(vhost.name, exchange) for vhost in call.vhosts() for exchange in vhost.exchanges.values()]
    rates = None if call.flag("disable_stats") else call.api.rates
    return await listed(call.request.query, placed, partial(show, rates), key_of)


@route("GET", "/api/exchanges/{vhost}/{exchange}")
async def get_exchange(call: Call) -> Response:
    vhost = call.vhost()
    rates = None if call.flag("disable_stats") else call.api.rates
    row = show(rates, (vhost.name, exchange_of(call, vhost)))
    if rates is not None:
        row["incoming"] = row["outgoing"] = []
    return shown_once(call.request.query, row)


@route("PUT", "/api/exchanges/{vhost}/{exchange}")
async def put_exchange(call: Call) -> Response:
    from broker.management.schema import ExchangeBody

    vhost = call.vhost()
    call.new_name("exchange")
    name = call.exchange_name("exchange")
    body = call.body(ExchangeBody)
    call.check(Right.CONFIGURE, EXCHANGE, name, vhost)
    alternate = body.arguments.get("alternate-exchange")
    if isinstance(alternate, str):
        call.check(Right.READ, EXCHANGE, name, vhost)
        call.check(Right.WRITE, EXCHANGE, alternate, vhost)
    _, new = call.node.topology.declare_exchange(
        vhost,
        name,
        body.type,
        durable=body.durable,
        auto_delete=body.auto_delete,
        internal=body.internal,
        arguments=body.arguments,
    )
    await call.declared()
    return Response(201 if new else 204)


@route("DELETE", "/api/exchanges/{vhost}/{exchange}")
async def delete_exchange(call: Call) -> Response:
    vhost = call.vhost()
    exchange = exchange_of(call, vhost)
    call.check(Right.CONFIGURE, EXCHANGE, exchange.name, vhost)
    call.node.topology.delete_exchange(vhost, exchange.name, if_unused=call.flag("if-unused"))
    await call.declared()
    return Response(204)
