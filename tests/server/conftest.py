"""A broker for each test of the servers, in this process."""

import pytest

from broker_here import broker_here
from kafka_here import kafka_here


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


@pytest.fixture
async def kafka(tmp_path):
    async with kafka_here(tmp_path) as here:
        yield here


@pytest.fixture
async def wire(kafka):
    """A client of Kafka's protocol, who is guest."""
    return await kafka.dial()
