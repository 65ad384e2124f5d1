"""Starting a broker after a crash; now and then it is killed while it recovers."""

from __future__ import annotations

import random

import trio

from process import BrokerProcess


async def start_somehow(broker: BrokerProcess, chance: random.Random) -> int:
    """Returns how often it was killed before it could start."""
    kills = 0
    while chance.random() < 0.3:
        kills += 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, _start_to_be_killed, broker)
            while broker.process is None:
                await trio.lowlevel.checkpoint()
            process = broker.process
            await trio.sleep(chance.uniform(0.1, 0.8))
            process.kill()
    broker.start()
    return kills


def _start_to_be_killed(broker: BrokerProcess) -> None:
    try:
        broker.start()
    except AssertionError as error:
        if "did not start" not in str(error):
            raise
    broker.kill()
