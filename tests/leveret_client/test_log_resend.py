"""What a producer sends again, and what it gives up: each record is in the log once, or its sender knows."""

from __future__ import annotations

import anyio
import pytest

import leveret.log
from backends import on_both_backends, on_mock_clock
from broker.kafka import api, records
from broker.kafka.errors import ErrorCode
from cutting_proxy import cutting_proxy
from fake_kafka import CUT, fake_kafka
from leveret.log import ProducerFailed, SendFailed
from log_reading import read
from process import BrokerProcess

# ---- a real broker behind a wire that is cut ----


@on_both_backends
async def test_an_answer_that_is_lost(broker, log_url, topic):
    """The broker has the records; that they come again must change nothing."""
    async with cutting_proxy(broker.addresses["kafka"]) as proxy:
        async with leveret.log.connect(log_url, dial=proxy.dial) as log, log.producer() as producer:
            first = await producer.send(topic, b"first")
            proxy.swallow_answers()
            sending = await producer.send_soon(topic, b"second")
            await proxy.has_swallowed()
            assert not sending.done
            proxy.swallow_answers(False)
            assert (await sending.appended()).offset == first.offset + 1
            assert (await producer.send(topic, b"third")).offset == first.offset + 2
        async with leveret.log.connect(log_url) as log:
            assert [record.value for record in await read(log, topic, 3)] == [b"first", b"second", b"third"]


@on_both_backends
async def test_a_wire_that_is_cut_again_and_again(broker, log_url, topic):
    """With as many requests on their way as there may be, of which the broker has seen some."""
    count = 1000
    async with (
        cutting_proxy(broker.addresses["kafka"]) as proxy,
        leveret.log.connect(log_url, dial=proxy.dial) as log,
        log.producer(batch_size=150) as producer,
    ):
        await producer.send(topic, b"0")
        sendings = [await producer.send_soon(topic, b"%d" % number) for number in range(1, count)]
        appended = []
        for number, sending in enumerate(sendings):
            appended.append(await sending.appended())
            if number % 100 == 10:
                proxy.cut()
            elif number % 100 == 60:
                proxy.swallow_answers()
                await proxy.has_swallowed()
                proxy.swallow_answers(False)
        assert [one.offset for one in appended] == list(range(1, count))
        values = [int(record.value) for record in await read(log, topic, count)]
        assert values == list(range(count))
        async with log.consumer(topic, offset="latest") as consumer:
            assert consumer.position(topic, 0) == count


@on_both_backends
async def test_a_broker_that_is_killed_and_comes_back(tmp_path, topic):
    """What was acknowledged is there, and nothing is there twice."""
    with BrokerProcess(tmp_path, kafka=True) as broker:
        async with cutting_proxy(broker.addresses["kafka"]) as proxy:
            url = f"kafka://{broker.bootstrap}"
            async with (
                leveret.log.connect(url, dial=proxy.dial) as log,
                log.producer(batch_size=500) as producer,
            ):
                sendings = [await producer.send_soon(topic, b"%d" % number) for number in range(1000)]
                await sendings[100].appended()
                broker.kill()
                sendings += [await producer.send_soon(topic, b"%d" % number) for number in range(1000, 1500)]
                await anyio.to_thread.run_sync(broker.start)
                proxy.upstream = broker.addresses["kafka"]
                appended = [await sending.appended() for sending in sendings]
                assert [one.offset for one in appended] == list(range(1500))
                values = [int(record.value) for record in await read(log, topic, 1500)]
                assert values == list(range(1500))


# ---- a broker that says "not now" ----


def codes(*told):
    """An answer to Produce with each of these codes, and then well."""
    left = list(told)

    def answer_with(fake):
        def produce(request):
            code = left.pop(0) if left else ErrorCode.NONE
            return fake.produced(request, lambda *_: code)

        return produce

    return answer_with


@pytest.mark.parametrize(
    "code",
    [
        ErrorCode.NOT_LEADER_OR_FOLLOWER,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode.NOT_ENOUGH_REPLICAS,
        ErrorCode.REQUEST_TIMED_OUT,
        ErrorCode.CORRUPT_MESSAGE,
    ],
)
@on_mock_clock
async def test_what_may_pass_is_tried_again(code):
    async with fake_kafka() as fake, fake.connect() as log, log.producer() as producer:
        fake.answers[api.PRODUCE] = codes(*[code] * 5)(fake)
        assert (await producer.send("t", b"x")).offset == 0
        assert fake.values("t") == [b"x"]
        assert fake.count(api.PRODUCE) == 6
        assert 0.5 < anyio.current_time() < 5


@on_mock_clock
async def test_another_broker_leads_by_now():
    async with fake_kafka() as fake, fake.connect() as log, log.producer() as producer:
        await producer.send("t", b"x")

        def metadata(request):
            body = fake.metadata(request)
            body["brokers"].append({"node_id": 2, "host": "other", "port": 9093})
            return body

        fake.leader = 2
        fake.answers[api.METADATA] = metadata
        fake.answers[api.PRODUCE] = codes(ErrorCode.NOT_LEADER_OR_FOLLOWER)(fake)
        assert (await producer.send("t", b"y")).offset == 1
        assert ("other", 9093) in fake.dialled


@on_mock_clock
async def test_a_partition_without_a_leader_gets_one():
    async with fake_kafka() as fake, fake.connect() as log, log.producer() as producer:
        fake.leader = -1

        async def elect():
            await anyio.sleep(7)
            fake.leader = 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(elect)
            assert (await producer.send("t", b"y")).offset == 0
        assert 7 <= anyio.current_time() < 9


@on_mock_clock
async def test_a_topic_that_was_made_anew_with_fewer_partitions():
    async with fake_kafka() as fake, fake.connect() as log, log.producer() as producer:
        fake.partitions = 3
        await producer.send("t", b"x", partition=0)
        await producer.send("t", b"x", partition=2)

        def code_of(topic, partition, _):
            return ErrorCode.NONE if partition < fake.partitions else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION

        fake.answers[api.PRODUCE] = lambda request: fake.produced(request, code_of)
        fake.partitions = 1
        fake.requests.clear()
        lost = await producer.send_soon("t", b"y", partition=2)
        assert (await producer.send("t", b"y", partition=0)).offset == 1
        with pytest.raises(SendFailed, match=r"t\[2\].*UNKNOWN_TOPIC_OR_PARTITION"):
            await lost.appended()
        assert fake.count(api.METADATA) < 5
        assert anyio.current_time() < 2
        with pytest.raises(leveret.log.InvalidValue, match="partitions 0 to 0, and not 2"):
            await producer.send("t", b"z", partition=2)


@on_mock_clock
async def test_many_who_ask_for_a_topic_ask_once():
    async with fake_kafka() as fake, fake.connect() as log, log.producer() as producer:
        fake.requests.clear()
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(producer.send, "t", b"x")
        assert fake.count(api.METADATA) == 1
        assert len(fake.values("t")) == 100


# ---- what is given up ----


@on_mock_clock
async def test_a_record_that_could_not_be_sent_in_time():
    async with fake_kafka() as fake, fake.connect() as log, log.producer(timeout=10) as producer:
        await producer.send("t", b"x")
        fake.answers[api.API_VERSIONS] = lambda _: CUT
        await fake.cut()
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(
            SendFailed, match=r"t\[0\]: not acknowledged within 10 s; .*closed the conn"
        ) as caught:
            await producer.send("t", b"y")
        assert 10 <= anyio.current_time() < 11
        assert not caught.value.maybe_sent

        fake.answers[api.API_VERSIONS] = fake.api_versions
        assert (await producer.send("t", b"z")).offset == 1
        assert fake.values("t") == [b"x", b"z"]


@on_mock_clock
async def test_a_record_of_which_nobody_knows():
    """Those behind it are of another identity: under the old one, they could pass for it."""
    async with fake_kafka() as fake:
        url = "kafka://fake?request_timeout=4000"
        async with fake.connect(url) as log, log.producer(timeout=10) as producer:
            await producer.send("t", b"x")
            fake.answers[api.PRODUCE] = lambda _: None
            with pytest.raises(SendFailed, match=r"within 10 s; .*no answer") as caught:
                await producer.send("t", b"y")
            assert 10 <= anyio.current_time() <= 14
            assert caught.value.maybe_sent

            fake.answers[api.PRODUCE] = fake.produce
            assert (await producer.send("t", b"z")).offset == 1
        headers = [records.read_header(batch) for batch in fake.log["t", 0]]
        assert [header.base_sequence for header in headers] == [0, 0]
        assert headers[0].producer_id != headers[1].producer_id


@on_mock_clock
async def test_leaving_waits_only_so_long_for_a_broker_that_does_not_answer():
    async with fake_kafka() as fake, fake.connect() as log:
        with anyio.move_on_after(20) as scope:
            async with log.producer() as producer:
                await producer.send("t", b"x")
                fake.answers[api.PRODUCE] = lambda _: None
                await producer.send("t", b"y")
        assert scope.cancelled_caught
        assert anyio.current_time() == pytest.approx(23)


@pytest.mark.parametrize(
    "code",
    [
        ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
        ErrorCode.INVALID_PRODUCER_EPOCH,
        ErrorCode.CLUSTER_AUTHORIZATION_FAILED,
    ],
)
@on_mock_clock
async def test_a_producer_that_cannot_go_on(code):
    async with fake_kafka() as fake, fake.connect() as log:
        async with log.producer() as producer:
            await producer.send("t", b"x")
            fake.answers[api.PRODUCE] = codes(code)(fake)
            waiting = await producer.send_soon("u", b"y")
            for _ in range(2):
                with pytest.raises(ProducerFailed, match=rf"[tu]\[0\]: .*: {code.name}") as caught:
                    await producer.send("t", b"y")
                assert caught.value.code == code
            with pytest.raises(ProducerFailed):
                await waiting.appended()
        async with log.producer() as another:
            assert (await another.send("t", b"z")).offset == 1


@on_mock_clock
async def test_a_broker_that_gives_no_identity():
    async with fake_kafka() as fake, fake.connect() as log:
        fake.answers[api.INIT_PRODUCER_ID] = lambda _: {"error_code": ErrorCode.CLUSTER_AUTHORIZATION_FAILED}
        with pytest.raises(leveret.log.NotAuthorized, match="no producer id"):
            await log.producer().__aenter__()
        fake.answers[api.INIT_PRODUCER_ID] = lambda _: {"error_code": ErrorCode.COORDINATOR_LOAD_IN_PROGRESS}
        with pytest.raises(leveret.log.BrokerError, match="no producer id: COORDINATOR_LOAD"):
            await log.producer().__aenter__()
        async with log.producer(idempotent=False) as producer:
            await producer.send("t", b"x")


# ---- how much is on its way ----


@on_mock_clock
async def test_five_requests_are_on_their_way_and_the_sixth_waits():
    async with fake_kafka() as fake, fake.connect() as log:
        held = []
        release = anyio.Event()

        async def produce(request):
            held.append(request)
            if len(held) == 1:  # until the broker knows us, one is out
                return fake.produce(request)
            return None

        async with log.producer(batch_size=1) as producer:
            await producer.send("t", b"x")
            fake.answers[api.PRODUCE] = produce
            first = await producer.send_soon("t", b"x")
            await first.appended()
            held.clear()
            held.append(None)
            for _ in range(10):
                await producer.send_soon("t", b"x")
            await anyio.wait_all_tasks_blocked()
            assert len(held) == 1 + 5
            fake.answers[api.PRODUCE] = fake.produce
            release.set()
            await fake.cut()
            await producer.flush()
        assert len(fake.values("t")) >= 12


@on_mock_clock
async def test_a_request_has_batches_of_many_partitions():
    async with fake_kafka() as fake, fake.connect() as log:
        fake.partitions = 50
        async with log.producer(linger_ms=1000) as producer:
            for number in range(50):
                await producer.send_soon("t", b"%d" % number, partition=number)
        assert fake.count(api.PRODUCE) == 1
        assert [fake.values("t", number) for number in range(50)] == [
            [b"%d" % number] for number in range(50)
        ]


@on_mock_clock
async def test_requests_are_not_much_larger_than_they_should_be():
    async with fake_kafka() as fake, fake.connect() as log:
        fake.partitions = 50
        async with log.producer(linger_ms=1000) as producer:
            for number in range(50):
                await producer.send_soon("t", b"x" * 100_000, partition=number)
        sizes = [
            sum(len(one["records"]) for one in request.body["topic_data"][0]["partition_data"])
            for request in fake.requests
            if request.api is api.PRODUCE
        ]
        assert len(sizes) == 5
        assert max(sizes) < 1_200_000


@on_mock_clock
async def test_connections_that_were_lost_while_nothing_was_under_way_are_forgotten():
    """As brokers close those on which nothing is said for long."""
    async with fake_kafka() as fake, fake.connect() as log, log.producer() as producer:
        for number in range(10):
            await producer.send("t", b"%d" % number)
            await fake.cut()
            await anyio.sleep(60)
        assert len(producer._sender._unanswered) <= 1
        assert len(fake.values("t")) == 10
