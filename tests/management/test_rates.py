"""Rates: the difference between two samples, and no memory of what has gone."""

from __future__ import annotations

import trio

from broker.kafka import records
from broker.management.held import lengths
from broker.management.rates import INTERVAL_S, Rates, Samples, partition_counts, queue_counts, topic_counts
from topic_records import append_octets, record


async def test_a_rate_is_the_difference_between_two_samples():
    samples = Samples(("publish", "ack"))
    await samples.take([("q", (10, 0))], 0.0)
    assert samples.details("q", (10, 0)) == {
        "publish": 10,
        "publish_details": {"rate": 0.0},
        "ack": 0,
        "ack_details": {"rate": 0.0},
    }
    await samples.take([("q", (35, 5))], 5.0)
    found = samples.details("q", (40, 5))
    assert (found["publish"], found["publish_details"]) == (40, {"rate": 5.0})
    assert found["ack_details"] == {"rate": 1.0}
    await samples.take([("q", (35, 5))], 5.0)
    assert samples.details("q", (35, 5))["publish_details"] == {"rate": 0.0}


async def test_who_is_new_began_with_nothing():
    samples = Samples(("publish",))
    await samples.take([], 0.0)
    await samples.take([("q", (50,))], 5.0)
    assert samples.details("q", (50,))["publish_details"] == {"rate": 10.0}


async def test_a_length_may_fall_and_a_counter_may_not():
    gauge, counter = Samples(("length",)), Samples(("count",), rising=True)
    for samples in (gauge, counter):
        await samples.take([("q", (50,))], 0.0)
        await samples.take([("q", (40,))], 5.0)
    assert gauge.details("q", (40,))["length_details"] == {"rate": -2.0}
    assert counter.details("q", (40,))["count_details"] == {"rate": 8.0}


async def test_only_what_counts_and_is_there_is_remembered():
    samples = Samples(("publish",))
    await samples.take([(number, (number % 2,)) for number in range(1000)], 0.0)
    assert len(samples) == 500
    await samples.take([(1, (1,))], 5.0)
    assert len(samples) == 1


async def test_the_broker_is_sampled_every_five_seconds(api, autojump_clock):
    node = api.node
    rates = Rates(node)
    vhost = node.topology.vhost("/")
    queue, _ = node.topology.declare_queue(vhost, "q", durable=False)
    queue.counters.published = 100
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rates.run)
        await trio.sleep(INTERVAL_S / 2)
        queue.counters.published = 150
        node.metrics.messages_received = 20
        vhost.exchanges["amq.topic"].messages_in = 10
        await trio.sleep(INTERVAL_S)
        published = rates.queues.details(queue, queue_counts(queue))["publish_details"]
        received = rates.node.details("", (20,) + (0,) * 11)["publish_details"]
        routed = rates.exchanges.details(vhost.exchanges["amq.topic"], (10, 0))["publish_in_details"]
        empty = rates.totals.details("", lengths(node.topology.queues()))
        nursery.cancel_scope.cancel()
    assert published == {"rate": 10.0}
    assert received == {"rate": 4.0}
    assert routed == {"rate": 2.0}
    assert empty["messages_details"] == {"rate": 0.0}


async def test_rates_of_topics_are_those_of_their_partitions(api, mock_clock):
    node = api.node
    topic = node.topics.create("/", "t", 2)
    first, second = topic.partitions
    rates = Rates(node)
    await rates.sample()
    append_octets(first, records.build([record(b"x")] * 30))
    append_octets(second, records.build([record(b"y")]))
    await node.settled()
    first.traffic.octets_out = 500
    mock_clock.jump(5)
    await rates.sample()
    counts = (await topic_counts([topic]))[topic]
    assert counts == (31, first.size + second.size, 500, 0)
    found = rates.topics.details(topic, counts)
    assert (found["records_in"], found["records_in_details"]) == (31, {"rate": 6.2})
    assert found["octets_in_details"] == {"rate": round((first.size + second.size) / 5, 3)}
    assert found["octets_out_details"] == {"rate": 100.0}
    found = rates.partitions.details(second, partition_counts(second))
    assert found["records_in_details"] == {"rate": 0.2}
    length = rates.lengths.details(topic, (31, 31, 0))
    assert (length["messages_details"], length["messages_unacknowledged_details"]) == (
        {"rate": 6.2},
        {"rate": 0.0},
    )
    assert rates.totals.details("/", (31, 31, 0))["messages_ready_details"] == {"rate": 6.2}
    node.topics.delete(topic)
    mock_clock.jump(5)
    await rates.sample()
    assert len(rates.topics) == len(rates.partitions) == 0
    assert rates.totals.details("", (0, 0, 0))["messages_details"] == {"rate": -6.2}
