"""A program in Go, built once for all tests of a run; what Go has built is in its own cache for the next.

Limits: a build takes `BUILD_S` at most. A test that needs a program is skipped, and says so, when go is missing or too
        old, or the way to the modules is; any other failure is one of the test.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

BUILD_S = 900

# What Go says when it is not the program that is wrong, but the way to the modules.
_UNREACHABLE = re.compile(
    r"no such host|connection refused|connection reset|network is unreachable|i/o timeout|TLS handshake timeout"
    r"|proxyconnect|temporary failure in name resolution|module lookup disabled by GOPROXY=off"
)
_TOO_OLD = re.compile(r"requires go >= \S+ \(running go|invalid go version|module requires Go")


def built(source: Path, folder: Path) -> Path:
    """The program of the module in `source`, which is put into `folder`."""
    if shutil.which("go") is None:
        pytest.skip("go is missing")
    program = folder / source.name
    environment = {**os.environ, "CGO_ENABLED": "0"}
    command = ["go", "build", "-o", str(program), "."]
    try:
        done = subprocess.run(
            command, cwd=source, env=environment, capture_output=True, text=True, timeout=BUILD_S
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"go build: not done in {BUILD_S} s")
    for why in (_UNREACHABLE, _TOO_OLD):
        if done.returncode and (found := why.search(done.stderr)):
            pytest.skip(f"go build: {found[0]}")
    assert done.returncode == 0, done.stderr
    return program
