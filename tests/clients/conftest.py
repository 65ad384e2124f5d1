"""One broker in a process of its own for all the clients here; each test has a queue of its own name."""

from __future__ import annotations

import re
import socket

import pytest

from process import BrokerProcess


@pytest.fixture(scope="session")
def broker(tmp_path_factory):
    with BrokerProcess(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture
def own_broker(tmp_path):
    """For tests that kill it or stop it. After `start` it has another port."""
    with BrokerProcess(tmp_path) as running:
        yield running


@pytest.fixture
def returning_broker(tmp_path):
    """One that has the same port after a restart, which the system has picked."""
    with socket.socket() as picked:
        picked.bind(("127.0.0.1", 0))
        port = picked.getsockname()[1]
    with BrokerProcess(tmp_path, "--amqp", f"127.0.0.1:{port}") as running:
        yield running


@pytest.fixture
def queue(request):
    """The name of a queue that only this test has, of characters that every client allows."""
    return re.sub(r"[^\w.]+", "-", f"{request.path.stem}.{request.node.name}")
