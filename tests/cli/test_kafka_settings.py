"""What the configuration file says of Kafka's protocol reaches whoever needs it."""

from __future__ import annotations

import pytest

from broker.config.layers import kafka_options, node_options
from broker.config.reading import ConfigError, read_config


@pytest.fixture
def read(tmp_path):
    """The settings of a file whose table [kafka] has these lines."""

    def read(*lines):
        file = tmp_path / "broker.toml"
        file.write_text("\n".join(["[kafka]", *lines]))
        return read_config(file, {})

    return read


def test_limits_of_session_timeouts(read):
    limits = node_options(read()).groups.limits
    assert (limits.session_timeout_min_ms, limits.session_timeout_max_ms) == (6_000, 1_800_000)
    found = read("session_timeout_min_ms = 1000", "session_timeout_max_ms = 2000")
    limits = node_options(found).groups.limits
    assert (limits.session_timeout_min_ms, limits.session_timeout_max_ms) == (1_000, 2_000)


def test_limits_of_session_timeouts_that_leave_nothing_between_them(read):
    with pytest.raises(ConfigError, match=r"session_timeout_min_ms 11 is more than .* 10"):
        read("session_timeout_min_ms = 11", "session_timeout_max_ms = 10")
    read("session_timeout_min_ms = 10", "session_timeout_max_ms = 10")


def test_what_groups_may_take_in_memory(read):
    assert node_options(read()).groups.size_max == 256 * 2**20
    assert node_options(read('groups_memory = "1 MiB"')).groups.size_max == 2**20


def test_what_requests_may_take_in_memory(read):
    assert kafka_options(read()).requests_size_max == 256 * 2**20
    assert kafka_options(read('requests_memory = "1 MiB"')).requests_size_max == 2**20
    with pytest.raises(ConfigError, match="requests_memory"):
        read('requests_memory = "1023 KiB"')
