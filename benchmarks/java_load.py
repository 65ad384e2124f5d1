#!/usr/bin/env python3
"""One measurement with Kafka's own Java client, by its performance tools; prints one line of JSON, as `log_load.py`.

    java_load.py produce --port 9092 --pid 123 --size 1024 --count 500000 --jars /folder/with/jars
    java_load.py consume --port 9092 --pid 123 --size 1024 --count 500000 --jars /folder/with/jars

Shape:  rates are those that the tools print: their clock begins when the JVM has started.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
import time

from log_load import WAIT_S, Meter, end_of, fill, options_for, topic

_TOOL_S = 600.0


def produce(options: argparse.Namespace) -> dict[str, float]:
    with topic(options) as name:
        arguments = ["--topic", name, "--num-records", str(options.count), "--record-size", str(options.size)]
        arguments += ["--throughput", "-1", "--bootstrap-server", f"127.0.0.1:{options.port}"]
        arguments += ["--command-property", "acks=all", f"compression.type={options.compression}"]
        with Meter(options.pid) as meter:
            said = _tool(options, "org.apache.kafka.tools.ProducerPerformance", *arguments)
        there = end_of(options.port, name, options.partitions)
        if there != options.count:
            raise RuntimeError(f"{options.count} sent, {there} there")
    last = said.strip().splitlines()[-1]
    found = re.match(r"\d+ records sent, ([\d.]+) records/sec .* (\d+) ms 50th.* (\d+) ms 99th", last)
    if found is None:
        raise RuntimeError(f"the tool said: {said}")
    rate = float(found[1])
    percentiles = {"p50_us": float(found[2]) * 1000, "p99_us": float(found[3]) * 1000}
    return meter.figures(options.count, options.size) | _rates(rate, options.size) | percentiles


def consume(options: argparse.Namespace) -> dict[str, float]:
    with topic(options) as name:
        fill(options, name, time.monotonic() + 10 * WAIT_S, options.count)
        with tempfile.NamedTemporaryFile("w", suffix=".properties") as file:
            file.write("enable.auto.commit=false\n")
            file.flush()
            arguments = ["--topic", name, "--num-records", str(options.count), "--group", f"bench-{name}"]
            arguments += ["--bootstrap-server", f"127.0.0.1:{options.port}", "--timeout", "30000"]
            arguments += ["--command-config", file.name]
            with Meter(options.pid) as meter:
                said = _tool(options, "org.apache.kafka.tools.ConsumerPerformance", *arguments)
    head, values = (line.split(", ") for line in said.strip().splitlines()[-2:])
    found = dict(zip(head, values, strict=True))
    if int(found["data.consumed.in.nMsg"]) < options.count:
        raise RuntimeError(f"the tool said: {said}")
    return meter.figures(options.count, options.size) | _rates(float(found["fetch.nMsg.sec"]), options.size)


def _rates(rate: float, size: int) -> dict[str, float]:
    return {"rate": rate, "mb_s": rate * size / 1e6}


def _tool(options: argparse.Namespace, name: str, *arguments: str) -> str:
    command = ["java", "-Xmx512m", "-cp", f"{options.jars}/*", name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TOOL_S)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    kinds = {"produce": produce, "consume": consume}
    options = options_for(list(kinds), __doc__)
    print(json.dumps(kinds[options.kind](options)))


if __name__ == "__main__":
    main()
