"""Metrics as Prometheus scrapes them."""

from __future__ import annotations

import re
from typing import Any

from api_here import ApiHere

_SAMPLE = re.compile(r'^([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)*)\})? (\S+)$')

Samples = dict[str, list[tuple[dict[str, str], float]]]


def parsed(text: str) -> Samples:
    """The samples by name; fails on a line that is none, and on one without a type before it."""
    samples: Samples = {}
    typed = set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            name = line.split()[2]
            assert name not in typed, f"{name} comes twice"
            typed.add(name)
        elif not line.startswith("# HELP "):
            found = _SAMPLE.match(line)
            assert found, line
            assert found[1] in typed
            labels = dict(re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', found[2] or ""))
            samples.setdefault(found[1], []).append((labels, float(found[3])))
    return samples


async def scrape(api: ApiHere, path: str = "/metrics") -> Samples:
    """Where metrics are alone, without a login."""
    answer = await api.client.get(f"http://127.0.0.1:{api.port('http/prometheus')}{path}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parsed(answer.text)


def value(samples: Samples, name: str, **labels: Any) -> float:
    """Of the only one that has these labels."""
    (found,) = [number for has, number in samples[name] if labels.items() <= has.items()]
    return found
