"""One broker in a process of its own for all the clients here; each test has a queue of its own name."""

from __future__ import annotations

import re

import pytest

from ports import free_port
from process import BrokerProcess


@pytest.fixture(scope="session")
def broker(tmp_path_factory):
    with BrokerProcess(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture(scope="session")
def log_broker(tmp_path_factory):
    """One for all of Kafka's clients; topics are made when they are asked for, with three partitions."""
    config = "[kafka]\npartitions = 3\n"
    with BrokerProcess(tmp_path_factory.mktemp("log-broker"), config=config, kafka=True) as running:
        yield running
        assert "ERROR" not in running.log.read_text()


@pytest.fixture
def own_broker(tmp_path):
    """For tests that kill it or stop it. After `start` it has another port."""
    with BrokerProcess(tmp_path) as running:
        yield running


@pytest.fixture
def returning_broker(tmp_path):
    """One that has the same port after a restart."""
    with BrokerProcess(tmp_path, "--amqp", f"127.0.0.1:{free_port()}") as running:
        yield running


@pytest.fixture
def returning_log_broker(tmp_path):
    """The same for Kafka's clients."""
    with BrokerProcess(tmp_path, "--kafka", f"127.0.0.1:{free_port()}") as running:
        yield running


@pytest.fixture
def queue(request):
    """The name of a queue that only this test has, of characters that every client allows."""
    return re.sub(r"[^\w.]+", "-", f"{request.path.stem}.{request.node.name}")


@pytest.fixture
def topic(queue):
    """The name of a topic that only this test has; groups may have it too."""
    return queue
