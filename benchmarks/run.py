#!/usr/bin/env python3
"""Compare Leveret with RabbitMQ on this machine, and print the table of `RESULTS.md`.

    make bench-amqp                              everything, 3 rounds: about ten minutes
    make bench-amqp BENCH="--only autoack --rounds 1"
    python3 benchmarks/run.py --write            also put the table into RESULTS.md

Each workload runs in rounds, against one broker after the other, so that a drift of the machine hits both
alike; the table has medians. The load comes from a C program that does not hold the brokers back.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from peers import Broker, leveret, rabbitmq
from workloads import WORKLOADS, Workload

HERE = Path(__file__).resolve().parent
Figures = dict[str, float]


def build_load(folder: str) -> str:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        sys.exit("a C compiler is needed for the load generator (Debian: apt-get install gcc libc6-dev)")
    binary = os.path.join(folder, "amqpload")
    subprocess.run([compiler, "-O2", "-pthread", "-o", binary, str(HERE / "amqpload.c")], check=True)
    return binary


def measure(load: str, broker: Broker, name: str, seconds: float) -> Figures:
    command = [load, "--port", str(broker.port), "--pid", str(broker.pid), "--seconds", str(seconds)]
    command += ["--prefix", f"bench-{name.replace('/', '-')}", *WORKLOADS[name].arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise RuntimeError(f"{name} on {broker.name}: {done.stderr.strip() or done.stdout.strip()}")
    figures: Figures = json.loads(done.stdout)
    figures["rate"] = figures["deliver_rate"] or figures["publish_rate"]
    return figures


def medians(rounds: list[Figures]) -> Figures:
    return {name: statistics.median(figures[name] for figures in rounds) for name in rounds[0]}


def row(name: str, workload: Workload, ours: Figures, theirs: Figures | None) -> str:
    """One line of the table, in Markdown; a figure that misses what we ask of ourselves is marked with (!)."""
    if workload.is_latency:
        mine = f"p50 {ours['p50_us']:,.0f} µs, p99 {ours['p99_us']:,.0f} µs"
        other = f"p50 {theirs['p50_us']:,.0f} µs, p99 {theirs['p99_us']:,.0f} µs" if theirs else "-"
        ratio = "-"
        if theirs:
            half, tail = ours["p50_us"] / theirs["p50_us"], ours["p99_us"] / theirs["p99_us"]
            floors = workload.latency_floors or (half, tail)
            ratio = f"p50 {half:.2f}{miss(half > floors[0])}, p99 {tail:.2f}{miss(tail > floors[1])}"
    else:
        mine = f"{ours['rate']:,.0f}/s"
        other = f"{theirs['rate']:,.0f}/s" if theirs else "-"
        times = ours["rate"] / theirs["rate"] if theirs else 0.0
        ratio = f"**{times:.1f}x**{miss(times < (workload.rate_floor or 0))}" if theirs else "-"
    cpu = ours["cpu_us_per_msg"]
    mine_cpu = f"{cpu:.1f} µs{miss(cpu > (workload.cpu_floor_us or cpu))}"
    their_cpu = f"{theirs['cpu_us_per_msg']:.1f} µs" if theirs else "-"
    memory = f"{ours['rss_kb'] / 1024:.0f} MiB"
    return f"| {name} | {workload.about} | {mine} | {other} | {ratio} | {mine_cpu} | {their_cpu} | {memory} |"


def miss(missed: bool) -> str:
    return " (!)" if missed else ""


HEAD = (
    "| workload | | Leveret | RabbitMQ | ratio | CPU a message | RabbitMQ's | memory |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |"
)


def machine(*brokers: Broker | None) -> str:
    """Where and what: processor, kernel, and the versions of those that run."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = names[0].partition(":")[2].strip() if names else platform.machine()
    titles = {
        "leveret": f"CPython {platform.python_version()}, Leveret",
        "rabbitmq": "RabbitMQ",
        "kafka": "Apache Kafka",
    }
    versions = ", ".join(f"{titles[broker.name]} {broker.version}" for broker in brokers if broker)
    return f"{os.cpu_count()} cores of {model}, Linux {platform.release()}; {versions}; {date.today().isoformat()}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=list(WORKLOADS), help="run just these workloads")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--alone", action="store_true", help="do not start RabbitMQ")
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        load = build_load(stack.enter_context(tempfile.TemporaryDirectory()))
        ours = stack.enter_context(leveret())
        theirs = None if arguments.alone else stack.enter_context(rabbitmq())
        lines = [machine(ours, theirs), "", HEAD]
        print("\n".join(lines), flush=True)
        for name in arguments.only or WORKLOADS:
            results: dict[str, list[Figures]] = {}
            for _ in range(arguments.rounds):
                for broker in (ours, theirs):
                    if broker is not None:
                        results.setdefault(broker.name, []).append(
                            measure(load, broker, name, arguments.seconds)
                        )
            found = {broker: medians(rounds) for broker, rounds in results.items()}
            lines.append(row(name, WORKLOADS[name], found["leveret"], found.get("rabbitmq")))
            print(lines[-1], flush=True)
    if arguments.write:
        write_results("\n".join(lines))
    return 0


def write_results(table: str, mark: str = "table") -> None:
    """Replace what is between this mark of RESULTS.md and the next end."""
    path = HERE / "RESULTS.md"
    begin, end = f"<!-- {mark} -->\n", "\n<!-- end -->"
    before, _, rest = path.read_text().partition(begin)
    path.write_text(f"{before}{begin}{table}{end}{rest.partition(end)[2]}")


if __name__ == "__main__":
    raise SystemExit(main())
