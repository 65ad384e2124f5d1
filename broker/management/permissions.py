"""What users may do in virtual hosts. For administrators."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from broker.management.call import Call
from broker.management.errors import bad_request, not_there
from broker.management.http import Response
from broker.management.listing import Row, listed, shown_once
from broker.management.routes import Needs, route
from broker.management.users import user_of
from broker.model.user import Permission, User


class Granted(NamedTuple):
    """A permission with who has it where."""

    user: str
    vhost: str
    permission: Permission


def key_of(granted: Granted) -> tuple[str, str]:
    return granted.vhost, granted.user


def show(granted: Granted) -> Row:
    return {
        "user": granted.user,
        "vhost": granted.vhost,
        "configure": granted.permission.configure,
        "write": granted.permission.write,
        "read": granted.permission.read,
    }


def _granted(users: Iterable[User]) -> list[Granted]:
    return [
        Granted(user.name, vhost, permission)
        for user in users
        for vhost, permission in user.permissions.items()
    ]


def _one(call: Call) -> Granted:
    """The permission that the path means. Raises Refused if there is none."""
    user = user_of(call)
    permission = user.permissions.get(call.name("vhost"))
    if permission is None:
        raise not_there()
    return Granted(user.name, call.name("vhost"), permission)


@route("GET", "/api/permissions", Needs.ADMINISTRATOR)
async def list_permissions(call: Call) -> Response:
    found = _granted(call.node.accounts.users.values())
    return await listed(call.request.query, found, show, key_of)


@route("GET", "/api/users/{user}/permissions", Needs.ADMINISTRATOR)
async def list_of_user(call: Call) -> Response:
    return await listed(call.request.query, _granted([user_of(call)]), show, key_of)


@route("GET", "/api/vhosts/{vhost}/permissions", Needs.ADMINISTRATOR)
async def list_of_vhost(call: Call) -> Response:
    vhost = call.vhost()
    found = [one for one in _granted(call.node.accounts.users.values()) if one.vhost == vhost.name]
    return await listed(call.request.query, found, show, key_of)


@route("GET", "/api/permissions/{vhost}/{user}", Needs.ADMINISTRATOR)
async def get_permission(call: Call) -> Response:
    return shown_once(call.request.query, show(_one(call)))


@route("PUT", "/api/permissions/{vhost}/{user}", Needs.ADMINISTRATOR)
async def put_permission(call: Call) -> Response:
    from broker.management.schema import PermissionBody

    vhost, user = call.name("vhost"), call.name("user")
    if vhost not in call.node.topology.vhosts or user not in call.node.accounts.users:
        raise bad_request("vhost_or_user_not_found")
    body = call.body(PermissionBody)
    new = call.node.accounts.put_permission(vhost, user, body.configure, body.write, body.read)
    await call.declared()
    return Response(201 if new else 204)


@route("DELETE", "/api/permissions/{vhost}/{user}", Needs.ADMINISTRATOR)
async def delete_permission(call: Call) -> Response:
    granted = _one(call)
    call.node.accounts.delete_permission(granted.vhost, granted.user)
    await call.declared()
    return Response(204)
