"""One broker for all the tests here that need a real one; each has a queue or a topic of its own name."""

import re

import pytest

from process import BrokerProcess


@pytest.fixture(scope="session")
def broker(tmp_path_factory):
    with BrokerProcess(tmp_path_factory.mktemp("broker"), kafka=True) as running:
        yield running


@pytest.fixture
def url(broker):
    return broker.url


@pytest.fixture
def log_url(broker):
    return f"kafka://{broker.bootstrap}"


@pytest.fixture
def queue(request):
    """The name of a queue that only this test has."""
    return f"{request.path.stem}.{request.node.name}"


@pytest.fixture
def topic(request):
    """The name of a topic that only this test has."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", f"{request.path.stem}.{request.node.name}")
