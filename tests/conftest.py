"""What all tests have in common.

Flow:   Hypothesis draws the same examples in each run; `make hunt` draws others (hunt.py). Both can be
        repeated by the seed, as neither depends on a database or on what happens to be imported.
Limits: pyproject.toml has that of a test. A property gets `PROPERTY_S`: it is many tests, and shrinks what
        it finds.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

PROPERTY_S = 3600

_ALWAYS = {
    "deadline": None,
    "database": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow],  # that the machine is
}
settings.register_profile("steady", derandomize=True, **_ALWAYS)
settings.register_profile("hunt", **_ALWAYS)
settings.load_profile("steady")

# Hypothesis would also draw constants from the source of what is imported by then: others for one file than for
# the whole suite, and others after each change of the broker. It has no setting for that.
providers._get_local_constants = lambda: providers._local_constants


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("hypothesis"):
            item.add_marker(pytest.mark.timeout(PROPERTY_S))
