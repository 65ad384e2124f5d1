"""Kafka's own command line tools, which are Java programs, run against a broker.

Flow:   `JavaTools(jars(), "127.0.0.1:9092").run("TopicCommand", "--list")` gives the lines that it prints.
Limits: a tool that takes longer than `PROGRAM_S` fails the test.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from benchmarks.kafka_java import Unavailable, kafka_jars
from patience import PROGRAM_S
from program import Program

_CLASSES = {
    "ConfigCommand": "kafka.admin.ConfigCommand",
    "ConsoleConsumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "ConsumerGroupCommand": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
}
"""The others are all in one package."""

# They live for a second: compiling well costs more than it gives.
_JVM = (
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-Xmx128m",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


def jars() -> Path:
    """The folder with their libraries; a test that needs them is skipped where they are not to be had."""
    try:
        return kafka_jars()
    except Unavailable as error:
        pytest.skip(f"Kafka's Java tools: {error}")


class JavaTools:
    """The tools, for one broker."""

    def __init__(self, jars: Path, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self._jars = jars
        self._jvm = _JVM
        archive = jars.with_name(f"{jars.name}.jsa")
        if not archive.exists():
            self._make(archive)
        self._jvm = (*_JVM, f"-XX:SharedArchiveFile={archive}")

    def _make(self, archive: Path) -> None:
        """Of the classes that a tool uses: with them at hand the others start in half the time."""
        with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
            made = Path(folder) / "classes.jsa"
            self._jvm = (*_JVM, f"-XX:ArchiveClassesAtExit={made}", "-Xlog:disable")
            self.run("TopicCommand", "--list")
            os.replace(made, archive)

    def run(self, tool: str, *arguments: str, text: str = "") -> list[str]:
        """The lines that it prints, without empty ones; `text` is what it reads."""
        code, lines, said = self._ran(tool, *arguments, text=text)
        assert code == 0, said
        return lines

    def refused(self, tool: str, *arguments: str) -> str:
        """All that a tool says that ends with an error."""
        code, _, said = self._ran(tool, *arguments)
        assert code == 1, said
        return said

    def tried(self, tool: str, *arguments: str) -> tuple[int, str]:
        """The exit code of a tool that may fail, and all that it says."""
        code, _, said = self._ran(tool, *arguments)
        return code, said

    def started(self, tool: str, *arguments: str) -> Program:
        """One that goes on until it is told to end."""
        return Program(*self._arguments(tool, *arguments), program="java", environment={})

    def _ran(self, tool: str, *arguments: str, text: str = "") -> tuple[int, list[str], str]:
        command = ["java", *self._arguments(tool, *arguments)]
        try:
            done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=PROGRAM_S)
        except subprocess.TimeoutExpired as error:
            said = f"{_text(error.stdout)}{_text(error.stderr)}"
            pytest.fail(f"{tool} {' '.join(arguments)} did not end in {PROGRAM_S:g} s:\n{said}")
        lines = [line.rstrip() for line in done.stdout.splitlines() if line.strip()]
        return done.returncode, lines, done.stdout + done.stderr

    def _arguments(self, tool: str, *arguments: str) -> list[str]:
        name = _CLASSES.get(tool, f"org.apache.kafka.tools.{tool}")
        return [*self._jvm, "-cp", f"{self._jars}/*", name, "--bootstrap-server", self.bootstrap, *arguments]


def _text(output: bytes | str | None) -> str:
    """What is kept of a process that was killed is not decoded."""
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""
