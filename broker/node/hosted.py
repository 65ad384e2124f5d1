"""A consumer group as a node hosts it, and what all of them take in memory.

Flow:   `groups.py` counts a group after something has changed in it; the model asks what room there is before.
Limits: `size_max` octets, about; what makes a group larger is refused, and what does not is not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from broker.model.committed import Committed
from broker.model.group import Group
from broker.node.scheduler import Timer

logger = logging.getLogger("broker.node")

# From here on an operator is told.
_NEARLY_FULL: Final = 0.9

Token: TypeAlias = Callable[[Any], None]


@dataclass(slots=True, eq=False)
class Hosted:
    """A group, with what is beside it."""

    group: Group[Token]
    committed: Committed
    timer: Timer | None = None
    rebalances: int = 0
    counted: int = 0
    """Octets of it that are counted already in what all groups keep."""
    gone: bool = False

    @property
    def size(self) -> int:
        """Octets that it takes in memory, about."""
        return self.group.size + self.committed.size


class GroupRoom:
    """Knows how large all groups are together."""

    def __init__(self, size_max: int) -> None:
        self.size = 0
        self.size_max = size_max
        self._nearly_full = False

    def left(self, hosted: Hosted | None) -> int:
        """Octets that all groups may keep beside what they do; what has grown in this one is not counted yet."""
        uncounted = hosted.size - hosted.counted if hosted is not None else 0
        return self.size_max - self.size - uncounted

    def count(self, hosted: Hosted) -> None:
        """Something may have changed in it."""
        if not hosted.gone:
            self._count(hosted, hosted.size)

    def forget(self, hosted: Hosted) -> None:
        """It is gone."""
        hosted.gone = True
        self._count(hosted, 0)

    def _count(self, hosted: Hosted, size: int) -> None:
        self.size += size - hosted.counted
        hosted.counted = size
        nearly_full = self.size > self.size_max * _NEARLY_FULL
        if nearly_full and not self._nearly_full:
            said = "groups take %d octets in memory: what would make them more than %d is refused"
            logger.warning(said, self.size, self.size_max)
        self._nearly_full = nearly_full
