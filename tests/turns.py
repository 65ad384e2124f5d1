"""How long one client waits while another keeps the broker of this process busy.

Why:    In processor time of the thread that both the broker and the test run in, and as a part of the whole: so it
        says the same on a quick machine, on a slow one, and on one that is busy with other things.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import trio

_TRIES = 3


async def longest_wait(ask: Callable[[], Awaitable[Any]], busy: Callable[[], Awaitable[Any]]) -> float:
    """Ask again and again while `busy` runs; the part of its time that the longest answer took.

    The least of three tries: a pause that does not come again, as the garbage collector's, does not count.
    """
    return min([await _longest_wait(ask, busy) for _ in range(_TRIES)])


async def _longest_wait(ask: Callable[[], Awaitable[Any]], busy: Callable[[], Awaitable[Any]]) -> float:
    longest, over = 0.0, False

    async def run() -> None:
        nonlocal over
        await busy()
        over = True

    async with trio.open_nursery() as nursery:
        begun = asked = time.thread_time()
        nursery.start_soon(run)
        while not over:
            await ask()
            now = time.thread_time()
            longest = max(longest, now - asked)
            asked = now
    return longest / (asked - begun)
