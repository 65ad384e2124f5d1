"""Users and their permissions over HTTP."""

from __future__ import annotations

import base64
import hashlib

import pytest

from amqp_client import Refused
from api_here import api_here
from broker.node.passwords import ARGON2ID
from broker_here import quick_hash

NOT_THERE = {"error": "Object Not Found", "reason": "Not Found"}
SHA256 = "rabbit_password_hashing_sha256"


async def test_a_user_is_made_changed_and_deleted(api):
    answer = await api.put("/users/new", {"password": "secret", "tags": "monitoring,other"})
    assert (answer.status_code, answer.content) == (201, b"")
    row = await api.get("/users/new")
    assert row["password_hash"].startswith("$argon2id$")
    assert {name: row[name] for name in ("name", "hashing_algorithm", "tags", "limits")} == {
        "name": "new",
        "hashing_algorithm": ARGON2ID,
        "tags": ["monitoring", "other"],
        "limits": {},
    }
    assert (await api.get("/whoami", user=("new", "secret"))) == {
        "name": "new",
        "tags": ["monitoring", "other"],
        "is_internal_user": True,
    }
    assert (await api.put("/users/new", {"password": "changed", "tags": []})).status_code == 204
    assert (await api.ask("GET", "/whoami", user=("new", "secret"))).status_code == 401
    assert (await api.get("/users/new"))["tags"] == []
    answer = await api.delete("/users/new")
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await api.delete("/users/new")).json() == NOT_THERE
    assert (await api.ask("GET", "/users/new")).json() == NOT_THERE


async def test_a_hash_is_taken_as_it_is(api):
    encoded = quick_hash("secret")
    await api.put("/users/new", {"password_hash": encoded, "tags": "management"})
    row = await api.get("/users/new")
    assert (row["password_hash"], row["hashing_algorithm"]) == (encoded, SHA256)
    assert (await api.get("/whoami", user=("new", "secret")))["name"] == "new"


async def test_a_password_is_enough_for_scram_and_a_hash_is_not(api):
    """What is kept for it is not shown, and stays when the same hash comes back."""
    users = api.node.accounts.users
    await api.put("/users/new", {"password": "secret", "tags": ""})
    known = users["new"].scram
    assert known.keys() == {"SCRAM-SHA-256", "SCRAM-SHA-512"}
    row = await api.get("/users/new")
    assert row.keys() == {"name", "password_hash", "hashing_algorithm", "tags", "limits"}
    await api.put("/users/new", {**row, "tags": "management"})
    assert users["new"].scram == known
    await api.put("/users/new", {"password": "changed", "tags": ""})
    assert users["new"].scram.keys() == known.keys()
    assert users["new"].scram != known
    await api.put("/users/new", {"password_hash": quick_hash("secret"), "tags": ""})
    assert users["new"].scram == {}


@pytest.mark.parametrize(
    "body", [{"tags": ""}, {"tags": "", "password_hash": ""}, {"tags": "", "password": ""}]
)
async def test_a_user_without_a_password_does_not_log_in_with_one(api, body):
    assert (await api.put("/users/new", body)).status_code == 201
    await api.put("/permissions/%2F/new", {"configure": "", "write": "", "read": ""})
    assert (await api.get("/users/new"))["password_hash"] == ""
    with pytest.raises(Refused, match="ACCESS_REFUSED"):
        await api.broker.connect(user="new", password="")


@pytest.mark.parametrize(
    "encoded", ["YWJj", "AAAAAA==", base64.b64encode(b"salt" + hashlib.sha512(b"saltp").digest()).decode()]
)
async def test_a_hash_of_another_size_is_kept_and_lets_nobody_in(api, encoded):
    body = {"password_hash": encoded, "hashing_algorithm": SHA256, "tags": "administrator"}
    assert (await api.put("/users/new", body)).status_code == 201
    assert (await api.get("/users/new"))["password_hash"] == encoded
    for password in ("", "p"):
        assert (await api.ask("GET", "/whoami", user=("new", password))).status_code == 401


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"password": "x"}, "tags: this key is missing"),
        ({"tags": 1}, "tags: expected a string with commas, or a list of strings, got 1"),
        ({"tags": "t," * 65}, 'tags: expected at most 64 tags, these are 65, got "' + "t," * 29 + "t..."),
        ({"tags": "", "password": 1}, "password: expected a string, got 1"),
        ({"tags": "", "password_hash": "!"}, "password_hash is not base64"),
        (
            {"tags": "", "password_hash": "AAAA", "hashing_algorithm": "crc"},
            f"unknown hashing_algorithm 'crc'; known are {ARGON2ID}, {SHA256}, "
            "rabbit_password_hashing_sha512, rabbit_password_hashing_md5",
        ),
    ],
)
async def test_a_user_that_cannot_be_is_refused(api, body, reason):
    answer = await api.put("/users/new", body)
    assert (answer.status_code, answer.json()["reason"]) == (400, reason)
    assert list(api.node.accounts.users) == ["guest"]


async def test_lists(api):
    api.add_user("with")
    await api.put("/users/without", {"tags": ""})
    assert [row["name"] for row in await api.get("/users")] == ["guest", "with", "without"]
    assert [row["name"] for row in await api.get("/users/without-permissions")] == ["without"]
    page = await api.get("/users?page=1&name=WITHO&columns=name")
    assert page["items"] == [{"name": "without"}]


async def test_many_are_deleted_at_once(api):
    for name in ("a", "b", "c"):
        await api.put(f"/users/{name}", {"tags": ""})
    assert (await api.post("/users/bulk-delete", {"users": ["a", "c", "nobody"]})).status_code == 204
    assert list(api.node.accounts.users) == ["guest", "b"]
    assert (await api.post("/users/bulk-delete", {"users": "b"})).status_code == 400


async def test_permissions_are_given_shown_and_taken(api):
    await api.put("/users/new", {"tags": ""})
    patterns = {"configure": "^q", "write": ".*", "read": ""}
    answer = await api.put("/permissions/%2F/new", patterns)
    assert (answer.status_code, answer.content) == (201, b"")
    assert (await api.put("/permissions/%2F/new", patterns)).status_code == 204
    row = {"user": "new", "vhost": "/", **patterns}
    assert await api.get("/permissions/%2F/new") == row
    assert await api.get("/users/new/permissions") == [row]
    assert (await api.get("/vhosts/%2F/permissions"))[1] == row
    assert (await api.get("/permissions?page=1&name=new"))["items"] == [row]
    assert (await api.delete("/permissions/%2F/new")).status_code == 204
    assert (await api.delete("/permissions/%2F/new")).json() == NOT_THERE
    assert await api.get("/users/new/permissions") == []


@pytest.mark.parametrize(
    ("path", "patterns", "reason"),
    [
        ("/permissions/%2F/nobody", {}, "vhost_or_user_not_found"),
        ("/permissions/none/guest", {}, "vhost_or_user_not_found"),
        ("/permissions/%2F/guest", {"configure": "", "write": ""}, "read: this key is missing"),
        (
            "/permissions/%2F/guest",
            {"configure": "(", "write": "", "read": ""},
            "'(' is not a regular expression: missing ), unterminated subpattern at position 0",
        ),
        (
            "/permissions/%2F/guest",
            {"configure": "a{4294967296}", "write": "", "read": ""},
            "'a{4294967296}' is not a regular expression: the repetition number is too large",
        ),
        (
            "/permissions/%2F/guest",
            {"configure": "(" * 2000, "write": "", "read": ""},
            f"'{'(' * 2000}' is not a regular expression: maximum recursion depth exceeded",
        ),
    ],
)
async def test_permissions_that_cannot_be_are_refused(api, path, patterns, reason):
    answer = await api.put(path, patterns)
    assert answer.status_code == 400
    assert answer.json()["reason"].startswith(reason)


async def test_nobody_and_nowhere_have_no_permissions(api):
    for path in ("/users/nobody/permissions", "/vhosts/none/permissions", "/permissions/none/guest"):
        assert (await api.ask("GET", path)).json() == NOT_THERE


async def test_users_and_permissions_are_there_after_the_next_start(tmp_path):
    async with api_here(tmp_path) as api:
        await api.put("/users/kept", {"password_hash": quick_hash("p"), "tags": "management"})
        await api.put("/permissions/%2F/kept", {"configure": "a", "write": "b", "read": "c"})
        await api.put("/users/gone", {"tags": ""})
        await api.delete("/users/gone")
    async with api_here(tmp_path) as api:
        assert (await api.get("/whoami", user=("kept", "p")))["tags"] == ["management"]
        row = await api.get("/permissions/%2F/kept")
        assert (row["configure"], row["write"], row["read"]) == ("a", "b", "c")
        assert (await api.ask("GET", "/users/gone")).status_code == 404
