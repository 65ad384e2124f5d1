"""Who may ask for what."""

import pytest

from broker.management.auth import Logins
from broker.management.http import Refused, Request
from broker.management.routes import Needs

CHALLENGE = 'Basic realm="RabbitMQ Management"'


async def test_without_a_login_there_is_a_challenge(api):
    answer = await api.ask("GET", "/overview", user=None)
    assert (answer.status_code, answer.content) == (401, b"")
    assert answer.headers["www-authenticate"] == CHALLENGE


@pytest.mark.parametrize(
    "header",
    ["Basic", "Basic !!", "Basic Z3Vlc3Q=", "Basic //4=", "Bearer Z3Vlc3Q6Z3Vlc3Q=", "Z3Vlc3Q6Z3Vlc3Q="],
)
async def test_what_is_no_login_is_none(api, header):
    answer = await api.ask("GET", "/overview", user=None, headers={"authorization": header})
    assert (answer.status_code, answer.content) == (401, b"")


@pytest.mark.parametrize("user", [("guest", "wrong"), ("nobody", "guest"), ("guest", "")])
async def test_a_wrong_password_is_refused(api, user):
    answer = await api.ask("GET", "/overview", user=user)
    assert answer.status_code == 401
    assert answer.json() == {"error": "not_authorized", "reason": "Not_Authorized"}
    assert answer.headers["www-authenticate"] == CHALLENGE


async def test_a_name_and_a_password_may_hold_anything(api):
    api.broker.add_user("müller", "a:b:ü", tags=("management",))
    assert (await api.get("/whoami", user=("müller", "a:b:ü")))["name"] == "müller"


@pytest.mark.parametrize(
    ("path", "enough"),
    [
        ("/whoami", ["management", "policymaker", "monitoring", "administrator"]),
        ("/queues", ["management", "policymaker", "monitoring", "administrator"]),
        ("/nodes", ["monitoring", "administrator"]),
        ("//metrics", ["monitoring", "administrator"]),
        ("/users", ["administrator"]),
        ("/permissions", ["administrator"]),
        ("/vhosts/%2F", ["administrator"]),
    ],
)
async def test_tags_decide(api, path, enough):
    reasons = {
        "": "Not management user",
        "impersonator": "Not management user",
        "management": "Not monitor user" if path in ("/nodes", "//metrics") else "Not administrator user",
        "policymaker": "Not monitor user" if path in ("/nodes", "//metrics") else "Not administrator user",
        "monitoring": "Not administrator user",
        "administrator": "",
    }
    for tag, reason in reasons.items():
        user = api.add_user("somebody", *filter(None, [tag]))
        answer = await api.ask("GET", path, user=user)
        if tag in enough:
            assert answer.status_code == 200, tag
        else:
            assert answer.status_code == 401, tag
            assert answer.json() == {"error": "not_authorised", "reason": reason}
            assert "www-authenticate" not in answer.headers


async def test_paths_and_methods_are_looked_at_before_the_login(api):
    answer = await api.ask("GET", "/nothing", user=None)
    assert (answer.status_code, answer.json()) == (404, {"error": "Object Not Found", "reason": "Not Found"})
    answer = await api.post("/overview", {}, user=None)
    assert (answer.status_code, answer.content) == (405, b"")
    assert answer.headers["allow"] == "HEAD, GET, OPTIONS"
    answer = await api.ask("OPTIONS", "/queues/%2F/q", user=None)
    assert (answer.status_code, answer.headers["allow"]) == (200, "HEAD, GET, PUT, DELETE, OPTIONS")
    assert (await api.ask("HEAD", "/overview", user=None)).status_code == 401
    assert (await api.ask("HEAD", "/overview")).status_code == 200


@pytest.mark.parametrize(
    ("peer", "may"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("10.0.0.1", False), ("::2", False)],
)
async def test_some_users_come_from_this_machine_only(api, peer, may):
    logins = Logins(api.node.accounts, frozenset({"guest"}))
    request = Request("GET", "/", (), {}, {"authorization": "Basic Z3Vlc3Q6Z3Vlc3Q="}, b"", peer)
    if may:
        assert (await logins.user_of(request, Needs.MANAGEMENT)).name == "guest"
        assert (logins.succeeded, logins.failed) == (1, 0)
    else:
        with pytest.raises(Refused) as refused:
            await logins.user_of(request, Needs.MANAGEMENT)
        assert b"User can only log in via localhost" in refused.value.response.body
        assert (logins.succeeded, logins.failed) == (0, 1)


async def test_a_large_body_needs_a_login_before_it_is_read(api):
    await api.put("/queues/%2F/q")
    body = {"properties": {}, "routing_key": "q", "payload": "x" * 100_000, "payload_encoding": "string"}
    path = "/exchanges/%2F/amq.default/publish"
    assert (await api.post(path, body)).json() == {"routed": True}
    assert (await api.post(path, body, user=None)).status_code == 401
    assert (await api.post(path, body, user=("guest", "wrong"))).status_code == 401
    assert (await api.put("/version", body, user=None)).status_code == 413
    assert (await api.put("/nothing", body)).status_code == 413


async def test_whoever_does_not_say_a_name_has_not_tried(api):
    logins = Logins(api.node.accounts, frozenset())
    with pytest.raises(Refused):
        await logins.user_of(Request("GET", "/", (), {}, {}, b"", "::1"), Needs.MANAGEMENT)
    assert (logins.succeeded, logins.failed) == (0, 0)
