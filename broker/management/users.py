"""Users: list, show, make, change, delete. For administrators.

Limits: one password is hashed at a time, in a thread.
Spec:   RabbitMQ's; a password that is given becomes an argon2id hash, and what SCRAM needs; a hash that is
        given is kept as it is, and is not enough for SCRAM.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import trio

from broker.management.call import Call
from broker.management.errors import not_there
from broker.management.http import Response
from broker.management.listing import Row, listed, shown_once
from broker.management.routes import Needs, route
from broker.model.user import User
from broker.node.passwords import credentials_of

_hashing: Final = trio.CapacityLimiter(1)


def key_of(user: User) -> tuple[str]:
    return (user.name,)


def show(user: User) -> Row:
    return {
        "name": user.name,
        "password_hash": user.password_hash,
        "hashing_algorithm": user.hashing_algorithm,
        "tags": list(user.tags),
        "limits": {},
    }


def user_of(call: Call) -> User:
    """The user in the path. Raises Refused if there is none."""
    user = call.node.accounts.users.get(call.name("user"))
    if user is None:
        raise not_there()
    return user


@route("GET", "/api/users", Needs.ADMINISTRATOR)
async def list_users(call: Call) -> Response:
    return await listed(call.request.query, list(call.node.accounts.users.values()), show, key_of)


@route("GET", "/api/users/without-permissions", Needs.ADMINISTRATOR)
async def list_without_permissions(call: Call) -> Response:
    users = [user for user in call.node.accounts.users.values() if not user.permissions]
    return await listed(call.request.query, users, show, key_of)


@route("GET", "/api/users/{user}", Needs.ADMINISTRATOR)
async def get_user(call: Call) -> Response:
    return shown_once(call.request.query, show(user_of(call)))


@route("PUT", "/api/users/{user}", Needs.ADMINISTRATOR)
async def put_user(call: Call) -> Response:
    from broker.management.schema import UserBody

    name = call.new_name("user")
    body = call.body(UserBody)
    encoded, algorithm, scram = body.password_hash or "", body.hashing_algorithm, None
    if body.password:
        encoded, algorithm, scram = await trio.to_thread.run_sync(
            partial(credentials_of, body.password), limiter=_hashing
        )
    new = call.node.accounts.put_user(name, encoded, algorithm, body.tags, scram)
    await call.declared()
    return Response(201 if new else 204)


@route("DELETE", "/api/users/{user}", Needs.ADMINISTRATOR)
async def delete_user(call: Call) -> Response:
    call.node.accounts.delete_user(user_of(call).name)
    await call.declared()
    return Response(204)


@route("POST", "/api/users/bulk-delete", Needs.ADMINISTRATOR)
async def delete_users(call: Call) -> Response:
    from broker.management.schema import UsersBody

    accounts = call.node.accounts
    for name in call.body(UsersBody).users:
        if name in accounts.users:
            accounts.delete_user(name)
    await call.declared()
    return Response(204)
