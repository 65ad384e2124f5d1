"""Apache Kafka's Java libraries from Maven Central, fetched once into the user's cache folder.

Flow:   `kafka_jars()` gives a folder to put on the class path; the second call finds it there.
Shape:  server, client and command line tools, about 45 MB: the tools need most of the server's libraries.
Limits: a fetch takes `FETCH_S` at most; what is wrong with it is said in `Unavailable`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

VERSION = "4.3.1"
FETCH_S = 300

# Connect and its web server are what the tools could do without.
_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>leveret</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{VERSION}</version>
      <exclusions>
        <exclusion><groupId>org.apache.kafka</groupId><artifactId>connect-runtime</artifactId></exclusion>
      </exclusions>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"""


class Unavailable(Exception):
    """The libraries are not to be had here; the text says what is missing."""


def kafka_jars() -> Path:
    """The folder with them.

    Raises:
        Unavailable: Java or Maven are missing, or Maven could not fetch them.
    """
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            raise Unavailable(f"{program} is missing")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leveret-java"
    folder = cache / f"kafka-{VERSION}-{hashlib.sha256(_POM.encode()).hexdigest()[:8]}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _fetch(folder)
    return folder


def _fetch(folder: Path) -> None:
    """Under another name first: what is there under its own is whole."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        (Path(made) / "pom.xml").write_text(_POM)
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
