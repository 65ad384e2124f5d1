#!/usr/bin/env python3
"""Compare Leveret's partitioned log with Apache Kafka on this machine, and print the table of `RESULTS.md`.

    make bench-log                               everything, 3 rounds: about a quarter of an hour
    make bench-log BENCH="--only produce-1KiB --rounds 1"
    python3 benchmarks/run_log.py --write            also put the table into RESULTS.md

Each workload runs in rounds, against one broker after the other, so that a drift of the machine hits both
alike; the table has medians. Leveret syncs before it acknowledges, and Kafka does not; a topic can be configured
to have it the other way, so that both are also measured with the same promise.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kafka_java import Unavailable, kafka_jars
from kafka_peer import kafka
from log_workloads import LOG_WORKLOADS, MEMORY_FLOOR, START_FLOOR, LogWorkload
from peers import Broker, leveret
from run import RESULTS, machine, start_figures
from table import Figures, medians, miss, replace

HERE = Path(__file__).resolve().parent
# A JVM gets quick when it has been busy for a while, and both are to be measured when they are.
_WARM_UP = (
    "produce --size 100 --seconds 4",
    "consume --count 500000",
    "latency --rate 5000 --seconds 8",
    "groups --groups 20",
)


@dataclass(frozen=True)
class Side:
    """A broker, and how its topics are configured."""

    name: str
    broker: Broker
    config: str = ""

    @property
    def as_it_is(self) -> bool:
        return not self.config


OURS, OURS_NOT_SYNCED = "leveret", "leveret-not-synced"
THEIRS, THEIRS_SYNCED = "kafka", "kafka-synced"


def measure(side: Side, workload: LogWorkload, seconds: float, jars: Path | None) -> Figures:
    broker = side.broker
    command = [sys.executable, str(HERE / workload.program)]
    command += workload.arguments.format(seconds=seconds).split()
    command += ["--port", str(broker.port), "--pid", str(broker.pid)]
    if workload.cold:
        command += ["--data", str(broker.data)]
    if side.config:
        command += ["--config", side.config]
    if workload.is_java:
        command += ["--jars", str(jars)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise RuntimeError(f"{workload.arguments} on {side.name}: {done.stderr.strip()[-2000:]}")
    figures: Figures = json.loads(done.stdout)
    return figures


COLUMNS = (
    "workload",
    "",
    "Leveret, synced",
    "Kafka, not synced",
    "ratio",
    "Kafka, synced",
    "ratio, both synced",
    "Leveret, not synced",
    "ratio, neither synced",
    "CPU a record",
    "Kafka's",
    "memory",
    "Kafka's",
)
HEAD = f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}"
Found = dict[str, Figures]
"""Medians by the name of the side; one that was not measured is missing."""


def row(name: str, workload: LogWorkload, found: Found) -> str:
    """One line of the table, in Markdown; a figure that misses what we ask of ourselves is marked with (!)."""
    cells = [name, workload.about, said(workload, found, OURS), said(workload, found, THEIRS)]
    cells += [ratio(workload, found, OURS, THEIRS, workload.rate_floor, workload.p99_floor)]
    cells += [said(workload, found, THEIRS_SYNCED)]
    cells += [ratio(workload, found, OURS, THEIRS_SYNCED, workload.synced_floor)]
    cells += [said(workload, found, OURS_NOT_SYNCED)]
    cells += [ratio(workload, found, OURS_NOT_SYNCED, THEIRS, workload.unsynced_floor)]
    cells += [f"{found[side]['cpu_us_per_msg']:,.1f} µs" if side in found else "-" for side in (OURS, THEIRS)]
    return f"| {' | '.join(cells + memory(found))} |"


def said(workload: LogWorkload, found: Found, side: str) -> str:
    if side not in found:
        return "-"
    figures = found[side]
    if workload.says == "latency":
        return f"p50 {figures['p50_us']:,.0f} µs, p99 {figures['p99_us']:,.0f} µs"
    if workload.says == "groups":
        return f"{figures['all_s']:.2f} s"
    return f"{figures['rate']:,.0f}/s, {figures['mb_s']:,.0f} MB/s"


def ratio(
    workload: LogWorkload,
    found: Found,
    ours: str,
    theirs: str,
    least: float = 0.0,
    most: float = float("inf"),
) -> str:
    """Ours over theirs: of rates more is better, of times less."""
    if ours not in found or theirs not in found:
        return "-"

    def times(key: str) -> float:
        return found[ours][key] / found[theirs][key]

    if workload.says == "latency":
        return f"p50 {times('p50_us'):.2f}, p99 {times('p99_us'):.2f}{miss(times('p99_us') > most)}"
    if workload.says == "groups":
        return f"{times('all_s'):.2f}"
    return f"**{times('rate'):.1f}x**{miss(times('rate') < least)}"


def memory(found: Found) -> list[str]:
    cells = [f"{found[side]['rss_kb'] / 1024:,.0f} MiB" if side in found else "-" for side in (OURS, THEIRS)]
    if OURS in found and THEIRS in found:
        cells[0] += miss(found[OURS]["rss_kb"] > MEMORY_FLOOR * found[THEIRS]["rss_kb"])
    return cells


def start_row(found: Found) -> str:
    """How long until it answered, and the memory then."""
    times = [f"{found[side]['start_s']:.2f} s" if side in found else "-" for side in (OURS, THEIRS)]
    less = "-"
    if OURS in found and THEIRS in found:
        quotient = found[OURS]["start_s"] / found[THEIRS]["start_s"]
        less = f"{quotient:.2f}{miss(quotient > START_FLOOR)}"
    cells = ["start", "until it answers", *times, less, *["-"] * 6, *memory(found)]
    return f"| {' | '.join(cells)} |"


@contextlib.contextmanager
def sides(which: str) -> Iterator[list[Side]]:
    """Those brokers that are asked for and are to be had, started and warm."""
    with contextlib.ExitStack() as stack:
        found = []
        if which != "kafka":
            ours = stack.enter_context(leveret("kafka"))
            found += [Side(OURS, ours), Side(OURS_NOT_SYNCED, ours, "flush=os")]
        theirs = stack.enter_context(kafka()) if which != "leveret" else None
        if theirs is not None:
            found += [Side(THEIRS, theirs), Side(THEIRS_SYNCED, theirs, "flush.messages=1")]
        yield found


def measured(name: str, running: list[Side], arguments: argparse.Namespace, jars: Path | None) -> Found:
    workload = LOG_WORKLOADS[name]
    results: dict[str, list[Figures]] = {}
    for _ in range(arguments.rounds):
        for side in running:
            if workload.writes or side.as_it_is:
                os.sync()  # what the one before has left to the system to write is no burden of this one
                figures = measure(side, workload, arguments.seconds, jars)
                results.setdefault(side.name, []).append(figures)
    return {side: medians(rounds) for side, rounds in results.items()}


def java_jars() -> Path | None:
    try:
        return kafka_jars()
    except Unavailable as error:
        print(f"Kafka's Java tools are not to be had: {error}: measured without them", file=sys.stderr)
        return None


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = list(LOG_WORKLOADS)
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--alone", choices=["leveret", "kafka"], nargs="?", const="leveret", default="")
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    return parser.parse_args()


def main() -> int:
    arguments = parsed()
    if importlib.util.find_spec("confluent_kafka") is None:
        sys.exit("confluent-kafka is needed for the load (pip install -e '.[bench]')")
    jars = java_jars()
    with sides(arguments.alone) as running:
        brokers = {side.name: side.broker for side in running if side.as_it_is}
        lines = [machine(*brokers.values()), "", HEAD]
        lines.append(start_row({name: start_figures(broker) for name, broker in brokers.items()}))
        print("\n".join(lines), flush=True)
        for side in running:
            for warm_up in _WARM_UP if side.as_it_is else ():
                measure(side, LogWorkload(warm_up, ""), 0, None)
        for name in arguments.only or LOG_WORKLOADS:
            if LOG_WORKLOADS[name].is_java and jars is None:
                continue
            lines.append(row(name, LOG_WORKLOADS[name], measured(name, running, arguments, jars)))
            print(lines[-1], flush=True)
    if arguments.write:
        replace(RESULTS, "log table", "\n".join(lines))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
