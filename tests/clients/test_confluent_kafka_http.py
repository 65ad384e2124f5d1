"""What HTTP shows of librdkafka's producers and consumers, of a real broker."""

from __future__ import annotations

from contextlib import ExitStack, closing

import httpx2
import pytest

from confluent import consumer, poll, produce, producer, spread, take
from patience import WAIT_S
from process import BrokerProcess


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    config = "[kafka]\npartitions = 3\n"
    folder = tmp_path_factory.mktemp("broker")
    with BrokerProcess(folder, config=config, kafka=True, management=True) as running:
        yield running
        assert "ERROR" not in running.log.read_text()


@pytest.fixture
def http(broker):
    host, port = broker.addresses["http"]
    with httpx2.Client(base_url=f"http://{host}:{port}", auth=("guest", "guest"), timeout=WAIT_S) as client:
        yield client


def metric(http, name, **labels):
    text = http.get("/metrics/per-object").text
    (line,) = [
        line
        for line in text.splitlines()
        if line.startswith(f"{name}{{")
        and all(f'{label}="{value}"' in line for label, value in labels.items())
    ]
    return float(line.rpartition(" ")[2])


def test_members_of_a_group_and_their_lag(broker, http, topic):
    sender = producer(broker.bootstrap)
    assert http.put(f"/api/topics/%2F/{topic}", json={"partitions": 3}).status_code == 201
    with ExitStack() as made:
        members = [made.enter_context(closing(consumer(broker.bootstrap, topic))) for _ in "ab"]
        for client in members:
            client.subscribe([topic])
        poll(members, spread(members, [1, 2]))
        for partition in range(3):
            produce(sender, topic, [b"x"] * 10, partition=partition)
        take(members, 30)
        for client in members:
            client.commit(asynchronous=False)
        produce(sender, topic, [b"y"] * 4, partition=1)
        found = http.get(f"/api/groups/{topic}").json()
        assert (found["state"], found["members"], found["protocol"]) == ("Stable", 2, "range")
        assert (found["lag"], found["max_lag"], found["topics"]) == (4, 4, [topic])
        assert [(one["partition"], one["committed_offset"], one["lag"]) for one in found["partitions"]] == [
            (0, 10, 0),
            (1, 10, 4),
            (2, 10, 0),
        ]
        details = {one["member_id"]: one for one in found["member_details"]}
        shown = {
            (number, member)
            for member, detail in details.items()
            for assigned in detail["assignment"]
            for number in assigned["partitions"]
        }
        assert {(one["partition"], one["member_id"]) for one in found["partitions"]} == shown
        owned = [{one.partition for one in client.assignment()} for client in members]
        by_member = [{number for number, owner in shown if owner == member} for member in details]
        assert sorted(map(sorted, owned)) == sorted(map(sorted, by_member))
        assert {detail["client_id"] for detail in details.values()} == {"rdkafka"}
        labels = {"consumergroup": topic, "topic": topic, "partition": "1"}
        assert metric(http, "kafka_consumergroup_lag", **labels) == 4
        assert metric(http, "kafka_consumergroup_members", consumergroup=topic) == 2
        assert http.delete(f"/api/groups/{topic}").status_code == 400
    assert http.delete(f"/api/groups/{topic}").status_code == 204
    assert http.get(f"/api/groups/{topic}").status_code == 404


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_records_are_shown_however_they_are_compressed(broker, http, topic, codec):
    sender = producer(broker.bootstrap, compression_type=codec, enable_idempotence=True)
    headers = [("trace", b"\xff\x00")]
    produce(
        sender, topic, [b"v%d" % number * 50 for number in range(20)], partition=2, key=b"k", headers=headers
    )
    path = f"/api/topics/%2F/{topic}/partitions/2"
    rows = http.get(f"{path}/records?offset=5&count=2").json()
    assert [(row["offset"], row["key"], row["value"]) for row in rows] == [
        (5, "k", "v5" * 50),
        (6, "k", "v6" * 50),
    ]
    assert rows[0]["headers"] == [{"key": "trace", "value": "/wA=", "value_encoding": "base64"}]
    (made,) = http.get(f"{path}/producers").json()
    assert made["last_sequence"] == 19
    assert http.get(path).json()["last_timestamp"] >= rows[1]["timestamp"]


def test_what_is_made_over_http_is_there_for_clients(broker, http, topic):
    assert http.put(f"/api/topics/%2F/{topic}", json={"partitions": 5}).status_code == 201
    sender = producer(broker.bootstrap)
    assert len(sender.list_topics(topic).topics[topic].partitions) == 5
    produce(sender, topic, [b"a", b"b", b"c"], partition=4)
    assert http.delete(f"/api/topics/%2F/{topic}/partitions/4/records?before=2").status_code == 204
    with closing(consumer(broker.bootstrap, topic)) as client:
        client.subscribe([topic])
        (found,) = take(client, 1)
    assert (found.offset(), found.value()) == (2, b"c")


def test_a_client_is_shown_and_closed_and_comes_back(broker, http, topic):
    sender = producer(broker.bootstrap, client_id=topic)
    produce(sender, topic, [b"a"], partition=0)
    rows = [
        row
        for row in http.get("/api/connections").json()
        if row["client_properties"].get("client_id") == topic
    ]
    assert {row["protocol"] for row in rows} == {"Kafka"}
    assert rows[0]["client_properties"]["product"]
    for row in rows:
        assert http.delete(f"/api/connections/{row['name'].replace(' ', '%20')}").status_code == 204
    assert produce(sender, topic, [b"b"], partition=0) == [(0, 1)]
