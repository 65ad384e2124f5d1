"""Logging in: with which mechanism, against our own broker and against others, and what ends it.

Why:    Where a password is salted, in a thread, there is no mock clock: it does not wait for threads.
"""

from __future__ import annotations

import anyio
import pytest

import leveret.log
from backends import on_both_backends, on_mock_clock
from broker.kafka import api
from broker.kafka.errors import ErrorCode
from broker.model.user import User
from broker.node.passwords import scram_credentials
from broker.server.kafka.scram import ScramExchange, ScramRefused
from fake_kafka import CUT, fake_kafka
from leveret.log import AuthenticationFailed, ConnectionFailed
from leveret.log.url import MECHANISMS

KNOWN = scram_credentials("secret", iterations=4096)


class Guarded:
    """A fake broker to which only `me` with the password `secret` may log in, with one of these mechanisms."""

    def __init__(self, fake, *mechanisms):
        self.mechanisms = list(mechanisms)
        self.asked = []
        """The mechanism of each handshake."""
        self.tokens = []
        self.spoil = lambda answer: answer
        """What is done to each answer of SCRAM."""
        self._exchange = None
        self._mechanism = ""
        fake.answers[api.SASL_HANDSHAKE] = self.handshake
        fake.answers[api.SASL_AUTHENTICATE] = self.authenticate

    def handshake(self, request):
        self._mechanism = request.body["mechanism"]
        self._exchange = None
        self.asked.append(self._mechanism)
        known = self._mechanism in self.mechanisms
        code = ErrorCode.NONE if known else ErrorCode.UNSUPPORTED_SASL_MECHANISM
        return {"error_code": code, "mechanisms": self.mechanisms}

    def authenticate(self, request):
        token = bytes(request.body["auth_bytes"])
        self.tokens.append(token)
        if self._mechanism == "PLAIN":
            return {} if token == b"\0me\0secret" else {"error_code": 58, "error_message": "no"}
        try:
            if self._exchange is None:
                self._exchange = ScramExchange(
                    self._mechanism, lambda name, mechanism: (User(name, "", "", ()), KNOWN[mechanism])
                )
                return {"auth_bytes": self.spoil(self._exchange.first(token))}
            return {"auth_bytes": self.spoil(self._exchange.last(token)[1])}
        except ScramRefused as refused:
            return {"error_code": 58, "error_message": str(refused)}


async def fails(log, kind, match):
    with pytest.raises(kind, match=match) as caught:
        await log.__aenter__()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- our own broker ----


@on_both_backends
async def test_the_right_password(log_url, topic):
    for option in ("", *[f"?mechanism={one}" for one in MECHANISMS]):
        async with (
            leveret.log.connect(log_url.replace("//", "//guest:guest@") + option) as log,
            log.producer() as producer,
        ):
            await producer.send(topic, b"x")


@on_both_backends
async def test_a_wrong_password(log_url):
    for option in ("", *[f"?mechanism={one}" for one in MECHANISMS]):
        log = leveret.log.connect(log_url.replace("//", "//guest:wr%6Fng@") + option)
        mechanism = option.rpartition("=")[2] or MECHANISMS[0]
        text = await fails(
            log,
            AuthenticationFailed,
            f"'guest' was refused with {mechanism}: authentication failed: no such user",
        )
        assert "wrong" not in text
        assert "wrong" not in repr(log.url)
        assert ("mechanism=PLAIN" in text) == (not option)


# ---- which mechanism ----


@pytest.mark.parametrize("mechanism", MECHANISMS)
@on_both_backends
async def test_one_that_the_broker_has(mechanism):
    async with fake_kafka() as fake:
        guarded = Guarded(fake, "GSSAPI", mechanism)
        async with fake.connect("kafka://me:secret@fake") as log, log.producer() as producer:
            await producer.send("t", b"x")
        # It is found out once, and on a connection of its own.
        others = [one for one in guarded.asked if one != mechanism]
        assert others == ([] if mechanism == MECHANISMS[0] else [MECHANISMS[0]])
        assert len(fake.dialled) == len(guarded.asked)


@on_both_backends
async def test_the_strongest_that_the_broker_has():
    async with fake_kafka() as fake:
        guarded = Guarded(fake, "PLAIN", "SCRAM-SHA-256")
        async with fake.connect("kafka://me:secret@fake"):
            pass
        assert guarded.asked == ["SCRAM-SHA-512", "SCRAM-SHA-256"]
        assert not any(b"secret" in token for token in guarded.tokens)


@on_both_backends
async def test_the_one_that_is_wanted_and_no_other():
    async with fake_kafka() as fake:
        guarded = Guarded(fake, *MECHANISMS)
        async with fake.connect("kafka://me:secret@fake?mechanism=SCRAM-SHA-256"):
            pass
        assert guarded.asked == ["SCRAM-SHA-256"]
        guarded.mechanisms = ["PLAIN", "SCRAM-SHA-512"]
        log = fake.connect("kafka://me:secret@fake?mechanism=SCRAM-SHA-256")
        await fails(log, AuthenticationFailed, "SCRAM-SHA-256 is not among .*PLAIN, SCRAM-SHA-512")
        assert guarded.asked[1:] == ["SCRAM-SHA-256"]


@on_both_backends
async def test_mechanisms_that_we_do_not_know():
    async with fake_kafka() as fake:
        guarded = Guarded(fake, "GSSAPI")
        await fails(fake.connect("kafka://me:x@fake"), AuthenticationFailed, r"mechanisms \(GSSAPI\) we take")
        guarded.mechanisms = []
        await fails(fake.connect("kafka://me:x@fake"), AuthenticationFailed, r"mechanisms \(none\) we take")


@on_both_backends
async def test_a_broker_that_refuses_what_it_names():
    async with fake_kafka() as fake:
        for mechanism, connections in (("SCRAM-SHA-512", 1), ("PLAIN", 2)):
            fake.dialled.clear()
            fake.answers[api.SASL_HANDSHAKE] = lambda _, mechanism=mechanism: {
                "error_code": ErrorCode.UNSUPPORTED_SASL_MECHANISM,
                "mechanisms": [mechanism],
            }
            await fails(fake.connect("kafka://me:x@fake"), AuthenticationFailed, "UNSUPPORTED_SASL_MECHANISM")
            assert len(fake.dialled) == connections


@on_both_backends
async def test_who_has_shown_that_he_knows_the_password_is_not_told_it_later():
    async with fake_kafka() as fake:
        guarded = Guarded(fake, *MECHANISMS)
        async with fake.connect("kafka://me:secret@fake") as log:
            await log.topics()
            guarded.mechanisms = ["PLAIN"]
            await fake.cut()
            with pytest.raises(
                AuthenticationFailed, match=r"\(PLAIN\) we take SCRAM-SHA-512 and SCRAM-SHA-256"
            ):
                await log.topics()
        assert not any(b"secret" in token for token in guarded.tokens)


# ---- what goes wrong ----


@on_both_backends
async def test_a_wrong_password_is_said_in_one_line():
    async with fake_kafka() as fake:
        Guarded(fake, "SCRAM-SHA-256")
        log = fake.connect("kafka://me:guess@fake")
        text = await fails(log, AuthenticationFailed, "'me' was refused with SCRAM-SHA-256: wrong password")
        assert text.endswith("wrong password")


@on_both_backends
async def test_a_broker_that_does_not_know_the_password():
    async with fake_kafka() as fake:
        guarded = Guarded(fake, "SCRAM-SHA-512")
        guarded.spoil = lambda answer: b"v=AAAA" if answer.startswith(b"v=") else answer
        await fails(
            fake.connect("kafka://me:secret@fake"), AuthenticationFailed, "has not shown that it knows"
        )
        guarded.spoil = lambda answer: b"" if answer.startswith(b"v=") else answer
        await fails(fake.connect("kafka://me:secret@fake"), AuthenticationFailed, "not one of SCRAM")


@on_both_backends
async def test_too_many_iterations_and_too_few():
    async with fake_kafka() as fake:
        guarded = Guarded(fake, "SCRAM-SHA-512")
        for number in (b"1000001", b"1"):
            guarded.tokens.clear()
            guarded.spoil = lambda answer, number=number: answer.replace(b"i=4096", b"i=" + number)
            await fails(
                fake.connect("kafka://me:secret@fake"), AuthenticationFailed, f"{number.decode()} iterat"
            )
            assert len(guarded.tokens) == 1


@on_both_backends
async def test_a_broker_that_hangs_up_on_a_login():
    async with fake_kafka() as fake:
        Guarded(fake, "PLAIN")
        fake.answers[api.SASL_AUTHENTICATE] = lambda _: CUT
        await fails(fake.connect("kafka://me:x@fake"), ConnectionFailed, "closed.*while 'me' logged in")


@on_both_backends
async def test_a_broker_that_goes_down_in_the_middle_of_a_login_does_not_end_a_producer():
    async with fake_kafka() as fake:
        guarded = Guarded(fake, "SCRAM-SHA-256")
        async with fake.connect("kafka://me:secret@fake") as log, log.producer() as producer:
            await producer.send("t", b"x")
            cut = []

            def authenticate(request):
                if len(cut) < 3:
                    cut.append(request)
                    return CUT
                return guarded.authenticate(request)

            fake.answers[api.SASL_AUTHENTICATE] = authenticate
            await fake.cut()
            await producer.send("t", b"y")
            assert len(cut) == 3
        assert fake.values("t") == [b"x", b"y"]


@on_mock_clock
async def test_a_password_that_is_refused_later_ends_a_producer():
    async with fake_kafka() as fake:
        Guarded(fake, "PLAIN")
        async with fake.connect("kafka://me:secret@fake") as log:
            producer = log.producer()
            await producer.__aenter__()
            await producer.send("t", b"x")
            fake.answers[api.SASL_AUTHENTICATE] = lambda _: {"error_code": 58, "error_message": "gone"}
            await fake.cut()
            with pytest.raises(leveret.log.ProducerFailed, match="'me' was refused with PLAIN: gone"):
                await producer.send("t", b"y")
            await producer.__aexit__(None, None, None)


@on_both_backends
async def test_a_login_that_is_cancelled():
    async with fake_kafka() as fake:
        guarded = Guarded(fake, "SCRAM-SHA-512")
        guarded.spoil = lambda answer: answer.replace(b"i=4096", b"i=1000000")
        with anyio.move_on_after(0.05) as scope:
            await fake.connect("kafka://me:secret@fake").__aenter__()
        assert scope.cancelled_caught
        assert fake.open_connections == 0
