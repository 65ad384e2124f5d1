"""Search for counterexamples with fresh seeds, round after round, until the time is over.

Flow:   `make hunt HUNT_MINUTES=600` runs this. A round is all properties, and the tests that kill brokers, with
        one seed. A test that has failed is left out of the rounds that follow; at the end each is listed with
        the command that repeats it. What was found becomes a test with a name of its own beside it.
Limits: the round that is under way when the time is over is the last.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent

_CRASH = "LEVERET_CRASH_SEED"
_FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)
_FOUND, _NOTHING = 1, 0


@dataclass
class Hunt:
    arguments: list[str]
    """pytest's: which tests, how many processes."""
    logs: Path
    failed: dict[str, int] = field(default_factory=dict)
    """The seed of each test that has failed."""

    def round(self, seed: int) -> None:
        log = self.logs / f"{seed}.log"
        left_out = [f"--deselect={node_id}" for node_id in self.failed]
        command = [sys.executable, "-m", "pytest", *_seeded(seed), "-m", "hypothesis or crash"]
        command += ["-q", "-rfE", "--color=no", *left_out, *self.arguments]
        with log.open("wb") as output:
            environment = {**os.environ, _CRASH: str(seed)}
            code = subprocess.call(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        if code not in (_NOTHING, _FOUND):
            sys.exit(f"pytest ended with {code}:\n{log.read_text()}")
        for node_id in _FAILED.findall(log.read_text()):
            self.failed[node_id] = seed
            print(f"  {node_id}: see {log}", flush=True)


def _seeded(seed: int) -> list[str]:
    return ["--hypothesis-profile=hunt", f"--hypothesis-seed={seed}"]


def main() -> int:
    parser = argparse.ArgumentParser(description="Search for counterexamples with fresh seeds.")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("pytest", nargs="*", metavar="ARGUMENT", help="behind --: pytest's, as tests or -n 2")
    given = parser.parse_args()
    hunt = Hunt(given.pytest, Path(tempfile.mkdtemp(prefix="leveret-hunt-")))
    end = time.monotonic() + given.minutes * 60
    rounds = 0
    while time.monotonic() < end:
        seed = secrets.randbelow(1 << 32)
        rounds += 1
        print(f"round {rounds}: seed {seed}", flush=True)
        hunt.round(seed)
    print(f"{rounds} rounds, {len(hunt.failed)} tests failed")
    for node_id, seed in hunt.failed.items():
        print(f"{_CRASH}={seed} {sys.executable} -m pytest {' '.join(_seeded(seed))} '{node_id}'")
    return _FOUND if hunt.failed else _NOTHING


if __name__ == "__main__":
    sys.exit(main())
