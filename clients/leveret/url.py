"""Where the broker is, who we are, and what the connection shall be like, in one text.

Shape:  amqp://user:password@host:port/vhost?heartbeat=30&name=worker
        each part may be left out; user, password and vhost are percent-encoded where they need it
Spec:   RabbitMQ's URI specification and its query parameters: `heartbeat` in seconds (0: none),
        `connection_timeout` in milliseconds, `channel_max`, `frame_max`; and `name`, which the broker
        shows. A path of "/" alone is the vhost "/", as other Python clients read it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Final, Self
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from broker.amqp.spec import FRAME_SIZE_MIN
from leveret.errors import InvalidURL

_PORT: Final = 5672
# Option to its lowest and highest value.
_NUMBERS: Final = {
    "heartbeat": (0, 65_535),
    "connection_timeout": (1, 1 << 31),
    "channel_max": (1, 65_535),
    "frame_max": (FRAME_SIZE_MIN, (1 << 32) - 1),
}
_OPTIONS: Final = (*_NUMBERS, "name")


@dataclass(slots=True, frozen=True, kw_only=True)
class URL:
    """The parts of a broker's URL; what is not given has the value that is usual."""

    host: str = "localhost"
    port: int = _PORT
    user: str = "guest"
    password: str = field(default="guest", repr=False)
    vhost: str = "/"
    heartbeat: int | None = None
    """Seconds; None takes what the broker suggests, 0 is none."""
    connection_timeout: int = 10_000
    """Milliseconds for connecting and the handshake together."""
    channel_max: int = 2047
    frame_max: int = 131_072
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidURL, which says what is wrong and never shows the password."""
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise InvalidURL(f"not a broker's URL: {error}") from None
        if parts.scheme == "amqps":
            raise InvalidURL("amqps is not supported yet: this client does not speak TLS")
        if parts.scheme != "amqp" or not text.startswith("amqp://"):
            raise InvalidURL("a broker's URL begins with amqp://")
        if parts.fragment:
            raise InvalidURL("a broker's URL has no fragment; write # as %23")
        found: dict[str, str | int] = {}
        if host:
            found["host"] = _decoded("host", host)
        if port is not None:
            if not port:
                raise InvalidURL("port 0 is not one to connect to")
            found["port"] = port
        if parts.username is not None:
            found["user"] = _decoded("user", parts.username)
        if parts.password is not None:
            found["password"] = _decoded("password", parts.password)
        path = parts.path.removeprefix("/")
        if "/" in path:
            raise InvalidURL(f"the vhost is one part of the path: write / in it as %2F, not {parts.path!r}")
        if path:
            found["vhost"] = _decoded("vhost", path)
        return cls(**found, **_options(parts.query))  # type: ignore[arg-type]

    def __str__(self) -> str:
        """As it is parsed, without the password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        shown = [
            f"{option.name}={quote(str(getattr(self, option.name)), safe='')}"
            for option in fields(self)
            if option.name in _OPTIONS and getattr(self, option.name) != option.default
        ]
        query = f"?{'&'.join(shown)}" if shown else ""
        return f"amqp://{quote(self.user, safe='')}@{host}:{self.port}/{quote(self.vhost, safe='')}{query}"


def _decoded(what: str, octets: str) -> str:
    try:
        return unquote(octets, errors="strict")
    except UnicodeDecodeError:
        raise InvalidURL(f"the {what} is not UTF-8 when it is decoded") from None


def _options(query: str) -> dict[str, str | int]:
    try:
        pairs = (
            parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict") if query else []
        )
    except ValueError:
        raise InvalidURL(f"options are written as name=value with & between them, not {query!r}") from None
    found: dict[str, str | int] = {}
    for name, value in pairs:
        if name not in _OPTIONS:
            raise InvalidURL(f"there is no option {name!r}; the options are {', '.join(_OPTIONS)}")
        if name in found:
            raise InvalidURL(f"the option {name} is there twice")
        found[name] = _number(name, value) if name in _NUMBERS else value
    return found


def _number(name: str, text: str) -> int:
    lowest, highest = _NUMBERS[name]
    if not (text.isascii() and text.isdigit() and lowest <= int(text) <= highest):
        raise InvalidURL(f"the option {name} is a number from {lowest} to {highest}, not {text!r}")
    return int(text)
