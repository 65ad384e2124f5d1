#!/usr/bin/env python3
"""Compare Leveret's partitioned log with Apache Kafka on this machine, and print the table of `RESULTS.md`.

    make bench-log                               everything, 3 rounds: about a quarter of an hour
    make bench-log BENCH="--only produce-1KiB --rounds 1"
    python3 benchmarks/run_log.py --write            also put the table into RESULTS.md

Each workload runs in rounds, against one broker after the other, so that a drift of the machine hits both
alike; the table has medians. Leveret syncs before it acknowledges. Kafka does not, unless a topic is configured
so: it is measured both ways.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kafka_java import Unavailable, kafka_jars
from kafka_peer import kafka
from log_workloads import LOG_WORKLOADS, LogWorkload
from peers import Broker, leveret
from run import Figures, machine, medians, write_results

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
    """A column: a broker, and whether its topics are configured to be synced."""

    name: str
    broker: Broker
    synced: bool = False


def measure(side: Side, workload: LogWorkload, seconds: float, jars: Path | None) -> Figures:
    broker = side.broker
    command = [sys.executable, str(HERE / workload.program)]
    command += workload.arguments.format(seconds=seconds).split()
    command += ["--port", str(broker.port), "--pid", str(broker.pid)]
    if workload.cold:
        command += ["--data", str(broker.data)]
    if side.synced:
        command.append("--synced")
    if workload.is_java:
        command += ["--jars", str(jars)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise RuntimeError(f"{workload.arguments} on {side.name}: {done.stderr.strip()[-2000:]}")
    figures: Figures = json.loads(done.stdout)
    return figures


def start_figures(broker: Broker) -> Figures:
    lines = Path(f"/proc/{broker.pid}/status").read_text().splitlines()
    resident = next(line.split()[1] for line in lines if line.startswith("VmRSS:"))
    return {"start_s": broker.start_s, "rss_kb": float(resident)}


HEAD = (
    "| workload | | Leveret (synced) | Kafka (not synced) | ratio | Kafka (synced) | ratio "
    "| CPU a record | Kafka's | memory | Kafka's |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)
SIDES = ("leveret", "kafka", "kafka-synced")


def row(name: str, workload: LogWorkload, found: dict[str, Figures]) -> str:
    """One line of the table, in Markdown."""
    ours, theirs, synced = (found.get(side) for side in SIDES)
    cells = [name, workload.about, said(workload, ours), said(workload, theirs)]
    cells += [ratio(workload, ours, theirs), said(workload, synced), ratio(workload, ours, synced)]
    for key, scale, unit in (("cpu_us_per_msg", 1.0, "µs"), ("rss_kb", 1 / 1024, "MiB")):
        for figures in (ours, theirs):
            cells.append(f"{figures[key] * scale:,.{1 if unit == 'µs' else 0}f} {unit}" if figures else "-")
    return f"| {' | '.join(cells)} |"


def said(workload: LogWorkload, figures: Figures | None) -> str:
    if figures is None:
        return "-"
    if workload.says == "latency":
        return f"p50 {figures['p50_us']:,.0f} µs, p99 {figures['p99_us']:,.0f} µs"
    if workload.says == "groups":
        return f"{figures['all_s']:.2f} s"
    return f"{figures['rate']:,.0f}/s, {figures['mb_s']:,.0f} MB/s"


def ratio(workload: LogWorkload, ours: Figures | None, theirs: Figures | None) -> str:
    """Ours over theirs: of rates more is better, of times less."""
    if ours is None or theirs is None:
        return "-"
    if workload.says == "latency":
        return f"p50 {ours['p50_us'] / theirs['p50_us']:.2f}, p99 {ours['p99_us'] / theirs['p99_us']:.2f}"
    if workload.says == "groups":
        return f"{ours['all_s'] / theirs['all_s']:.2f}"
    return f"**{ours['rate'] / theirs['rate']:.1f}x**"


def start_row(found: dict[str, Figures]) -> str:
    ours, theirs, _ = (found.get(side) for side in SIDES)
    times = [f"{figures['start_s']:.2f} s" if figures else "-" for figures in (ours, theirs)]
    memory = [f"{figures['rss_kb'] / 1024:,.0f} MiB" if figures else "-" for figures in (ours, theirs)]
    less = f"{ours['start_s'] / theirs['start_s']:.2f}" if ours and theirs else "-"
    cells = ["start", "until it answers; memory then", *times, less, "-", "-", "-", "-", *memory]
    return f"| {' | '.join(cells)} |"


@contextlib.contextmanager
def sides(which: str) -> Iterator[list[Side]]:
    """Those brokers that are asked for and are to be had, started and warm."""
    with contextlib.ExitStack() as stack:
        found = []
        if which != "kafka":
            found.append(Side("leveret", stack.enter_context(leveret("kafka"))))
        theirs = stack.enter_context(kafka()) if which != "leveret" else None
        if theirs is not None:
            found += [Side("kafka", theirs), Side("kafka-synced", theirs, synced=True)]
        yield found


def measured(
    name: str, running: list[Side], arguments: argparse.Namespace, jars: Path | None
) -> dict[str, Figures]:
    workload = LOG_WORKLOADS[name]
    results: dict[str, list[Figures]] = {}
    for _ in range(arguments.rounds):
        for side in running:
            if workload.synced or not side.synced:
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
    parser.add_argument(
        "--only", action="append", choices=list(LOG_WORKLOADS), help="run just these workloads"
    )
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
        brokers = {side.name: side.broker for side in running}
        lines = [machine(brokers.get("leveret"), brokers.get("kafka")), "", HEAD]
        lines.append(start_row({name: start_figures(broker) for name, broker in brokers.items()}))
        print("\n".join(lines), flush=True)
        for side in running:
            for warm_up in _WARM_UP if not side.synced else ():
                measure(side, LogWorkload(warm_up, ""), 0, None)
        for name in arguments.only or LOG_WORKLOADS:
            if LOG_WORKLOADS[name].is_java and jars is None:
                continue
            lines.append(row(name, LOG_WORKLOADS[name], measured(name, running, arguments, jars)))
            print(lines[-1], flush=True)
    if arguments.write:
        write_results("\n".join(lines), "log table")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
