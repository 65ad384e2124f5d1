"""Logging in to Kafka's listener: PLAIN and SCRAM, right and wrong, and what may be asked for before."""

from __future__ import annotations

import base64
import logging
import struct

import pytest
import trio

from broker.kafka import api
from broker.kafka.errors import ErrorCode
from broker.model.user import ScramCredential
from broker.node.declarations import Declarations, PermissionDeclaration, UserDeclaration, apply
from broker.node.definitions import USER, Change, key
from broker.node.passwords import SCRAM_DIGESTS, scram_credentials
from broker.server.kafka.scram import ScramExchange, ScramRefused
from broker_here import HASHING_ALGORITHM, quick_hash, until
from kafka_here import KafkaHere, kafka_here
from kafka_wire import Ended, KafkaClient
from scram_client import DIGESTS, ScramClient

SCRAM = sorted(DIGESTS)


@pytest.fixture
async def strict(tmp_path):
    """A broker where everybody must log in; "alice" may."""
    async with kafka_here(tmp_path, anonymous_user="") as here:
        here.add_user("alice", "secret")
        yield here


async def handshake(client: KafkaClient, mechanism: str, version: int = 1) -> None:
    answer = await client.call(api.SASL_HANDSHAKE, {"mechanism": mechanism}, version)
    assert answer["error_code"] == ErrorCode.NONE


async def authenticate(client: KafkaClient, token: bytes, version: int = 2) -> bytes:
    """What the broker says to a token. Raises Ended if that is the end of it."""
    answer = await client.call(api.SASL_AUTHENTICATE, {"auth_bytes": token}, version)
    if answer["error_code"]:
        assert answer["error_code"] == ErrorCode.SASL_AUTHENTICATION_FAILED
        assert answer["error_message"].startswith("authentication failed")
        await client.ends()
        raise Ended
    assert answer["session_lifetime_ms"] == 0
    return bytes(answer["auth_bytes"])


async def raw(client: KafkaClient, token: bytes) -> bytes:
    """The same without any header. Raises Ended."""
    await client.write(struct.pack(">i", len(token)) + token)
    return await client.frame()


async def plain(client: KafkaClient, token: bytes) -> None:
    await handshake(client, "PLAIN")
    assert await authenticate(client, token) == b""


async def scrammed(client: KafkaClient, login: ScramClient, say=authenticate) -> None:
    """Through both rounds, and the server is who it is. Raises Ended."""
    challenge = await say(client, login.first())
    assert await say(client, login.last(challenge)) == login.signature


async def check_served(client: KafkaClient) -> None:
    assert (await client.call(api.METADATA, {"topics": []}))["topics"] == []


async def check_refused(broker: KafkaHere, client: KafkaClient) -> None:
    """Nothing is served any more, and the broker has counted it."""
    with pytest.raises(Ended):
        await client.call(api.METADATA, {"topics": []})
    assert broker.node.metrics.kafka_logins == 0


# ---- before a login ----


async def test_versions_and_mechanisms_are_told_to_everybody(strict):
    client = await strict.dial()
    assert (await client.call(api.API_VERSIONS, version=0))["error_code"] == ErrorCode.NONE
    answer = await client.call(api.SASL_HANDSHAKE, {"mechanism": "GSSAPI"})
    assert answer["error_code"] == ErrorCode.UNSUPPORTED_SASL_MECHANISM
    assert answer["mechanisms"] == ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
    await plain(client, b"\0alice\0secret")
    await check_served(client)


@pytest.mark.parametrize(
    ("each", "body"),
    [
        (api.METADATA, {"topics": []}),
        (api.PRODUCE, {"acks": 0, "topic_data": []}),
        (api.CREATE_TOPICS, {"topics": []}),
    ],
)
async def test_a_request_before_a_login_is_the_end(strict, each, body):
    client = await strict.dial()
    await client.send(each, body)
    await client.ends()


async def test_tokens_need_a_handshake(strict):
    client = await strict.dial()
    answer = await client.call(api.SASL_AUTHENTICATE, {"auth_bytes": b"\0alice\0secret"})
    assert answer["error_code"] == ErrorCode.ILLEGAL_SASL_STATE
    with pytest.raises(Ended):
        await client.call(api.METADATA, {"topics": []})


async def test_a_frame_is_small_until_somebody_has_logged_in(tmp_path):
    async with kafka_here(tmp_path, anonymous_user="", login_size_max=1000) as broker:
        broker.add_user("alice")
        client = await broker.dial()
        await client.write(struct.pack(">i", 1001))
        await client.ends()
        client = await broker.log_in("alice")
        await client.call(api.METADATA, {"topics": [{"name": "x" * 2000}]})


async def test_whoever_does_not_log_in_is_the_anonymous_user(tmp_path):
    async with kafka_here(tmp_path, anonymous_user="carol") as broker:
        broker.add_user("carol", configure="^mine", read="^mine", write="^mine")
        client = await broker.dial()
        await client.create("mine")
        topics = [
            {"name": "yours", "num_partitions": 1, "replication_factor": 1, "assignments": [], "configs": []}
        ]
        (result,) = (await client.call(api.CREATE_TOPICS, {"topics": topics}))["topics"]
        assert result["error_code"] == ErrorCode.TOPIC_AUTHORIZATION_FAILED


async def test_somebody_else_may_log_in_where_nobody_must(kafka):
    kafka.add_user("alice", configure="")
    client = await kafka.log_in("alice")
    (found,) = (await client.call(api.METADATA, {"topics": [{"name": "t"}]}))["topics"]
    assert found["error_code"] == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


# ---- PLAIN ----


@pytest.mark.parametrize("token", [b"\0alice\0secret", b"alice\0alice\0secret"])
@pytest.mark.parametrize("version", range(3))
async def test_plain(strict, token, version):
    client = await strict.dial()
    await handshake(client, "PLAIN")
    assert await authenticate(client, token, version) == b""
    await check_served(client)
    assert strict.node.metrics.kafka_logins == 1


async def test_plain_without_headers(strict):
    client = await strict.dial()
    await handshake(client, "PLAIN", version=0)
    assert await raw(client, b"\0alice\0secret") == b""
    await check_served(client)


WRONG_PLAIN = [
    b"\0alice\0wrong",
    b"\0alice\0",
    b"\0nobody\0secret",
    b"\0\0",
    b"",
    b"alice",
    b"\0alice\0secret\0",
    b"bob\0alice\0secret",
    b"\0alice\0\xff\xfe",
]


@pytest.mark.parametrize("say", [authenticate, raw])
async def test_plain_with_anything_wrong(strict, say):
    for count, token in enumerate(WRONG_PLAIN, 1):
        client = await strict.dial()
        await handshake(client, "PLAIN", version=0 if say is raw else 1)
        with pytest.raises(Ended):
            await say(client, token)
        assert strict.node.metrics.kafka_logins_failed == count
        await check_refused(strict, client)


async def test_whoever_is_refused_is_told_a_moment_before_the_end(tmp_path):
    """Some clients do not look at what comes together with it."""
    async with kafka_here(tmp_path, anonymous_user="", refused_delay_s=1.0) as broker:
        client = await broker.dial()
        await handshake(client, "PLAIN")
        answer = await client.call(api.SASL_AUTHENTICATE, {"auth_bytes": b"\0alice\0wrong"})
        told_at = trio.current_time()
        assert answer["error_code"] == ErrorCode.SASL_AUTHENTICATION_FAILED
        await client.ends()
        assert trio.current_time() - told_at > 0.5


# ---- SCRAM ----


def exchange(known: ScramCredential, mechanism: str = "SCRAM-SHA-256") -> ScramExchange:
    return ScramExchange(mechanism, lambda name, mechanism: (None, known))


def test_the_client_of_these_tests_does_as_the_rfc_says():
    """The example of RFC 7677."""
    login = ScramClient("SCRAM-SHA-256", "user", "pencil", nonce="rOprNGfwEbeRWgbNEkqO")
    assert login.first() == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    challenge = f"r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096".encode()
    proof = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    assert login.last(challenge) == f"c=biws,r={nonce},p={proof}".encode()
    assert login.signature == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


@pytest.mark.parametrize("mechanism", SCRAM)
@pytest.mark.parametrize("gs2", ["n,,", "y,,", "n,a=alice,"])
async def test_scram(strict, mechanism, gs2):
    client = await strict.dial()
    await handshake(client, mechanism)
    await scrammed(client, ScramClient(mechanism, "alice", "secret", gs2=gs2))
    await check_served(client)
    assert strict.node.metrics.kafka_logins == 1


@pytest.mark.parametrize("mechanism", SCRAM)
async def test_scram_without_headers(strict, mechanism):
    client = await strict.dial()
    await handshake(client, mechanism, version=0)
    await scrammed(client, ScramClient(mechanism, "alice", "secret"), raw)
    await check_served(client)


@pytest.mark.parametrize("mechanism", SCRAM)
async def test_scram_for_a_name_and_a_password_of_any_characters(strict, mechanism):
    name, password = "a=,b=2C\u00fc", "p\u00e4ss,w=rd \u2603"
    strict.add_user(name, password)
    client = await strict.dial()
    await handshake(client, mechanism)
    await scrammed(client, ScramClient(mechanism, name, password))
    await check_served(client)


@pytest.mark.parametrize("say", [authenticate, raw])
@pytest.mark.parametrize("mechanism", SCRAM)
async def test_scram_with_a_wrong_name_or_password(strict, mechanism, say):
    for count, (name, password) in enumerate([("alice", "wrong"), ("nobody", "secret"), ("alice", "")], 1):
        client = await strict.dial()
        await handshake(client, mechanism, version=0 if say is raw else 1)
        login = ScramClient(mechanism, name, password)
        challenge = await say(client, login.first())
        with pytest.raises(Ended):
            await say(client, login.last(challenge))
        assert strict.node.metrics.kafka_logins_failed == count
        await check_refused(strict, client)


async def test_a_first_message_that_is_none(strict):
    for first in (
        b"",
        b"n,,",
        b"n,,n=alice",
        b"n,,r=nonce,n=alice",
        b"n,,n=alice,r=",
        b"n,,n=alice,r=with space",
        b"n,,n=al=ice,r=nonce",
        b"n,,n=al=2cice,r=nonce",
        b"n,,n=\xff,r=nonce",
        b"p=tls-unique,,n=alice,r=nonce",
        b"n,,m=must,n=alice,r=nonce",
        b"n,a=bob,n=alice,r=nonce",
        b"n,,n=alice,r=nonce,extension",
        b"n,,n=alice,r=" + b"n" * 5000,
    ):
        client = await strict.dial()
        await handshake(client, "SCRAM-SHA-256")
        with pytest.raises(Ended):
            await authenticate(client, first)
        await check_refused(strict, client)


def flipped(message: bytes) -> bytes:
    """With another proof of the same size."""
    head, _, proof = message.rpartition(b",p=")
    octets = bytearray(base64.b64decode(proof))
    octets[0] ^= 1
    return head + b",p=" + base64.b64encode(octets)


async def test_a_last_message_that_is_none(strict):
    login = ScramClient("SCRAM-SHA-256", "alice", "secret")
    for change in (
        lambda message: b"",
        flipped,
        lambda message: message.rpartition(b",p=")[0],
        lambda message: message.rpartition(b",p=")[0] + b",p=",
        lambda message: message[:-8] + b"AAAA" * 20,
        lambda message: message[:-4] + b"!!!!",
        lambda message: message.replace(b"c=biws", b"c=eSws"),
        lambda message: message.replace(b"r=", b"r=x"),
        lambda message: message + b"," * 5000,
    ):
        client = await strict.dial()
        await handshake(client, "SCRAM-SHA-256")
        challenge = await authenticate(client, login.first())
        with pytest.raises(Ended):
            await authenticate(client, change(login.last(challenge)))
        await check_refused(strict, client)


async def test_nothing_is_served_between_the_rounds(strict):
    client = await strict.dial()
    await handshake(client, "SCRAM-SHA-256")
    await authenticate(client, ScramClient("SCRAM-SHA-256", "alice", "secret").first())
    await check_refused(strict, client)


async def test_a_handshake_begins_anew(strict):
    client = await strict.dial()
    await handshake(client, "SCRAM-SHA-256")
    await authenticate(client, ScramClient("SCRAM-SHA-256", "alice", "secret").first())
    await handshake(client, "SCRAM-SHA-512")
    await scrammed(client, ScramClient("SCRAM-SHA-512", "alice", "secret"))
    await check_served(client)


async def test_a_proof_is_good_once(strict):
    """The broker's part of the nonce is another one each time."""
    client = await strict.dial()
    await handshake(client, "SCRAM-SHA-256")
    login = ScramClient("SCRAM-SHA-256", "alice", "secret")
    proof = login.last(await authenticate(client, login.first()))
    await authenticate(client, proof)
    other = await strict.dial()
    await handshake(other, "SCRAM-SHA-256")
    await authenticate(other, login.first())
    with pytest.raises(Ended):
        await authenticate(other, proof)


async def challenge_for(broker: KafkaHere, name: str, mechanism: str = "SCRAM-SHA-256") -> dict[str, str]:
    client = await broker.dial()
    await handshake(client, mechanism)
    said = (await authenticate(client, ScramClient(mechanism, name, "").first())).decode()
    return dict(part.split("=", 1) for part in said.split(","))


@pytest.mark.parametrize("mechanism", SCRAM)
async def test_nobody_learns_who_there_is(tmp_path, mechanism):
    """A name that nobody has gets a challenge that looks like others, and stays the same over a restart."""
    async with kafka_here(tmp_path, anonymous_user="") as broker:
        made = scram_credentials("secret")
        broker.node.accounts.put_user("alice", "", "", (), made)
        real = await challenge_for(broker, "alice", mechanism)
        unknown = await challenge_for(broker, "nobody", mechanism)
        assert unknown["i"] == real["i"]
        assert len(base64.b64decode(unknown["s"])) == len(base64.b64decode(real["s"]))
        assert (await challenge_for(broker, "nobody", mechanism))["s"] == unknown["s"]
        assert (await challenge_for(broker, "somebody", mechanism))["s"] != unknown["s"]
    async with kafka_here(tmp_path, anonymous_user="") as broker:
        assert (await challenge_for(broker, "alice", mechanism))["s"] == real["s"]
        assert (await challenge_for(broker, "nobody", mechanism))["s"] == unknown["s"]


async def test_a_hash_is_not_enough_for_scram(strict, caplog):
    strict.node.accounts.put_user("bob", quick_hash("secret"), HASHING_ALGORITHM, ())
    client = await strict.dial()
    await plain(client, b"\0bob\0secret")
    client = await strict.dial()
    await handshake(client, "SCRAM-SHA-512")
    with caplog.at_level(logging.WARNING), pytest.raises(Ended):
        await scrammed(client, ScramClient("SCRAM-SHA-512", "bob", "secret"))
    assert "user 'bob' cannot log in with SCRAM-SHA-512: the password is known only as a hash" in caplog.text


async def test_another_hash_takes_scram_away_and_the_same_does_not(strict):
    accounts = strict.node.accounts
    accounts.put_user("alice", quick_hash("secret"), HASHING_ALGORITHM, ("tag",))
    client = await strict.dial()
    await handshake(client, "SCRAM-SHA-256")
    await scrammed(client, ScramClient("SCRAM-SHA-256", "alice", "secret"))
    accounts.put_user("alice", quick_hash("other"), HASHING_ALGORITHM, ("tag",))
    client = await strict.dial()
    await handshake(client, "SCRAM-SHA-256")
    with pytest.raises(Ended):
        await scrammed(client, ScramClient("SCRAM-SHA-256", "alice", "secret"))


async def test_users_of_an_older_version_load(tmp_path):
    """Which had nothing for SCRAM in their definitions."""
    async with kafka_here(tmp_path) as broker:
        old = {"password_hash": quick_hash("secret"), "hashing_algorithm": HASHING_ALGORITHM, "tags": []}
        broker.node.flusher.change([Change(key(USER, "old"), old)])
        await broker.node.settled()
    async with kafka_here(tmp_path, anonymous_user="") as broker:
        client = await broker.dial()
        await plain(client, b"\0old\0secret")
        assert broker.node.accounts.user("old").scram == {}


def test_there_is_no_scram_with_an_empty_password():
    assert scram_credentials("") == {}


def test_no_password_proves_who_is_not_there():
    """Even if what the broker holds against it were known."""
    (known,) = [scram_credentials("secret", iterations=4096)["SCRAM-SHA-256"]]
    login = ScramClient("SCRAM-SHA-256", "nobody", "secret")
    server = exchange(known)
    with pytest.raises(ScramRefused, match="no such user"):
        server.last(login.last(server.first(login.first())))


def test_each_digest_has_a_mechanism():
    assert SCRAM_DIGESTS == DIGESTS


# ---- users of the configuration file ----


async def declare(kafka: KafkaHere, **user) -> None:
    permissions = (PermissionDeclaration("/"),)
    declared = UserDeclaration("carol", permissions=permissions, **user)
    default = UserDeclaration("guest")
    assert await apply(kafka.node, Declarations(default_user=default, users=(declared,))) == []


@pytest.mark.parametrize("mechanism", SCRAM)
async def test_a_declared_password_is_enough_for_scram(strict, mechanism):
    await declare(strict, password="secret")
    client = await strict.dial()
    await handshake(client, mechanism)
    await scrammed(client, ScramClient(mechanism, "carol", "secret"))


async def test_what_was_derived_stays_as_long_as_the_password_does(strict):
    users = strict.node.accounts.users
    await declare(strict, password="secret")
    first = users["carol"].scram
    await declare(strict, password="secret")
    assert users["carol"].scram is first
    await declare(strict, password="secret", tags=("tag",))
    assert users["carol"].scram is first
    await declare(strict, password="other")
    assert users["carol"].scram.keys() == first.keys()
    assert users["carol"].scram != first


async def test_a_user_of_an_older_version_gets_what_is_missing(strict):
    strict.node.accounts.put_user("carol", quick_hash("secret"), HASHING_ALGORITHM, ())
    await declare(strict, password="secret")
    carol = strict.node.accounts.user("carol")
    assert (carol.password_hash, carol.scram.keys()) == (quick_hash("secret"), set(SCRAM))


async def test_a_declared_hash_is_not_enough_for_scram(strict):
    users = strict.node.accounts.users
    await declare(strict, password_hash=quick_hash("secret"), hashing_algorithm=HASHING_ALGORITHM)
    assert users["carol"].scram == {}
    await declare(strict, password="secret")
    derived = users["carol"].scram
    known = {"password_hash": users["carol"].password_hash, "hashing_algorithm": HASHING_ALGORITHM}
    await declare(strict, **known)
    assert users["carol"].scram == derived
    await declare(strict, **known | {"password_hash": quick_hash("other")})
    assert users["carol"].scram == {}


# ---- who may come from where ----


@pytest.mark.parametrize("mechanism", ["PLAIN", *SCRAM])
async def test_a_loopback_user_only_comes_from_this_machine(tmp_path, mechanism, caplog):
    """As nobody here is from another one, a broker that takes this machine for another."""
    async with kafka_here(tmp_path, anonymous_user="", loopback_users=frozenset({"alice"})) as broker:
        broker.add_user("alice")
        broker.add_user("bob")
        for name in ("alice", "bob"):
            client = await broker.dial()
            await until(lambda: any(peer.user is None for peer in broker.node.peers))
            (connection,) = [peer for peer in broker.node.peers if peer.user is None]
            connection._peer = ("192.0.2.1", 1)
            await handshake(client, mechanism)
            login = ScramClient(mechanism, name, "secret") if mechanism in SCRAM else None

            async def log_in(client=client, login=login, name=name):
                if login is not None:
                    await scrammed(client, login)
                else:
                    await authenticate(client, f"\0{name}\0secret".encode())

            if name == "alice":
                with pytest.raises(Ended):
                    await log_in()
                assert "'alice' may only come from this machine" in caplog.text
            else:
                await log_in()
