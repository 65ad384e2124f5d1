"""The API of a broker of its own for each test."""

import pytest

from api_here import api_here


@pytest.fixture
async def api(tmp_path):
    async with api_here(tmp_path) as here:
        yield here
