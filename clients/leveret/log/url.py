"""Where the brokers are, who we are, and what is to be waited for, in one text.

Shape:  kafka://user:password@host:port,host:port?name=billing&request_timeout=30000
        each part may be left out; several hosts are several ways into the same cluster. Without a user there
        is no login. User and password are percent-encoded where they need it.
Limits: `connection_timeout` and `request_timeout` are milliseconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Final, NamedTuple, Self
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from leveret.errors import InvalidURL

PORT: Final = 9092
# Option to its lowest and highest value.
_NUMBERS: Final = {"connection_timeout": (1, 1 << 31), "request_timeout": (1, 1 << 31)}
_TRUTHS: Final = {"true": True, "false": False}
PLAIN: Final = "PLAIN"
MECHANISMS: Final = ("SCRAM-SHA-512", "SCRAM-SHA-256", PLAIN)
"""How one can log in, the strongest first."""
_OPTIONS: Final = (*_NUMBERS, "create_topics", "mechanism", "name")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@/]+)(?::([0-9]{1,5}))?")


class Address(NamedTuple):
    """Where a broker listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(slots=True, frozen=True, kw_only=True)
class URL:
    """The parts of the URL of a log; what is not given has the value that is usual."""

    addresses: tuple[Address, ...] = (Address("localhost", PORT),)
    """Where to begin; the brokers there name the others."""
    user: str = ""
    password: str = field(default="", repr=False)
    mechanism: str = ""
    """With which to log in; without one, the strongest that the broker has."""
    name: str = "leveret"
    """What the brokers show of us: Kafka's client id."""
    connection_timeout: int = 10_000
    """For connecting and logging in."""
    request_timeout: int = 30_000
    """For one request; and for how long asking again is of use."""
    create_topics: bool = True
    """A topic that is asked for and missing is made, if the broker does so."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidURL, which says what is wrong and never shows the password."""
        try:
            parts = urlsplit(text)
        except ValueError as error:
            raise InvalidURL(f"not the URL of a log: {error}") from None
        if parts.scheme != "kafka" or not text.startswith("kafka://"):
            raise InvalidURL("the URL of a log begins with kafka://; there is no TLS yet")
        if parts.fragment:
            raise InvalidURL("the URL of a log has no fragment; write # as %23")
        if parts.path not in ("", "/"):
            raise InvalidURL(f"the URL of a log has no path, and not {parts.path!r}")
        login, _, hosts = parts.netloc.rpartition("@")
        found: dict[str, object] = {}
        if login:
            user, _, password = login.partition(":")
            found |= {"user": _decoded("user", user), "password": _decoded("password", password)}
            if not user:
                raise InvalidURL("there is a password, and no user that it is of")
        if hosts:
            found["addresses"] = tuple(map(_address, hosts.split(",")))
        options = _options(parts.query)
        if "mechanism" in options and not login:
            raise InvalidURL("there is a mechanism to log in with, and no user")
        return cls(**found, **options)  # type: ignore[arg-type]

    def __str__(self) -> str:
        """As it is parsed, without the password."""
        login = f"{quote(self.user, safe='')}@" if self.user else ""
        shown = [
            f"{option.name}={quote(str(getattr(self, option.name)).lower(), safe='')}"
            if option.name == "create_topics"
            else f"{option.name}={quote(str(getattr(self, option.name)), safe='')}"
            for option in fields(self)
            if option.name in _OPTIONS and getattr(self, option.name) != option.default
        ]
        query = f"?{'&'.join(shown)}" if shown else ""
        return f"kafka://{login}{self.hosts}{query}"

    @property
    def hosts(self) -> str:
        return ",".join(map(str, self.addresses))

    @property
    def connection_s(self) -> float:
        return self.connection_timeout / 1000

    @property
    def request_s(self) -> float:
        return self.request_timeout / 1000


def _address(text: str) -> Address:
    found = _HOST.fullmatch(text)
    port = PORT if found is None or found[2] is None else int(found[2])
    if found is None or not 0 < port < 65_536:
        raise InvalidURL(f"{text!r} is no host with a port; several stand with commas between them")
    return Address(_decoded("host", found[1].strip("[]")), port)


def _decoded(what: str, octets: str) -> str:
    try:
        return unquote(octets, errors="strict")
    except UnicodeDecodeError:
        raise InvalidURL(f"the {what} is not UTF-8 when it is decoded") from None


def _options(query: str) -> dict[str, object]:
    try:
        pairs = (
            parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict") if query else []
        )
    except ValueError:
        raise InvalidURL(f"options are written as name=value with & between them, not {query!r}") from None
    found: dict[str, object] = {}
    for name, value in pairs:
        if name not in _OPTIONS:
            raise InvalidURL(f"there is no option {name!r}; the options are {', '.join(_OPTIONS)}")
        if name in found:
            raise InvalidURL(f"the option {name} is there twice")
        found[name] = _option(name, value)
    return found


def _option(name: str, text: str) -> object:
    if name == "name":
        return text
    if name == "mechanism":
        if text not in MECHANISMS:
            raise InvalidURL(f"the option {name} is one of {', '.join(MECHANISMS)}, not {text!r}")
        return text
    if name == "create_topics":
        if text not in _TRUTHS:
            raise InvalidURL(f"the option {name} is true or false, not {text!r}")
        return _TRUTHS[text]
    lowest, highest = _NUMBERS[name]
    if not (text.isascii() and text.isdigit() and lowest <= int(text) <= highest):
        raise InvalidURL(f"the option {name} is a number from {lowest} to {highest}, not {text!r}")
    return int(text)
