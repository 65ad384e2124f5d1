"""A broker for each test of the AMQP server, in this process."""

import pytest

from broker_here import broker_here


@pytest.fixture
async def broker(tmp_path):
    async with broker_here(tmp_path) as here:
        yield here


@pytest.fixture
async def client(broker):
    return await broker.connect()


@pytest.fixture
async def channel(client):
    return await client.channel(1)
