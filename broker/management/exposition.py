"""Prometheus' text format 0.0.4: a HELP and a TYPE line, then the samples of that name.

Flow:   views give families, or the lines of what there is very much of; `texts` are the pieces of an answer.
Limits: a piece has 500 samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
PIECE: Final = 500


class Sample(NamedTuple):
    """One value, with its labels."""

    value: float
    labels: Mapping[str, str] = {}


class Family(NamedTuple):
    """All samples of one name."""

    name: str
    kind: str
    help: str
    samples: Sequence[Sample]


def gauge(name: str, help: str, *samples: Sample) -> Family:
    return Family(name, "gauge", help, samples)


def counter(name: str, help: str, *samples: Sample) -> Family:
    return Family(f"{name}_total", "counter", help, samples)


# ---- text ----


def texts(families: Iterable[Family]) -> Iterator[str]:
    """Short families together, and a long one in pieces."""
    lines: list[str] = []
    for family in families:
        lines.append(head(family.name, family.kind, family.help))
        for sample in family.samples:
            lines.append(_line(family.name, sample.labels, sample.value))
            if len(lines) >= PIECE:
                yield "".join(lines)
                lines.clear()
    yield "".join(lines)


def each(name: str, labels: Iterable[str], values: Iterable[float | None]) -> Iterator[str]:
    """The lines of one name, for labels as `labelled` makes them; those without a value are left out."""
    found = zip(labels, values, strict=True)
    while piece := list(islice(found, PIECE)):
        yield "".join([f"{name}{{{label}}} {value}\n" for label, value in piece if value is not None])


def head(name: str, kind: str, help: str) -> str:
    return f"# HELP {name} {help}\n# TYPE {name} {kind}\n"


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    if not labels:
        return f"{name} {value}\n"
    return f"{name}{{{labelled(labels)}}} {value}\n"


def labelled(labels: Mapping[str, str]) -> str:
    return ",".join([f'{label}="{escaped(text)}"' for label, text in labels.items()])


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
