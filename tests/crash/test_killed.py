"""A broker that is killed at any moment under load, started again, and killed again.

`LEVERET_CRASH_ROUNDS` asks for more rounds, `LEVERET_CRASH_SEED` for other choices: when to kill, what clients do.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from altered_broker import AlteredBroker
from crash_load import inspect, load, set_up
from promises import Promises
from restarts import start_somehow

ROUNDS = int(os.environ.get("LEVERET_CRASH_ROUNDS", "10"))
SEED = int(os.environ.get("LEVERET_CRASH_SEED", "1"))
# A round takes at most this long.
ROUND_S = 120

CONFIG = """
[limits]
segment_size = 200_000
queue_memory = 100_000
"""
# What else comes every few seconds, or after some MiB, comes all the time.
OFTEN = """
import broker.node.node
from broker.node.flusher import Flusher
broker.node.node._TIDY_MS = 150
Flusher.__init__.__kwdefaults__["journal_size_max"] = 300_000
"""


@pytest.mark.crash
@pytest.mark.timeout(ROUNDS * ROUND_S)
@pytest.mark.parametrize("program", ["", OFTEN], ids=["as it is", "often"])
async def test_what_was_confirmed_survives_any_number_of_kills(tmp_path: Path, program: str) -> None:
    seed = f"{SEED}/{len(program)}"
    chance = random.Random(seed)
    promises = Promises()
    kills = 0
    began = time.monotonic()
    with AlteredBroker(tmp_path, program, config=CONFIG) as broker:
        await set_up(broker.amqp)
        for number in range(ROUNDS // 2):
            await load(broker.amqp, promises, f"{seed}/{number}", broker.kill)
            kills += 1 + await start_somehow(broker, chance)
            await inspect(broker.amqp, promises, chance)
            log = broker.log.read_text()
            assert "Traceback" not in log
            assert "ERROR" not in log
        assert broker.stop() == 0
        broker.start()
        await inspect(broker.amqp, promises, chance)
    print(
        f"{kills} kills, {promises.confirms} confirms, {promises.settlements} settlements, "
        f"{time.monotonic() - began:.0f} s"
    )
    assert promises.confirms > ROUNDS
    assert promises.settlements > ROUNDS
