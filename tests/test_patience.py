"""Tests take the limit of a wait from patience.py: a number of their own is one that a slow machine reaches."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
NUMBER = re.compile(r"(?:fail_after|asyncio\.timeout|mark\.timeout|settimeout)\(\d")


@pytest.mark.parametrize("code", ["with trio.fail_after(5):", "@pytest.mark.timeout(10)"])
def test_a_number_is_found(code: str) -> None:
    assert NUMBER.search(code)


def test_no_wait_has_a_limit_of_its_own() -> None:
    found = [
        f"{file.relative_to(FOLDER)}:{number}: {line.strip()}"
        for file in FOLDER.rglob("*.py")
        if file != Path(__file__)
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if NUMBER.search(line)
    ]
    assert found == []
