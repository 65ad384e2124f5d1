"""Numbers for idempotent producers: none is given twice, whatever happens to the process.

Shape:  the definition `producer_ids` says which number no process has reserved yet; they are reserved by blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from broker.node.definitions import Change
from broker.node.flusher import Commit, Flusher

KEY: Final = "producer_ids"
_BLOCK: Final = 1000


class ProducerIds:
    """Hands out numbers."""

    def __init__(self, flusher: Flusher) -> None:
        self._flusher = flusher
        self._next = self._reserved = 0
        self._commit: Commit | None = None

    def load(self, found: Mapping[str, dict[str, Any]]) -> None:
        """What is reserved according to the definitions may have been given."""
        self._next = self._reserved = found.get(KEY, {}).get("next", 0)

    def take(self) -> tuple[int, Commit | None]:
        """A number, and the commit that reserves it: it may be told when that is done."""
        if self._next == self._reserved:
            self._reserved += _BLOCK
            self._flusher.change([Change(KEY, {"next": self._reserved})])
            self._commit = self._flusher.open
        taken = self._next
        self._next += 1
        return taken, self._commit
