#!/usr/bin/env python3
"""One measurement of a Kafka-compatible broker, with librdkafka as the client; prints one line of JSON.

    log_load.py produce --port 9092 --pid 123 --size 100 --seconds 4
    log_load.py consume --port 9092 --pid 123 --size 1024 --count 500000 --data /folder/of/the/broker
    log_load.py latency --port 9092 --pid 123 --rate 1000 --seconds 4
    log_load.py groups --port 9092 --pid 123 --groups 100

Flow:   each makes a topic of its own, measures, checks that nothing is missing, and deletes the topic.
Shape:  `rate` messages a second, `mb_s` their values in 10^6 octets a second, `seconds`, `p50_us` and `p99_us`
        from the call of `produce` to the return of `poll`; `cpu_us_per_msg` of all threads of the broker's
        process, `rss_kb` of it at the end.
Limits: a wait for the broker ends after `WAIT_S`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

WAIT_S = 60.0
_WARM_S = 1.0
"""Latencies of the first second are not counted."""
_QUEUE_KIB = 32 * 1024
"""What the producer holds at most: what is left of it when the time is over is waited for, and counted."""
_WORDS = ("order", "payment", "customer", "amount", "currency", "shipped", "pending", "2026", "EUR", "null")


class Meter:
    """Time, and the processor time of the broker, while the `with` lasts."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.seconds = 0.0
        self._cpu_s = 0.0

    def __enter__(self) -> Meter:
        self._cpu_s = _cpu_s(self._pid)
        self.seconds = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self.seconds
        self._cpu_s = _cpu_s(self._pid) - self._cpu_s

    def figures(self, messages: int, size: int) -> dict[str, float]:
        rate = messages / self.seconds
        return {
            "messages": messages,
            "seconds": self.seconds,
            "rate": rate,
            "mb_s": rate * size / 1e6,
            "cpu_us_per_msg": self._cpu_s * 1e6 / max(messages, 1),
            "cpu_s": self._cpu_s,
            "rss_kb": rss_kb(self._pid),
        }


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError(f"process {pid} has no memory")


def values(size: int) -> list[bytes]:
    """A thousand different ones of this size, of words, so that they can be compressed as people's can."""
    chosen = random.Random(size)
    return [" ".join(chosen.choices(_WORDS, k=size // 3)).encode()[:size] for _ in range(1000)]


def client(port: int, **settings: object) -> dict[str, object]:
    """What all clients are configured with; names have `_` for `.`."""
    here = {"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 3}
    return here | {name.replace("_", "."): value for name, value in settings.items()}


@contextmanager
def topic(options: argparse.Namespace) -> Iterator[str]:
    """A new topic, as long as the `with` lasts."""
    name, partitions = options.topic, options.partitions
    admin = AdminClient(client(options.port))
    new = NewTopic(name, partitions, 1, config=dict(one.split("=", 1) for one in options.config))
    admin.create_topics([new], operation_timeout=WAIT_S)[name].result(WAIT_S)
    deadline = time.monotonic() + WAIT_S
    while len(admin.list_topics(name, 5).topics[name].partitions) < partitions:
        if time.monotonic() > deadline:
            raise RuntimeError(f"topic {name} has no partitions")
    yield name
    admin.delete_topics([name], operation_timeout=WAIT_S)[name].result(WAIT_S)


def end_of(port: int, name: str, partitions: int) -> int:
    """How many records the topic holds."""
    consumer = Consumer(client(port, group_id="bench-end"))
    try:
        marks = [
            consumer.get_watermark_offsets(TopicPartition(name, number), WAIT_S)
            for number in range(partitions)
        ]
    finally:
        consumer.close()
    return sum(high - low for low, high in marks)


def fill(options: argparse.Namespace, name: str, until_s: float, count: int) -> int:
    """Produce for so long, or so many, and wait until all is acknowledged; returns how many."""
    settings: dict[str, object] = {"compression_type": options.compression}
    if options.batch_size:
        settings["batch_size"] = options.batch_size
    if options.idempotent:
        settings["enable_idempotence"] = True
    producer = Producer(
        client(
            options.port,
            acks="all",
            queue_buffering_max_kbytes=_QUEUE_KIB,
            queue_buffering_max_messages=1_000_000,
            **settings,
        )
    )
    batch = [{"value": value} for value in values(options.size)]
    sent = 0
    while time.monotonic() < until_s and sent < count:
        taken = producer.produce_batch(name, batch[: count - sent])
        sent += taken
        if taken < len(batch):
            producer.poll(0.002)  # its queue is full
    if left := producer.flush(WAIT_S):
        raise RuntimeError(f"{left} messages are not acknowledged after {WAIT_S} s")
    return sent


def produce(options: argparse.Namespace) -> dict[str, float]:
    with topic(options) as name:
        with Meter(options.pid) as meter:
            sent = fill(options, name, time.monotonic() + options.seconds, sys.maxsize)
        there = end_of(options.port, name, options.partitions)
        if there != sent:
            raise RuntimeError(f"{sent} sent, {there} there")
    return meter.figures(sent, options.size)


def consume(options: argparse.Namespace) -> dict[str, float]:
    """One consumer reads all there is; with `--data` the system's cache of those files is emptied before.

    It is told to fetch on as long as its 64 MiB last: with 100,000 small records it would pause for a second.
    """
    with topic(options) as name:
        fill(options, name, time.monotonic() + 10 * WAIT_S, options.count)
        if options.data:
            forget(options.data)
        settings = {"queued_min_messages": 10_000_000, "fetch_queue_backoff_ms": 5}
        consumer = Consumer(
            client(options.port, group_id=f"bench-{name}", enable_auto_commit=False, **settings)
        )
        got = 0
        with Meter(options.pid) as meter:
            consumer.assign([TopicPartition(name, number, 0) for number in range(options.partitions)])
            while got < options.count:
                got += _taken(consumer.consume(min(10_000, options.count - got), WAIT_S))
        consumer.close()
    return meter.figures(got, options.size)


def _taken(messages: list[Message]) -> int:
    if not messages:
        raise RuntimeError(f"nothing came in {WAIT_S} s")
    for message in messages:
        if (error := message.error()) is not None:
            raise KafkaException(error)
    return len(messages)


def forget(folder: Path) -> None:
    """Write what is in the system's cache of these files to the disk, and drop it."""
    for path in folder.rglob("*"):
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:  # gone meanwhile
            continue
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def latency(options: argparse.Namespace) -> dict[str, float]:
    """From a producer in another process to a consumer in this one."""
    with topic(options) as name:
        consumer = Consumer(client(options.port, group_id=f"bench-{name}", enable_auto_commit=False))
        consumer.assign([TopicPartition(name, number, 0) for number in range(options.partitions)])
        command = [sys.executable, __file__, "pace", "--port", str(options.port), "--topic", name]
        command += ["--rate", str(options.rate), "--seconds", str(options.seconds + _WARM_S)]
        command += ["--size", str(options.size)]
        count = int(options.rate * (options.seconds + _WARM_S))
        found: list[int] = []
        with Meter(options.pid) as meter, subprocess.Popen(command) as pacer:
            for _ in range(count):
                message = consumer.poll(WAIT_S)
                now = time.monotonic_ns()
                _taken([message] if message is not None else [])
                found.append(now - struct.unpack_from(">q", message.value())[0])
        consumer.close()
        if pacer.returncode:
            raise RuntimeError(f"the producer ended with {pacer.returncode}")
    counted = sorted(found[int(options.rate * _WARM_S) :])
    percentiles = {
        f"p{percent}_us": counted[len(counted) * percent // 100] / 1000 for percent in (50, 90, 99)
    }
    return meter.figures(count, options.size) | percentiles


def pace(options: argparse.Namespace) -> dict[str, float]:
    """Send at a steady pace, each record at once; its value begins with when.

    Five requests may be on their way, as with Java's producer: who cannot follow gets larger ones.
    """
    producer = Producer(client(options.port, acks="all", linger_ms=0, max_in_flight=5))
    producer.list_topics(options.topic, WAIT_S)
    rest = values(options.size)[0][8:]
    begin = time.monotonic()
    for number in range(int(options.rate * options.seconds)):
        while (ahead := begin + number / options.rate - time.monotonic()) > 0:
            time.sleep(ahead)
        producer.produce(options.topic, struct.pack(">q", time.monotonic_ns()) + rest)
        producer.poll(0)
    if producer.flush(WAIT_S):
        raise RuntimeError("not all was acknowledged")
    return {}


def groups(options: argparse.Namespace) -> dict[str, float]:
    """Many groups of one consumer each: until all have joined and each has read the whole topic."""
    with topic(options) as name:
        fill(options, name, time.monotonic() + WAIT_S, options.count)
        settings = {"auto_offset_reset": "earliest", "enable_auto_commit": False}
        with Meter(options.pid) as meter:
            begin = time.monotonic()
            consumers = [
                Consumer(client(options.port, group_id=f"bench-{name}-{number}", **settings))
                for number in range(options.groups)
            ]
            for consumer in consumers:
                consumer.subscribe([name])
            times = _read_by_all(consumers, options.count, begin)
        for consumer in consumers:
            consumer.close()
    figures = meter.figures(options.count * options.groups, options.size)
    return figures | {"p50_s": times[len(times) // 2], "all_s": times[-1]}


def _read_by_all(consumers: list[Consumer], count: int, begin: float) -> list[float]:
    """When each of them had so many records, in seconds from `begin`, ascending."""
    left = dict.fromkeys(range(len(consumers)), count)
    times = []
    while left:
        if time.monotonic() > begin + 2 * WAIT_S:
            raise RuntimeError(
                f"{len(left)} of {len(consumers)} groups have not read all after {2 * WAIT_S} s"
            )
        idle = True
        for number in list(left):
            if messages := consumers[number].consume(1000, 0):
                idle = False
                left[number] -= _taken(messages)
                if not left[number]:
                    del left[number]
                    times.append(time.monotonic() - begin)
        if idle:
            time.sleep(0.002)
    return times


KINDS = {"produce": produce, "consume": consume, "latency": latency, "pace": pace, "groups": groups}


def options_for(kinds: list[str], about: str | None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pid", type=int, default=os.getpid(), help="of the broker")
    parser.add_argument("--data", type=Path, help="folder of the broker, whose cached pages are dropped")
    parser.add_argument("--topic", default=f"bench-{os.getpid()}")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--config", action="append", default=[], help="of the topic: name=value")
    parser.add_argument("--size", type=int, default=100)
    parser.add_argument("--compression", default="none")
    parser.add_argument("--batch-size", type=int, help="bytes of a batch, at most (librdkafka's 1 MB)")
    parser.add_argument("--idempotent", action="store_true", help="as Java's producer is by default")
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=1000)
    parser.add_argument("--groups", type=int, default=100)
    parser.add_argument("--jars", type=Path, help="folder with Kafka's Java libraries")
    return parser.parse_args()


def main() -> None:
    options = options_for(list(KINDS), __doc__)
    if figures := KINDS[options.kind](options):
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
