"""Work in turns: how much of it others see."""

import trio

from broker.management import turns
from broker.management.turns import Turns


async def test_many_requests_have_one_turn_in_each_pass(monkeypatch):
    monkeypatch.setattr(turns, "TURN_S", 0.0)
    steps = 0
    most = 0

    async def walk():
        nonlocal steps
        own = Turns()
        for _ in range(20):
            steps += 1
            await own.take_break()

    async def watch():
        nonlocal steps, most
        await trio.lowlevel.checkpoint()  # each has its first turn in the same pass
        await trio.lowlevel.checkpoint()
        while True:
            steps = 0
            await trio.lowlevel.checkpoint()
            most = max(most, steps)

    async with trio.open_nursery() as watching:
        watching.start_soon(watch)
        async with trio.open_nursery() as walking:
            for _ in range(10):
                walking.start_soon(walk)
        watching.cancel_scope.cancel()
    # Two at most: one pass may end before, and the next one begin behind, the watcher.
    assert 1 <= most <= 2
