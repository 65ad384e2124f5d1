"""The tasks of the tests' Celery workers; broker, results and queue are said by the environment."""

import os
import time

from celery import Celery

HELD_S = 60.0

app = Celery("celery_tasks", broker=os.environ["TASKS_BROKER"], backend=os.environ["TASKS_RESULTS"])
app.conf.task_default_queue = os.environ["TASKS_QUEUE"]
app.conf.worker_prefetch_multiplier = 1
app.conf.worker_hijack_root_logger = False
app.conf.broker_connection_retry_on_startup = True
app.conf.result_chord_retry_interval = 0.1


@app.task
def add(x, y):
    return x + y


@app.task
def total(numbers):
    return sum(numbers)


@app.task
def divide(x, y):
    return x / y


@app.task
def now():
    return time.time()


@app.task(bind=True, max_retries=5)
def third_time_lucky(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return self.request.retries


@app.task(bind=True, acks_late=True)
def hold(self):
    """The first delivery takes so long that its worker is killed before."""
    if self.request.delivery_info["redelivered"]:
        return "redelivered"
    print("holding", flush=True)
    time.sleep(HELD_S)
    return "not killed"
