"""The tables of the benchmarks: what their rows say, what is marked, and where they are put."""

from __future__ import annotations

from pathlib import Path

import pytest

from table import Figures, medians, readme, replace, results, row
from workloads import IDENTICAL, REAL, START, WORKLOADS


def figures(rate: float, cpu_us: float = 1.0, p50_us: float = 1.0, p99_us: float = 2.0) -> Figures:
    return {"rate": rate, "cpu_us_per_msg": cpu_us, "p50_us": p50_us, "p99_us": p99_us, "rss_kb": 51_200}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_row_says_rates_their_ratio_and_processor_time() -> None:
    line = row("ids", (figures(250_000, 3.5), figures(50_000, 30.25)))
    about = "distinct message-id, correlation-id, timestamp"
    assert cells(line) == ["ids", about, "250,000/s", "50,000/s", "**5.0x**", "3.5 µs", "30.2 µs", "50 MiB"]


@pytest.mark.parametrize(
    ("ours", "ratio", "cpu"),
    [
        (figures(250_000, 3.5), "**5.0x**", "3.5 µs"),
        (figures(249_000, 3.5), "**5.0x** (!)", "3.5 µs"),
        (figures(250_000, 3.6), "**5.0x**", "3.6 µs (!)"),
    ],
)
def test_missed_floor_is_marked(ours: Figures, ratio: str, cpu: str) -> None:
    found = cells(row("ids", (ours, figures(50_000, 30))))
    assert (found[4], found[5]) == (ratio, cpu)


def test_ratio_to_another_checkout_has_no_floor() -> None:
    found = cells(row("ids", (figures(55_000, 9), figures(50_000, 10)), asked=False))
    assert (found[4], found[5]) == ("**1.10x**, CPU 0.90x", "9.0 µs (!)")


def test_row_without_a_peer() -> None:
    assert cells(row("ids", (figures(55_000, 3), None)))[3:] == ["-", "-", "3.0 µs", "-", "50 MiB"]


def test_row_of_latencies_marks_each_percentile() -> None:
    ours, theirs = figures(2_000, 50, 65, 150), figures(2_000, 99, 100, 1_000)
    found = cells(row("latency-2k/s", (ours, theirs)))
    assert found[2:5] == ["p50 65 µs, p99 150 µs", "p50 100 µs, p99 1,000 µs", "p50 0.65 (!), p99 0.15"]


def test_start_has_floors_of_its_own() -> None:
    ours, theirs = {"start_s": 0.31, "rss_kb": 40.0 * 1024}, {"start_s": 3.1, "rss_kb": 120.0 * 1024}
    found = cells(row(START, (ours, theirs)))
    assert found[2:] == ["0.31 s (!)", "3.10 s", "0.10", "-", "-", "40 MiB, its 120 MiB"]


def test_medians_are_of_each_figure() -> None:
    assert medians([{"a": 1, "b": 9}, {"a": 3, "b": 7}, {"a": 2, "b": 8}]) == {"a": 2, "b": 8}


def test_real_traffic_comes_before_identical_messages() -> None:
    found = {name: (figures(10), figures(5)) for name in reversed(WORKLOADS)}
    lines = results("a machine", found).splitlines()
    names = [cells(line)[0] for line in lines if line.startswith("| ")]
    assert [name for name in names if name in WORKLOADS] == [*REAL, *IDENTICAL]
    labels = [cells(line)[0] for line in readme(found).splitlines()[2:]]
    identical = [label.startswith("identical messages: ") for label in labels]
    assert identical == sorted(identical)
    assert "(!)" not in readme(found)
    assert any(identical)
    assert not all(identical)


def test_table_goes_between_its_mark_and_the_next_end(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text("a\n<!-- one -->\nold\n<!-- end -->\nb\n<!-- two -->\nkept\n<!-- end -->\n")
    replace(path, "one", "new\nlines")
    expected = "a\n<!-- one -->\nnew\nlines\n<!-- end -->\nb\n<!-- two -->\nkept\n<!-- end -->\n"
    assert path.read_text() == expected
    with pytest.raises(ValueError, match="no line <!-- three -->"):
        replace(path, "three", "lost")


@pytest.mark.parametrize("name", ["README.md", "benchmarks/RESULTS.md"])
def test_documents_have_the_marks(name: str) -> None:
    text = (Path(__file__).parents[2] / name).read_text()
    marks = {"README.md": ["speed"], "benchmarks/RESULTS.md": ["table", "log table"]}[name]
    for mark in marks:
        assert text.partition(f"<!-- {mark} -->\n")[2].count("\n<!-- end -->") >= 1
