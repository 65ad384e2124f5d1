"""One broker for all the tests here that need a real one; each has a queue of its own name."""

import pytest

from process import BrokerProcess


@pytest.fixture(scope="session")
def broker(tmp_path_factory):
    with BrokerProcess(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture
def url(broker):
    return broker.url


@pytest.fixture
def queue(request):
    """The name of a queue that only this test has."""
    return f"{request.path.stem}.{request.node.name}"
