"""Celery: real workers in processes of their own, called from here; results, control and events over AMQP.

Limits: Celery refuses chords over its rpc backend, so the chord's results are in files; its messages are not.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import kombu.pools
import pytest
from celery import Celery, chain, chord, group
from celery.exceptions import TaskRevokedError

from patience import PROGRAM_S
from program import Program

pytestmark = pytest.mark.xdist_group("celery")  # one process starts the workers


class Worker(Program):
    """One that is ready; `name` is what control calls it."""

    def __init__(self, broker, queue, *flags, name="", results="rpc://"):
        self.name = f"{name or queue}@tests"
        environment = {
            "TASKS_BROKER": broker.url,
            "TASKS_RESULTS": results,
            "TASKS_QUEUE": queue,
            "PYTHONPATH": str(Path(__file__).parent),
            # Whoever runs as root is warned by Celery, and need not be.
            "C_FORCE_ROOT": "1",
        }
        command = ["-m", "celery", "-A", "celery_tasks", "worker", "-n", self.name, "-l", "INFO", *flags]
        super().__init__(*command, environment=environment)
        try:
            self.line(" ready.")
        except BaseException:
            self.kill()
            raise


@pytest.fixture(scope="module")
def worker(broker):
    """Two processes, with events."""
    with Worker(broker, "celery", "-c", "2", "-E") as running:
        yield running
        assert running.terminate() == 0, running.output


@contextmanager
def caller(broker, queue="celery", results="rpc://"):
    app = Celery("caller", broker=broker.url, backend=results, set_as_current=False)
    app.conf.task_default_queue = queue
    try:
        yield app
    finally:
        # `Celery.close` alone leaves the results' connection and those of the publishers open.
        if results == "rpc://" and app.backend.result_consumer._connection is not None:
            app.backend.result_consumer.stop()
        kombu.pools.reset()
        app.close()


@pytest.fixture
def app(broker, worker):
    with caller(broker) as app:
        yield app


def task(app, name, *arguments):
    return app.signature(f"celery_tasks.{name}", args=arguments)


# ---- tasks ----


def test_a_result(app):
    assert task(app, "add", 2, 3).delay().get(timeout=PROGRAM_S) == 5


def test_a_failure(app):
    with pytest.raises(ZeroDivisionError):
        task(app, "divide", 1, 0).delay().get(timeout=PROGRAM_S)


def test_a_group(app):
    results = group([task(app, "add", number, 1) for number in range(100)], app=app).delay()
    assert results.get(timeout=PROGRAM_S) == list(range(1, 101))


def test_a_chain(app):
    steps = chain(task(app, "add", 1, 1), task(app, "add", 10), task(app, "add", 100), app=app)
    assert steps.delay().get(timeout=PROGRAM_S) == 112


def test_a_retry(app):
    assert task(app, "third_time_lucky").delay().get(timeout=PROGRAM_S) == 2


@pytest.mark.parametrize("options", [{"countdown": 1}, {"eta": 1}], ids=["countdown", "eta"])
def test_later(app, options):
    sent = time.time()
    if "eta" in options:
        options = {"eta": datetime.now(UTC) + timedelta(seconds=1)}
    assert task(app, "now").apply_async(**options).get(timeout=PROGRAM_S) >= sent + 1


def test_tasks_for_later_do_not_hold_up_the_others(app, worker):
    """Celery raises the prefetch count of a running consumer for each that it holds."""
    later = [task(app, "now").apply_async(countdown=600) for _ in range(10)]
    assert task(app, "add", 1, 1).delay().get(timeout=PROGRAM_S) == 2
    held = app.control.inspect([worker.name], timeout=PROGRAM_S).scheduled()[worker.name]
    assert {item["request"]["id"] for item in held} == {result.id for result in later}

    app.control.revoke([result.id for result in later])


def test_a_chord(broker, queue, tmp_path):
    results = tmp_path.as_uri()
    with (
        Worker(broker, queue, "-P", "solo", results=results) as worker,
        caller(broker, queue, results) as app,
    ):
        header = [task(app, "add", number, number) for number in range(10)]
        total = chord(header, app=app)(task(app, "total"))
        assert total.get(timeout=PROGRAM_S, interval=0.05) == 90
        assert worker.terminate() == 0


def test_a_late_acknowledged_task_of_a_killed_worker_goes_to_another(broker, queue):
    with caller(broker, queue) as app:
        with Worker(broker, queue, "-P", "solo", name="first") as first:
            result = task(app, "hold").delay()
            first.line("holding")
            first.kill()
        with Worker(broker, queue, "-P", "solo", name="second") as second:
            assert result.get(timeout=PROGRAM_S) == "redelivered"
            assert second.terminate() == 0


def test_tasks_wait_while_no_worker_is_there(broker, queue):
    with caller(broker, queue) as app:
        results = [task(app, "add", number, 0).delay() for number in range(20)]
        with Worker(broker, queue, "-P", "solo") as worker:
            assert [result.get(timeout=PROGRAM_S) for result in results] == list(range(20))
            assert worker.terminate() == 0


def test_a_worker_comes_back_after_a_crash_of_the_broker(returning_broker, queue):
    with Worker(returning_broker, queue, "-P", "solo") as worker:
        returning_broker.kill()
        worker.line("Connection to broker lost")
        returning_broker.start()
        with caller(returning_broker, queue) as app:
            assert task(app, "add", 2, 2).delay().get(timeout=PROGRAM_S) == 4
        assert worker.terminate() == 0


# ---- control and events: fanout exchanges, and queues that come and go ----


def test_ping_reaches_every_worker(app, broker, worker, queue):
    with Worker(broker, queue, "-P", "solo", name="other") as other:
        names = [worker.name, other.name]
        answers = app.control.ping(destination=names, timeout=PROGRAM_S)
        assert sorted(answers, key=str) == sorted(({name: {"ok": "pong"}} for name in names), key=str)
        assert app.control.ping(destination=[other.name], timeout=PROGRAM_S) == [{other.name: {"ok": "pong"}}]
        assert other.terminate() == 0


def test_inspect(app, worker):
    inspect = app.control.inspect([worker.name], timeout=PROGRAM_S)
    assert "celery_tasks.add" in inspect.registered()[worker.name]
    assert [queue["name"] for queue in inspect.active_queues()[worker.name]] == ["celery"]
    assert inspect.stats()[worker.name]["pool"]["max-concurrency"] == 2


def test_revoked_tasks_do_not_run(app, worker):
    result = task(app, "add", 1, 1).apply_async(countdown=2)
    app.control.revoke(result.id, reply=True, destination=[worker.name], timeout=PROGRAM_S)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=PROGRAM_S)


def test_a_worker_takes_another_queue_while_it_runs(app, worker, queue):
    options = {"reply": True, "destination": [worker.name], "timeout": PROGRAM_S}
    (answer,) = app.control.add_consumer(queue, **options)
    assert "ok" in answer[worker.name]
    assert task(app, "add", 5, 5).apply_async(queue=queue).get(timeout=PROGRAM_S) == 10
    (answer,) = app.control.cancel_consumer(queue, **options)
    assert "ok" in answer[worker.name]


def test_events(app, worker):
    seen = []

    def note(event):
        if event.get("uuid") == result.id:
            seen.append(event["type"])
            receiver.should_stop = event["type"] == "task-succeeded"

    def send(*_, **__):
        """The queue of the events is there now."""
        nonlocal result
        result = task(app, "add", 1, 2).delay()

    result = None
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": note})
        receiver.on_consume_ready = send
        receiver.capture(limit=None, timeout=PROGRAM_S, wakeup=False)
    assert seen == ["task-received", "task-started", "task-succeeded"]
