"""What a plain start imports: timings decide no test, so a list of modules does."""

from __future__ import annotations

import re
import socket

import pytest

from process import ROOT, BrokerProcess

# With what needs it instead.
NOT_AT_START = {
    "typer": "help and errors of the command line",
    "rich": "typer's help",
    "asyncio": "only clients may run on it",
    "anyio": "the client",
    "leveret": "the client",
    "http.server": "management has h11",
    "logging.config": "logging is set up by hand",
    "cramjam": "compressed batches that must be opened",
    "concurrent": "asyncio",
    "broker.management.schema": "the first body of a request",
}
CHECKS = {
    "pydantic": "settings of a file or the environment, and bodies of requests",
    "broker.config.checking": "the same",
    "tomllib": "a file",
    "email": "pydantic",
    "importlib.metadata": "pydantic",
}
ENTRIES = "broker.config.entries"
# At the first start there is a password to hash.
NOT_LATER = {"argon2", "_cffi_backend"}


def imported(log: str) -> set[str]:
    """Names of modules, and of the packages that they are in."""
    names = re.findall(r"^import time: +\d+ \| +\d+ \| +(\S+)$", log, re.MULTILINE)
    return {*names, *(name.split(".")[0] for name in names)}


@pytest.mark.parametrize(
    "config", ["", (ROOT / "config" / "broker.toml").read_text()], ids=["none", "example"]
)
def test_a_plain_start_does_not_import(tmp_path, config):
    environment = {"PYTHONPROFILEIMPORTTIME": "1"}
    with BrokerProcess(
        tmp_path, kafka=True, management=True, config=config, environment=environment
    ) as broker:
        first = imported(load_management(broker))
        broker.stop()
        broker.log.write_text("")
        broker.start()
        second = imported(load_management(broker))
    needed = {"trio", "h11", "broker.cli.serve", "broker.management.api", "broker.server.kafka.server"}
    assert needed <= first & second
    unneeded = {*NOT_AT_START, *CHECKS} if not config else {*NOT_AT_START, ENTRIES}
    assert sorted(first & unneeded) == []
    assert sorted(second & {*unneeded, *NOT_LATER}) == []


def load_management(broker: BrokerProcess) -> str:
    """What the broker has written to stderr when it has answered over HTTP."""
    with socket.create_connection(broker.addresses["http"]) as client:
        client.sendall(b"GET /api/overview HTTP/1.0\r\n\r\n")
        assert client.recv(9) == b"HTTP/1.1 "
    return broker.log.read_text()
