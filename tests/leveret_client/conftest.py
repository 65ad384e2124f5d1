"""One broker for all the tests here that need a real one; each has a queue or a topic of its own name."""

import re

import pytest

from process import BrokerProcess


@pytest.fixture(scope="session")
def broker(tmp_path_factory):
    config = "[kafka]\nsession_timeout_min_ms = 100\n"
    with BrokerProcess(tmp_path_factory.mktemp("broker"), config=config, kafka=True) as running:
        yield running


@pytest.fixture
def url(broker):
    return broker.url


@pytest.fixture
def log_url(broker):
    return f"kafka://{broker.bootstrap}"


@pytest.fixture
def is_gone(broker):
    """Whether a member of this group has left, or was lost, for this reason."""

    def said(group, reason):
        return re.search(rf"group {re.escape(group)}: member \S+ is gone: {reason}\n", broker.log.read_text())

    return said


@pytest.fixture
def queue(request):
    """The name of a queue that only this test has."""
    return f"{request.path.stem}.{request.node.name}"


@pytest.fixture
def topic(request):
    """The name of a topic that only this test has."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", f"{request.path.stem}.{request.node.name}")
