#!/usr/bin/env python3
"""Compare Leveret with RabbitMQ on this machine, and print the tables of `RESULTS.md`.

    make bench-amqp                                        everything, 3 rounds: about half an hour
    make bench-amqp BENCH="--only headers topic --rounds 1"
    make bench-amqp BENCH="--only topic --peer none"       Leveret alone
    make bench-amqp BENCH="--only topic --peer ../before"  against the broker of another checkout
    python3 benchmarks/run.py --write                      also put the tables into RESULTS.md and README.md

Each workload runs in rounds, against one broker after the other, so that a drift of the machine hits both
alike; the tables have medians. The load comes from a C program that does not hold the brokers back, and fails if
a message is lost, doubled, out of order or another than was sent.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

from peers import ROOT, Broker, leveret, rabbitmq
from table import Figures, Row, head, medians, readme, replace, results, row
from workloads import START, WORKLOADS

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "RESULTS.md"
README = ROOT / "README.md"
_RUN_S = 600


@dataclass(frozen=True)
class Side:
    """A broker to measure: how it is called, and how it is started."""

    title: str
    start: Callable[[], AbstractContextManager[Broker | None]]


def build_load(folder: str) -> str:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        sys.exit("a C compiler is needed for the load generator (Debian: apt-get install gcc libc6-dev)")
    binary = os.path.join(folder, "amqpload")
    sources = sorted(str(source) for source in (HERE / "amqpload").glob("*.c"))
    subprocess.run([compiler, "-O2", "-pthread", "-o", binary, *sources], check=True)
    return binary


def measure(load: str, broker: Broker, name: str, seconds: float) -> Figures:
    command = [load, "--port", str(broker.port), "--pid", str(broker.pid), "--seconds", str(seconds)]
    command += ["--prefix", f"bench-{name.replace('/', '-')}", *WORKLOADS[name].arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_RUN_S)
    if done.returncode:
        raise RuntimeError(f"{name} on {broker.name}: {done.stderr.strip() or done.stdout.strip()}")
    figures: Figures = json.loads(done.stdout)
    figures["rate"] = figures["deliver_rate"] or figures["publish_rate"]
    return figures


def start_figures(broker: Broker) -> Figures:
    lines = Path(f"/proc/{broker.pid}/status").read_text().splitlines()
    resident = next(line.split()[1] for line in lines if line.startswith("VmRSS:"))
    return {"start_s": broker.start_s, "rss_kb": float(resident)}


def measure_start(side: Side) -> Figures:
    """Of a broker that is started for it, and then stopped."""
    with side.start() as broker:
        if broker is None:
            raise RuntimeError(f"{side.title} does not start a second time")
        return start_figures(broker)


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


def measured(name: str, running: list[tuple[Side, Broker]], load: str, arguments: argparse.Namespace) -> Row:
    """Rounds, each against all that run; every other one in the opposite order."""
    rounds: list[list[Figures]] = [[] for _ in running]
    for number in range(arguments.rounds):
        for index in range(len(running)) if number % 2 == 0 else reversed(range(len(running))):
            side, broker = running[index]
            os.sync()  # what the one before has left to the system to write is no burden of this one
            figures = measure_start(side) if name == START else measure(load, broker, name, arguments.seconds)
            rounds[index].append(figures)
    ours, *theirs = (medians(figures) for figures in rounds)
    return ours, theirs[0] if theirs else None


def sides(arguments: argparse.Namespace) -> list[Side]:
    ours = Side(
        "Leveret" if arguments.ours == ROOT else arguments.ours.name, partial(leveret, "amqp", arguments.ours)
    )
    if arguments.peer == "none":
        return [ours]
    if arguments.peer == "rabbitmq":
        return [ours, Side("RabbitMQ", rabbitmq)]
    checkout = Path(arguments.peer).resolve()
    return [ours, Side(checkout.name, partial(leveret, "amqp", checkout))]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [START, *WORKLOADS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument(
        "--peer", default="rabbitmq", help="rabbitmq, none, or a checkout of Leveret to compare with"
    )
    parser.add_argument(
        "--ours",
        type=lambda text: Path(text).resolve(),
        default=ROOT,
        help="the checkout that is measured (this one)",
    )
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md and README.md")
    arguments = parser.parse_args()
    if arguments.write and (arguments.only or arguments.peer != "rabbitmq" or arguments.ours != ROOT):
        parser.error("--write needs all workloads of this checkout, against RabbitMQ")
    return arguments


def main() -> int:
    arguments = parsed()
    with ExitStack() as stack:
        load = build_load(stack.enter_context(tempfile.TemporaryDirectory()))
        started = [(side, stack.enter_context(side.start())) for side in sides(arguments)]
        running = [(side, broker) for side, broker in started if broker is not None]
        said = machine(*(broker for _, broker in running))
        titles = [side.title for side, _ in running] + ["-"]
        print(said, "", head(titles[0], titles[1]), sep="\n", flush=True)
        found: dict[str, Row] = {}
        for name in arguments.only or [START, *WORKLOADS]:
            found[name] = measured(name, running, load, arguments)
            print(row(name, found[name], asked=arguments.peer == "rabbitmq"), flush=True)
    if arguments.write:
        replace(RESULTS, "table", results(said, found))
        replace(README, "speed", readme(found))
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        raise SystemExit(main())
