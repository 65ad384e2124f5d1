"""Topics that are made, listed and deleted."""

from __future__ import annotations

import anyio
import pytest

import leveret.log
from backends import on_both_backends, on_mock_clock
from broker.kafka import api
from broker.kafka.errors import ErrorCode
from fake_kafka import CUT, fake_kafka
from leveret.log import BrokerError, ConnectionFailed, InvalidValue, Topic, TopicExists, UnknownTopic
from log_reading import read


@on_both_backends
async def test_a_topic_comes_and_goes(log_url, topic):
    async with leveret.log.connect(log_url) as log:
        made = await log.create_topic(topic, partitions=3, configs={"retention.ms": "1000000"})
        assert made == Topic(topic, 3, internal=False)
        assert made in await log.topics()
        with pytest.raises(TopicExists, match=f"topic '{topic}'") as caught:
            await log.create_topic(topic)
        assert caught.value.code == ErrorCode.TOPIC_ALREADY_EXISTS

        await log.delete_topic(topic)
        assert made not in await log.topics()
        with pytest.raises(UnknownTopic, match=topic):
            await log.delete_topic(topic)


@on_both_backends
async def test_a_topic_that_is_made_again_begins_anew(log_url, topic):
    """Also for who has used the one before."""
    async with leveret.log.connect(log_url) as log, log.producer() as producer:
        await log.create_topic(topic, partitions=3)
        assert (await producer.send(topic, b"x", partition=2)).offset == 0
        await log.delete_topic(topic)
        await log.create_topic(topic)
        assert (await producer.send(topic, b"y")).offset == 0
        assert [record.value for record in await read(log, topic, 1)] == [b"y"]


@on_both_backends
async def test_topics_are_listed_by_name_and_with_the_clusters_own(log_url, topic):
    async with leveret.log.connect(log_url) as log:
        for name in ("b", "a"):
            await log.create_topic(f"{topic}.{name}", partitions=2)
        async with log.consumer(f"{topic}.a", group=topic) as consumer:
            await consumer.commit()
        found = await log.topics()
        assert [one for one in found if one.name.startswith(topic)] == [
            Topic(f"{topic}.a", 2, internal=False),
            Topic(f"{topic}.b", 2, internal=False),
        ]
        assert any(one.internal for one in found)


@on_both_backends
async def test_what_no_topic_can_be(log_url, topic):
    async with leveret.log.connect(log_url) as log:
        for options in ({"partitions": 0}, {"replicas": 0}):
            with pytest.raises(InvalidValue, match="at least one"):
                await log.create_topic(topic, **options)
        with pytest.raises(BrokerError, match="INVALID_CONFIG"):
            await log.create_topic(topic, configs={"no.such": "thing"})
        with pytest.raises(BrokerError, match="INVALID_TOPIC"):
            await log.create_topic("no/topic")
        with pytest.raises(BrokerError, match="INVALID_REPLICATION_FACTOR"):
            await log.create_topic(topic, replicas=3)


@on_mock_clock
async def test_another_broker_is_the_one_to_ask():
    async with fake_kafka() as fake:
        codes = [ErrorCode.NOT_CONTROLLER] * 3

        def create(request):
            code = codes.pop() if codes else ErrorCode.NONE
            return {"topics": [{"name": "t", "error_code": code}]}

        fake.answers[api.CREATE_TOPICS] = create
        async with fake.connect() as log:
            assert (await log.create_topic("t")).name == "t"
            assert 0.1 < anyio.current_time() < 2
            codes = [ErrorCode.NOT_CONTROLLER] * 1000
            with pytest.raises(BrokerError, match="NOT_CONTROLLER"):
                await log.create_topic("t")
            assert 30 < anyio.current_time() < 35


@on_mock_clock
async def test_a_controller_that_is_away():
    async with fake_kafka() as fake:
        fake.answers[api.CREATE_TOPICS] = lambda _: CUT
        async with fake.connect() as log:
            with pytest.raises(
                ConnectionFailed, match=r"CreateTopics was not answered: .*closed the connection"
            ):
                await log.create_topic("t")
            # Now nobody is known to be it, and any broker is asked.
            fake.answers[api.CREATE_TOPICS] = lambda _: {"topics": [{"name": "t"}]}
            assert (await log.create_topic("t")).name == "t"
