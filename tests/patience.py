"""How long tests wait for what must happen: only a failure takes so long, however slow the machine is.

Limits: all of them are well below that of a test, which pyproject.toml has.
"""

from __future__ import annotations

from typing import Final

WAIT_S: Final = 60.0
"""For an answer, which takes milliseconds on a quiet machine."""

PROGRAM_S: Final = 180.0
"""For a program to start, to do what it was started for, or to end; that takes seconds."""
