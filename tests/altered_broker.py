"""A broker process that runs a few lines of the test's own before it serves: other times, a disk that fails.

Flow:   `AlteredBroker(tmp_path, program)` is a `BrokerProcess`; the program changes modules of the broker.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from process import BrokerProcess

_SERVE = "from broker.cli import main\nmain()\n"


class AlteredBroker(BrokerProcess):
    """`leveret serve` behind `program`, which is Python."""

    def __init__(self, folder: Path, program: str, *flags: str, **options: Any) -> None:
        super().__init__(folder, *flags, **options)
        at = self._command.index("-m")
        self._command[at : at + 2] = ["-c", program + _SERVE]
