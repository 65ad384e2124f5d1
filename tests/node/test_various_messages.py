"""Messages of one pass with different routing keys and time limits: queues get them as one run."""

from __future__ import annotations

from broker.amqp import content
from broker.amqp.envelope import PublishRun, envelope_of
from broker.amqp.properties import Properties, encode, facts_of
from broker.model.exchange import QUEUE, Destination
from broker.model.message import envelopes_of
from broker.model.queue import Queue
from stepped_node import SteppedNode, bodies_of

FRAME_MAX = 131_072


def run_of(key: str, *bodies: bytes, expiration: str | None = None, persistent: bool = True) -> PublishRun:
    raw = encode(Properties(delivery_mode=2 if persistent else 1, expiration=expiration))
    envelope = envelope_of(1, FRAME_MAX, "amq.topic", key, facts_of(raw))
    return PublishRun(envelope, [content.build(1, raw, body, FRAME_MAX) for body in bodies], None)


def bound(node: SteppedNode, name: str, pattern: str) -> Queue:
    queue = node.declare(name, durable=True)
    node.node.topology.bind(node.vhost, "amq.topic", Destination(QUEUE, name), pattern, {})
    return queue


def keys_and_bodies(queue: Queue) -> list[tuple[str, bytes]]:
    found = []
    for piece in queue.take(1000):
        keys = [envelope.routing_key for envelope in envelopes_of([piece])]
        found += zip(keys, bodies_of(piece.contents), strict=True)
    return found


RUNS = [("a.1", b"0"), ("b.1", b"1"), ("a.2", b"2"), ("a.2", b"3"), ("b.1", b"4"), ("a.1", b"5")]


def publish_all(node: SteppedNode) -> None:
    node.node.publish(node.vhost, [run_of(key, body) for key, body in RUNS])
    node.node.publish(node.vhost, [run_of("a.3", b"6"), run_of("a.1", b"7", persistent=False)])


def test_a_queue_gets_what_one_pass_brings_as_one_run_for_each_kind_of_properties() -> None:
    node = SteppedNode()
    everything, some = bound(node, "all", "#"), bound(node, "some", "a.*")
    publish_all(node)
    assert everything.ready_count < len(RUNS) + 2
    node.node.take_in()
    assert len(everything._resident) == len(some._resident) == 2
    expected = [*RUNS, ("a.3", b"6"), ("a.1", b"7")]
    assert keys_and_bodies(everything) == expected
    assert keys_and_bodies(some) == [(key, body) for key, body in expected if key.startswith("a")]


def test_routing_keys_survive_a_restart() -> None:
    node = SteppedNode()
    bound(node, "all", "#")
    bound(node, "some", "a.*")
    publish_all(node)
    node.end_pass()
    node.finish()
    again = node.close()
    expected = [*RUNS, ("a.3", b"6")]
    assert keys_and_bodies(again.vhost.queues["all"]) == expected
    assert keys_and_bodies(again.vhost.queues["some"]) == [one for one in expected if one[0][0] == "a"]


def test_each_message_keeps_its_own_time_limit_over_a_restart() -> None:
    node = SteppedNode()
    queue = bound(node, "all", "#")
    limits = ["60000", "1000", "60000", "1000"]
    runs = [run_of(f"k.{at}", b"%d" % at, expiration=limit) for at, limit in enumerate(limits)]
    node.node.publish(node.vhost, runs)
    node.end_pass()
    node.finish()
    now_ms = node.node.clock.now_ms()
    queue.expire(now_ms + 2000)
    assert queue.ready_count == 2
    node.finish()
    node = node.close()
    queue = node.vhost.queues["all"]
    for expires_at, offsets in node.node.topology.store_of(queue).expiries():
        queue.watch_stored(expires_at, offsets)
    assert keys_and_bodies(queue) == [("k.0", b"0"), ("k.2", b"2")]


def test_the_spilled_part_of_a_queue_keeps_keys_and_time_limits() -> None:
    node = SteppedNode(queue_memory_max=0)
    queue = bound(node, "all", "#")
    runs = [
        run_of(f"k.{at}", b"%d" % at, expiration="1000" if at % 3 else "60000", persistent=False)
        for at in range(9)
    ]
    node.node.publish(node.vhost, runs)
    node.end_pass()
    now_ms = node.node.clock.now_ms()
    while (moment := queue.next_moment()) and moment <= now_ms + 2000:
        queue.expire(now_ms + 2000)
    assert keys_and_bodies(queue) == [("k.0", b"0"), ("k.3", b"3"), ("k.6", b"6")]
