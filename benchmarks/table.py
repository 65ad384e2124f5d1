"""The table of AMQP workloads in Markdown, for `RESULTS.md` and in short for `README.md`.

Shape:  a figure that misses what we ask of ourselves is marked with (!).
"""

from __future__ import annotations

import statistics
from pathlib import Path

from workloads import IDENTICAL, MEMORY_FLOOR_MIB, REAL, START, START_FLOOR_S, WORKLOADS, Workload

Figures = dict[str, float]
"""What `amqpload` prints, and `rate`: messages delivered a second, or published if nothing consumes."""
Row = tuple[Figures, Figures | None]
"""Medians of the broker that is measured, and of its peer."""

_GROUPS = {
    "Start": [START],
    "Real traffic": list(REAL),
    "Identical messages: the floor of what a message costs": list(IDENTICAL),
}


def medians(rounds: list[Figures]) -> Figures:
    return {name: statistics.median(figures[name] for figures in rounds) for name in rounds[0]}


def miss(missed: bool) -> str:
    return " (!)" if missed else ""


def head(ours: str, theirs: str) -> str:
    columns = ["workload", "", ours, theirs, "ratio", "CPU a message", f"{theirs}'s", "memory"]
    return f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}"


def row(name: str, found: Row, *, asked: bool = True) -> str:
    """One line; `asked` says whether the peer is the one that the floors of ratios are about, not a checkout."""
    ours, theirs = found
    if name == START:
        return _start_row(ours, theirs)
    workload = WORKLOADS[name]
    cpu = ours["cpu_us_per_msg"]
    cells = [name, workload.about, _said(workload, ours), _said(workload, theirs)]
    cells += [_ratio(workload, ours, theirs, asked)]
    cells += [f"{cpu:,.1f} µs{miss(cpu > workload.cpu_floor_us)}"]
    cells += [f"{theirs['cpu_us_per_msg']:,.1f} µs" if theirs else "-"]
    cells += [f"{ours['rss_kb'] / 1024:,.0f} MiB"]
    return f"| {' | '.join(cells)} |"


def _said(workload: Workload, figures: Figures | None) -> str:
    if figures is None:
        return "-"
    if workload.is_latency:
        return f"p50 {figures['p50_us']:,.0f} µs, p99 {figures['p99_us']:,.0f} µs"
    return f"{figures['rate']:,.0f}/s"


def _ratio(workload: Workload, ours: Figures, theirs: Figures | None, asked: bool) -> str:
    """Ours over theirs: of rates more is better, of times less. Two checkouts are close: more digits."""
    if theirs is None:
        return "-"
    if workload.is_latency:
        quotients = [ours[key] / theirs[key] for key in ("p50_us", "p99_us")]
        marks = [miss(asked and q > most) for q, most in zip(quotients, workload.latency_floors, strict=True)]
        return f"p50 {quotients[0]:.2f}{marks[0]}, p99 {quotients[1]:.2f}{marks[1]}"
    times = ours["rate"] / theirs["rate"]
    if not asked:
        return f"**{times:.2f}x**, CPU {ours['cpu_us_per_msg'] / theirs['cpu_us_per_msg']:.2f}x"
    return f"**{times:.1f}x**{miss(times < workload.rate_floor)}"


def _start_row(ours: Figures, theirs: Figures | None) -> str:
    memory = ours["rss_kb"] / 1024
    cells = [
        START,
        "until a client can connect",
        f"{ours['start_s']:.2f} s{miss(ours['start_s'] > START_FLOOR_S)}",
    ]
    cells += [f"{theirs['start_s']:.2f} s" if theirs else "-"]
    cells += [f"{ours['start_s'] / theirs['start_s']:.2f}" if theirs else "-", "-", "-"]
    cells += [f"{memory:,.0f} MiB{miss(memory > MEMORY_FLOOR_MIB)}"]
    if theirs:
        cells[-1] += f", its {theirs['rss_kb'] / 1024:,.0f} MiB"
    return f"| {' | '.join(cells)} |"


def results(machine: str, found: dict[str, Row]) -> str:
    """All that stands between the marks of RESULTS.md."""
    parts = [machine]
    for title, names in _GROUPS.items():
        lines = [row(name, found[name]) for name in names if name in found]
        parts.append(f"### {title}\n\n{head('Leveret', 'RabbitMQ')}\n" + "\n".join(lines))
    return "\n\n".join(parts)


def readme(found: dict[str, Row]) -> str:
    """The few that say most."""
    lines = ["| | Leveret | RabbitMQ 3.10 | |", "| --- | --- | --- | --- |"]
    for name, workload in WORKLOADS.items():
        if workload.in_readme and name in found:
            ours, theirs = found[name]
            about = workload.about if name in REAL else f"identical messages: {workload.about}"
            ratio = _ratio(workload, ours, theirs, asked=True).replace(miss(True), "")
            lines.append(f"| {about} | {_said(workload, ours)} | {_said(workload, theirs)} | {ratio} |")
    return "\n".join(lines)


def replace(path: Path, mark: str, text: str) -> None:
    """Put this between the mark and the next end."""
    begin, end = f"<!-- {mark} -->\n", "\n<!-- end -->"
    whole = path.read_text()
    if begin not in whole:
        raise ValueError(f"{path} has no line {begin.strip()}")
    before, _, rest = whole.partition(begin)
    path.write_text(f"{before}{begin}{text}{end}{rest.partition(end)[2]}")
