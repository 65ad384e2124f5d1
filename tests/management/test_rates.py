"""Rates: the difference between two samples, and no memory of what has gone."""

from __future__ import annotations

import trio

from broker.management.rates import INTERVAL_S, Rates, Samples, lengths, queue_counts


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
