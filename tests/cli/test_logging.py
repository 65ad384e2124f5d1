"""What the broker writes to its log."""

import logging
import sys

from broker.cli.serve import Text


def record(message, *arguments, exc_info=None):
    return logging.LogRecord("broker", logging.WARNING, __file__, 1, message, arguments, exc_info)


def test_a_record_is_one_line_whatever_is_in_it():
    text = Text("%(levelname)s %(message)s")
    name = "x\n2026-01-01 INFO    user 'guest' logged in\r\x1b[31m\u2028\x85"
    line = text.format(record("client %s refused", name))
    assert line.splitlines() == [line]
    assert line.startswith("WARNING client x\\x0a2026-01-01")
    assert text.format(record("größe %s", "\U0001f407")) == "WARNING größe \U0001f407"


def test_a_trace_has_its_lines():
    try:
        raise ValueError("why")
    except ValueError:
        lines = Text("%(message)s").format(record("failed", exc_info=sys.exc_info())).splitlines()
    assert (lines[0], lines[-1]) == ("failed", "ValueError: why")
    assert len(lines) > 2
