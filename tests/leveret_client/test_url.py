import pytest

import leveret
from leveret import URL


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("amqp://", URL()),
        ("amqp://localhost", URL()),
        ("amqp://localhost/", URL()),
        ("amqp://localhost/%2F", URL()),
        ("amqp://localhost/%2f", URL()),
        ("amqp://broker:1234", URL(host="broker", port=1234)),
        ("amqp://:1234", URL(port=1234)),
        ("amqp://me:secret@broker/work", URL(host="broker", user="me", password="secret", vhost="work")),
        ("amqp://me@broker", URL(host="broker", user="me")),
        ("amqp://me:@broker", URL(host="broker", user="me", password="")),
        ("amqp://a%40b:p%3A%2F%25@broker", URL(host="broker", user="a@b", password="p:/%")),
        ("amqp://broker/a%2Fb", URL(host="broker", vhost="a/b")),
        ("amqp://broker/b%C3%BCro", URL(host="broker", vhost="büro")),
        ("amqp://[::1]:5673/v", URL(host="::1", port=5673, vhost="v")),
        ("amqp://127.0.0.1?heartbeat=30", URL(host="127.0.0.1", heartbeat=30)),
        ("amqp://127.0.0.1/?heartbeat=0", URL(host="127.0.0.1", heartbeat=0)),
        (
            "amqp://h/v?heartbeat=5&connection_timeout=1500&channel_max=7&frame_max=8192&name=a+b%26c",
            URL(
                host="h",
                vhost="v",
                heartbeat=5,
                connection_timeout=1500,
                channel_max=7,
                frame_max=8192,
                name="a b&c",
            ),
        ),
    ],
)
def test_parts(text, expected):
    assert URL.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("amqps://localhost", "does not speak TLS"),
        ("http://localhost", "begins with amqp://"),
        ("localhost:5672", "begins with amqp://"),
        ("amqp:localhost", "begins with amqp://"),
        ("", "begins with amqp://"),
        ("amqp://localhost:port", "not a broker's URL"),
        ("amqp://localhost:70000", "not a broker's URL"),
        ("amqp://localhost:0", "port 0"),
        ("amqp://[::1", "not a broker's URL"),
        ("amqp://localhost/a/b", "%2F"),
        ("amqp://localhost//", "%2F"),
        ("amqp://localhost/a#b", "fragment"),
        ("amqp://us%FFer@localhost", "the user is not UTF-8"),
        ("amqp://localhost/%FF", "the vhost is not UTF-8"),
        ("amqp://localhost?heartbeats=3", "no option 'heartbeats'"),
        ("amqp://localhost?heartbeat", "name=value"),
        ("amqp://localhost?heartbeat=", "from 0 to 65535"),
        ("amqp://localhost?heartbeat=-1", "from 0 to 65535"),
        ("amqp://localhost?heartbeat=1.5", "from 0 to 65535"),
        ("amqp://localhost?heartbeat=65536", "from 0 to 65535"),
        ("amqp://localhost?heartbeat=1&heartbeat=2", "twice"),
        ("amqp://localhost?frame_max=4095", "from 4096"),
        ("amqp://localhost?channel_max=0", "from 1 to 65535"),
        ("amqp://localhost?connection_timeout=0", "from 1"),
    ],
)
def test_what_is_wrong_is_said(text, reason):
    with pytest.raises(leveret.InvalidURL, match=reason):
        URL.parse(text)


def test_connect_refuses_a_wrong_url_at_once():
    with pytest.raises(ValueError, match="amqps"):
        leveret.connect("amqps://localhost")


@pytest.mark.parametrize(
    "url",
    [
        URL(),
        URL(host="::1", vhost="a/b", name="x y", heartbeat=0),
        URL(user="a@b", channel_max=5, frame_max=4096, connection_timeout=1),
    ],
)
def test_text_of_a_url_is_parsed_to_the_same(url):
    assert URL.parse(str(url)) == url


def test_the_password_is_not_shown():
    url = URL(password="secret")

    assert "secret" not in f"{url} {url!r}"
