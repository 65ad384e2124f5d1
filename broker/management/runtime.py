"""What the operating system says of this process.

Limits: what is asked of it are a few small files below /proc and one directory.
"""

from __future__ import annotations

import gc
import os
import platform
import resource
import time
from typing import Final

import trio

PYTHON_VERSION: Final = platform.python_version()
# What RabbitMQ's clients read where they look for the version of Erlang.
RUNTIME: Final = f"{platform.python_implementation()} {PYTHON_VERSION} [trio {trio.__version__}]"

_MAX: Final = 2**31 - 1
_START_FIELD: Final = 22


def started_at_s() -> float:
    """When this process began, in seconds since 1970."""
    with open("/proc/self/stat") as file:
        # The name of the program may hold anything, up to the last bracket.
        fields = file.read().rpartition(")")[2].split()
    since_boot = int(fields[_START_FIELD - 3]) / os.sysconf("SC_CLK_TCK")
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot


def descriptors_used() -> int:
    return len(os.listdir("/proc/self/fd"))


def descriptors_max() -> int:
    return _limit(resource.RLIMIT_NOFILE)


def processes_max() -> int:
    """How many tasks RabbitMQ's clients may think there can be; trio has no limit of its own."""
    return _limit(resource.RLIMIT_NPROC)


def _limit(kind: int) -> int:
    soft = resource.getrlimit(kind)[0]
    return _MAX if soft == resource.RLIM_INFINITY else min(soft, _MAX)


def processors() -> int:
    return len(os.sched_getaffinity(0))


def context_switches() -> int:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_nvcsw + usage.ru_nivcsw


def collections() -> int:
    """How often Python looked for cycles."""
    return sum(generation["collections"] for generation in gc.get_stats())
