"""The examples of properties are the same in every run."""

from __future__ import annotations

import importlib
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

CONSTANT = 7_340_043


def drawn() -> list[int]:
    found = []

    @settings(max_examples=1000, derandomize=True)
    @given(st.integers(0, 1 << 24))
    def draw(number: int) -> None:
        found.append(number)

    draw()
    return found


def test_examples_do_not_depend_on_what_is_imported(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = drawn()
    folder = tmp_path_factory.getbasetemp() / "local"
    folder.mkdir()
    (folder / "imported_later.py").write_text(f"LIMITS = [{CONSTANT}, {CONSTANT + 1}, {CONSTANT + 2}]\n")
    monkeypatch.syspath_prepend(folder)
    importlib.import_module("imported_later")
    try:
        assert drawn() == before
    finally:
        del sys.modules["imported_later"]
