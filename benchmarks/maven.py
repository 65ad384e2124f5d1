"""Java libraries from Maven Central, fetched once into the user's cache folder.

Flow:   `jars("kafka-tools", [...])` gives a folder to put on the class path; the second call finds it there.
Limits: a fetch takes `FETCH_S` at most; what is wrong with it is said in `Unavailable`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

FETCH_S = 300

_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>leveret</groupId><artifactId>{name}</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>{dependencies}</dependencies>
</project>
"""


class Unavailable(Exception):
    """The libraries are not to be had here; the text says what is missing."""


def jars(name: str, artifacts: Sequence[str], without: Sequence[str] = ()) -> Path:
    """The folder with these artifacts (`group:artifact:version`) and what they need.

    `without` are dependencies (`group:artifact`, or `*:*` for all of them) that are left out.

    Raises:
        Unavailable: Java or Maven are missing, or Maven could not fetch them.
    """
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            raise Unavailable(f"{program} is missing")
    pom = _pom(name, artifacts, without)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leveret-java"
    folder = cache / f"{name}-{hashlib.sha256(pom.encode()).hexdigest()[:12]}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _fetch(pom, folder)
    return folder


def _pom(name: str, artifacts: Sequence[str], without: Sequence[str]) -> str:
    exclusions = "".join(f"<exclusion>{_names(coordinate)}</exclusion>" for coordinate in without)
    dependencies = "".join(
        f"<dependency>{_names(coordinate)}<exclusions>{exclusions}</exclusions></dependency>"
        for coordinate in artifacts
    )
    return _POM.format(name=name, dependencies=dependencies)


def _names(coordinate: str) -> str:
    parts = zip(("groupId", "artifactId", "version"), coordinate.split(":"), strict=False)
    return "".join(f"<{part}>{value}</{part}>" for part, value in parts)


def _fetch(pom: str, folder: Path) -> None:
    """Under another name first: what is there under its own is whole."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        (Path(made) / "pom.xml").write_text(pom)
        command = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime"]
        command.append("-DoutputDirectory=jars")
        try:
            done = subprocess.run(command, cwd=made, capture_output=True, text=True, timeout=FETCH_S)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"Maven: no answer in {FETCH_S} s") from None
        if done.returncode:
            raise Unavailable(f"Maven: {(done.stdout + done.stderr).strip()[:500]}")
        try:
            os.rename(Path(made) / "jars", folder)
        except OSError:  # another process was quicker
            if not folder.exists():
                raise
