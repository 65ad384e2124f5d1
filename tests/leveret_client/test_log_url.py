import pytest

from leveret.log import URL, Address, InvalidURL

HERE = (Address("localhost", 9092),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kafka://", URL()),
        ("kafka:///", URL()),
        ("kafka://localhost", URL(addresses=HERE)),
        ("kafka://a:1", URL(addresses=(Address("a", 1),))),
        ("kafka://a:1,b,c:3/", URL(addresses=(Address("a", 1), Address("b", 9092), Address("c", 3)))),
        ("kafka://[::1]:5,[fe80::1]", URL(addresses=(Address("::1", 5), Address("fe80::1", 9092)))),
        ("kafka://me:secret@a", URL(addresses=(Address("a", 9092),), user="me", password="secret")),
        ("kafka://me@a:1", URL(addresses=(Address("a", 1),), user="me")),
        ("kafka://a%40b:p%3A%2F%25@", URL(user="a@b", password="p:/%")),
        ("kafka://me:a:b@", URL(user="me", password="a:b")),
        (
            "kafka://?name=a+b%26c&connection_timeout=1500&request_timeout=7&create_topics=false",
            URL(name="a b&c", connection_timeout=1500, request_timeout=7, create_topics=False),
        ),
        ("kafka://?create_topics=true", URL()),
        ("kafka://me@?mechanism=SCRAM-SHA-256", URL(user="me", mechanism="SCRAM-SHA-256")),
    ],
)
def test_parts(text, expected):
    assert URL.parse(text) == expected
    assert URL.parse(str(expected)).addresses == expected.addresses


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "begins with kafka://"),
        ("kafka:localhost", "begins with kafka://"),
        ("amqp://localhost", "begins with kafka://"),
        ("kafkas://localhost", "no TLS"),
        ("kafka://[::1", "not the URL"),
        ("kafka://a/topic", "has no path"),
        ("kafka://a#b", "no fragment"),
        ("kafka://:secret@a", "no user"),
        ("kafka://a:", "'a:' is no host with a port"),
        ("kafka://a:0", "'a:0' is no host with a port"),
        ("kafka://a:65536", "'a:65536' is no host with a port"),
        ("kafka://a:x", "'a:x' is no host with a port"),
        ("kafka://a,,b", "'' is no host with a port"),
        ("kafka://a:1:2", "'a:1:2' is no host with a port"),
        ("kafka://%FF@a", "the user is not UTF-8"),
        ("kafka://me:%FF@a", "the password is not UTF-8"),
        ("kafka://a?heartbeat=3", "no option 'heartbeat'"),
        ("kafka://a?name", "name=value"),
        ("kafka://a?name=a&name=b", "twice"),
        ("kafka://a?request_timeout=0", "a number from 1"),
        ("kafka://a?request_timeout=1s", "a number from 1"),
        ("kafka://a?create_topics=yes", "true or false"),
        ("kafka://me@a?mechanism=GSSAPI", "one of SCRAM-SHA-512, SCRAM-SHA-256, PLAIN"),
        ("kafka://me@a?mechanism=", "one of SCRAM"),
        ("kafka://a?mechanism=PLAIN", "no user"),
    ],
)
def test_mistakes(text, problem):
    with pytest.raises(InvalidURL, match=problem) as caught:
        URL.parse(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "kafka://localhost:9092",
        "kafka://a:1,[::1]:2",
        "kafka://a%40b@a:1?name=a%20b&request_timeout=5&create_topics=false",
        "kafka://me@a:1?mechanism=PLAIN",
    ],
)
def test_as_a_text(text):
    parsed = URL.parse(text)
    assert URL.parse(str(parsed)) == parsed
    assert str(parsed) == text


def test_the_password_is_not_shown():
    url = URL.parse("kafka://me:secret@a")
    assert "secret" not in str(url)
    assert "secret" not in repr(url)
    assert str(url) == "kafka://me@a:9092"
