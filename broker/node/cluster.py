"""What the cluster is called: clients, metrics and people see it; nothing here depends on it.

Shape:  the definition `cluster_name`, once it has been changed; the node's name until then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from broker.node.definitions import Change
from broker.node.flusher import Flusher

_KEY: Final = "cluster_name"


class Cluster:
    """Of one node, so far."""

    def __init__(self, name: str, flusher: Flusher) -> None:
        self.name = name
        self._flusher = flusher

    def rename(self, name: str) -> None:
        """At most 255 bytes, as `connection.start` must fit a frame of 4,096."""
        self.name = name
        self._flusher.change([Change(_KEY, {"name": name})])

    def load(self, found: Mapping[str, dict[str, Any]]) -> None:
        """From all definitions, at start."""
        self.name = found.get(_KEY, {}).get("name", self.name)
