"""Exit codes of sysexits.h, as RabbitMQ's tools have them, and a shell's for Ctrl-C."""

from __future__ import annotations

from typing import Final

UNAVAILABLE: Final = 69
FAILED: Final = 70
IN_USE: Final = 75
BAD_CONFIG: Final = 78
INTERRUPTED: Final = 130
