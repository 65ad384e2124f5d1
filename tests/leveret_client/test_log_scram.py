"""The client's side of SCRAM: against the example of its specification, our own broker's side, and a liar."""

from __future__ import annotations

import base64

import pytest

from broker.model.user import User
from broker.node.passwords import scram_credentials
from broker.server.kafka.scram import ScramExchange, ScramRefused
from leveret.log.scram import DIGESTS, ITERATIONS_MAX, ITERATIONS_MIN, Salting, Scram, ScramProblem, salted

# That of RFC 7677.
EXAMPLE = (
    b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
    b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
    b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
)
NONCE = "rOprNGfwEbeRWgbNEkqO"


def challenged():
    login = Scram("SCRAM-SHA-256", "user", nonce=NONCE)
    assert login.first() == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    salting = login.challenged(EXAMPLE[0])
    assert login.last(salted("pencil", salting)) == EXAMPLE[1]
    return login


def test_the_example_of_the_specification():
    challenged().check(EXAMPLE[2])


@pytest.mark.parametrize("mechanism", DIGESTS)
@pytest.mark.parametrize(
    ("name", "password"), [("alice", "secret"), ("a=b,c=2C", "x=,y"), ("Zoë", "pässwörd ☃"), ("=", "\u00a0")]
)
def test_with_our_own_broker(mechanism, name, password):
    users = {name: scram_credentials(password)[mechanism]}
    server = ScramExchange(mechanism, lambda who, _: (User(who, "", "", ()), users[who]))
    client = Scram(mechanism, name)
    salting = client.challenged(server.first(client.first()))
    user, proof = server.last(client.last(salted(password, salting)))
    assert user.name == name
    client.check(proof)


@pytest.mark.parametrize("mechanism", DIGESTS)
def test_a_wrong_password_is_refused_by_our_own_broker(mechanism):
    known = scram_credentials("secret")[mechanism]
    server = ScramExchange(mechanism, lambda who, _: (User(who, "", "", ()), known))
    client = Scram(mechanism, "alice")
    salting = client.challenged(server.first(client.first()))
    with pytest.raises(ScramRefused):
        server.last(client.last(salted("guess", salting)))


def test_every_login_has_a_nonce_of_its_own():
    assert len({Scram("SCRAM-SHA-256", "user").first() for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("challenge", "problem"),
    [
        (b"", "not one of SCRAM"),
        (b"\xff", "not one of SCRAM"),
        (EXAMPLE[0] + b",x=" + 4096 * b"y", "not one of SCRAM"),
        (b"m=new," + EXAMPLE[0], "not one of SCRAM"),
        (f"r={NONCE}2,s=,i=4096".encode(), "not one of SCRAM"),
        (f"r={NONCE}2,s=AAAA,i=x".encode(), "not one of SCRAM"),
        (f"r={NONCE}2,s=AAAA,i=0".encode(), "not one of SCRAM"),
        (f"r={NONCE}2,s=AAAA,i={10**4000}".encode(), "not one of SCRAM"),
        (f"r={NONCE}2,s=A*AA,i=4096".encode(), "not base64"),
        (f"r={NONCE}2,s=AAA,i=4096".encode(), "not base64"),
        (f"r={NONCE},s=AAAA,i=4096".encode(), "not for this login"),
        (f"r=another{NONCE}2,s=AAAA,i=4096".encode(), "not for this login"),
        (f"r={NONCE}2,s=AAAA,i={ITERATIONS_MIN - 1}".encode(), "4095 iterations; 4096 to 1000000 are done"),
        (f"r={NONCE}2,s=AAAA,i={ITERATIONS_MAX + 1}".encode(), "1000001 iterations"),
        (f"r={NONCE}2,s=AAAA,i=9999999999".encode(), "9999999999 iterations"),
    ],
)
def test_a_challenge_that_is_none(challenge, problem):
    with pytest.raises(ScramProblem, match=problem):
        Scram("SCRAM-SHA-256", "user", nonce=NONCE).challenged(challenge)


@pytest.mark.parametrize("iterations", [ITERATIONS_MIN, ITERATIONS_MAX])
def test_what_may_be_asked_for_and_what_may_come_behind_it(iterations):
    login = Scram("SCRAM-SHA-256", "user", nonce=NONCE)
    found = login.challenged(f"r={NONCE}2,s=AAAA,i={iterations},x=y".encode())
    assert found == Salting("sha256", b"\0\0\0", iterations)


@pytest.mark.parametrize(
    ("end", "problem"),
    [
        (b"", "not one of SCRAM"),
        (b"v=", "not one of SCRAM"),
        (b"v=A*AA", "not base64"),
        (b"v=AAAA", "has not shown that it knows the password"),
        (b"v=" + base64.b64encode(bytes(32)), "has not shown that it knows the password"),
        (b"e=invalid-proof", "invalid-proof"),
        (b"e=" + 101 * b"x", "not one of SCRAM"),
    ],
)
def test_a_broker_that_does_not_know_the_password(end, problem):
    with pytest.raises(ScramProblem, match=problem):
        challenged().check(end)


def test_a_signature_before_there_is_a_proof():
    with pytest.raises(ScramProblem, match="has not shown"):
        Scram("SCRAM-SHA-256", "user").check(EXAMPLE[2])
