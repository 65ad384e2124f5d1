"""Packages of npm, installed once into the user's cache folder.

Limits: an installation takes `PROGRAM_S` at most. A test that needs a package is skipped, and says so, when node
        or npm are missing or the registry does not answer; any other failure is one of the test.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from patience import PROGRAM_S

# What npm says when it is not the package that is wrong, but the way to the registry.
_UNREACHABLE = {
    "ENOTFOUND",
    "EAI_AGAIN",
    "ECONNREFUSED",
    "ECONNRESET",
    "ETIMEDOUT",
    "ENETUNREACH",
    "ENOTCACHED",
}


def installed(package: str, version: str) -> Path:
    """The folder `node_modules` with this package in it."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is missing")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leveret-tests"
    folder = cache / f"{package}-{version}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _install(f"{package}@{version}", folder)
    return folder / "node_modules"


def _install(what: str, folder: Path) -> None:
    """Under another name first: what is there under its own is whole."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", made, what]
        try:
            done = subprocess.run(command, cwd=made, capture_output=True, text=True, timeout=PROGRAM_S)
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm install {what}: no answer in {PROGRAM_S:g} s")
        code = re.search(r"^npm (?:error|ERR!) code (\w+)", done.stderr, re.MULTILINE)
        if code and code[1] in _UNREACHABLE:
            pytest.skip(f"npm install {what}: {code[1]}")
        assert done.returncode == 0, done.stderr
        try:
            os.rename(made, folder)
        except OSError:  # another process was quicker
            assert folder.exists()
        else:
            os.mkdir(made)  # for the end of `with`
