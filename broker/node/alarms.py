"""When the broker must not take more: memory and disk.

Flow:   `check` runs each second and when a write found the disk full; servers ask `reasons` before they read from a
        publisher, and are told when that changes.
Limits: memory: a share of what the machine, or the control group, has; disk: free octets below which
        publishers wait. A reserve file keeps room for acknowledgements, and to move what the journal holds to
        the files, on a disk that is full; while there is no room for it publishers wait, too.
Spec:   RabbitMQ's alarms; the texts are those of connection.blocked.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

logger = logging.getLogger("broker.node")

MEMORY = "memory"
DISK = "disk"

_CGROUP_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def memory_total() -> int:
    """Octets that this process may use at most: of the machine, or of its control group if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CGROUP_LIMITS:
        try:
            with open(path) as file:
                text = file.read().strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return total


def memory_used() -> int:
    """The resident size of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Alarms:
    """Which alarms are on."""

    def __init__(self, memory_limit: int, disk_free_limit: int, disk_free: Callable[[], int]) -> None:
        self.memory_limit = memory_limit
        self.disk_free_limit = disk_free_limit
        self.memory_used = memory_used
        self.disk_free = disk_free
        self.active: set[str] = set()
        self.changed: list[Callable[[], None]] = []
        """Called after an alarm went on or off."""

    def check(self, *, disk_full: bool) -> None:
        """Look, and tell if it is different from before."""
        now = set()
        if self.memory_used() > self.memory_limit:
            now.add(MEMORY)
        if disk_full or self.disk_free() < self.disk_free_limit:
            now.add(DISK)
        if now == self.active:
            return
        for kind in sorted(now ^ self.active):
            logger.warning("alarm %s: %s", kind, "on, publishers wait" if kind in now else "off")
        self.active = now
        for call in self.changed:
            call()

    @property
    def reason(self) -> str:
        """For connection.blocked: `low on memory & disk`; "" when no alarm is on."""
        return (
            f"low on {' & '.join(kind for kind in (MEMORY, DISK) if kind in self.active)}"
            if self.active
            else ""
        )
