"""A broker that is killed at any moment under producers and consumers of its log, and started again.

`LEVERET_CRASH_ROUNDS` asks for more rounds, `LEVERET_CRASH_SEED` for other choices: when to kill, what clients do.
"""

from __future__ import annotations

import os
import random
import time

import pytest
import trio

from altered_broker import AlteredBroker
from log_clients import read_commits, read_logs
from log_history import CommitAnswered, check
from log_load import GROUP, Load
from ports import free_port
from restarts import start_somehow

ROUNDS = int(os.environ.get("LEVERET_CRASH_ROUNDS", "10"))
SEED = int(os.environ.get("LEVERET_CRASH_SEED", "1"))
# A round takes at most this long.
ROUND_S = 120
TOPIC = "orders"
PARTITIONS = 4

CONFIG = f"""
[limits]
segment_size = 200_000
[[topic]]
name = "{TOPIC}"
partitions = {PARTITIONS}
"""
# What else comes every few seconds, or after some MiB, comes all the time; and the disk takes so long that there is
# always something that is not safe.
OFTEN = """
import broker.node.groups, broker.node.node, broker.node.topics
from broker.node.flusher import Flusher
broker.node.node._TIDY_MS = 150
broker.node.groups._LOG_SIZE_MIN = 10_000
broker.node.topics._SEGMENT_SIZE_MAX = 100_000
Flusher.__init__.__kwdefaults__["journal_size_max"] = 300_000
import time
from broker.node.worker import Worker
attempt = Worker.attempt
def attempt_slowly(*arguments):
    time.sleep(0.01)
    return attempt(*arguments)
Worker.attempt = attempt_slowly
"""


@pytest.mark.crash
@pytest.mark.timeout(ROUNDS * ROUND_S)
@pytest.mark.parametrize("program", ["", OFTEN], ids=["as it is", "often and slowly"])
async def test_what_was_acknowledged_survives_any_number_of_kills(tmp_path, program):
    seed = f"{SEED}/{len(program)}"
    chance = random.Random(seed)
    kills = 0
    began = time.monotonic()
    flags = ("--kafka", f"127.0.0.1:{free_port()}")
    with AlteredBroker(tmp_path, program, *flags, config=CONFIG) as broker:
        with Load(broker.bootstrap, TOPIC, PARTITIONS, seed) as load:
            for _ in range(max(ROUNDS // 2, 1)):
                await trio.to_thread.run_sync(load.goes_on)
                await trio.sleep(chance.uniform(0.0, 2.0))
                broker.kill()
                kills += 1 + await start_somehow(broker, chance)
            logs = await trio.to_thread.run_sync(load.finish)
        assert check(load.history.events, logs)[:10] == []
        log = broker.log.read_text()
        assert "Traceback" not in log
        assert "ERROR" not in log
        assert broker.stop() == 0
        broker.start()
        place = (broker.bootstrap, TOPIC, PARTITIONS)
        assert read_logs(*place) == logs
        assert read_commits(*place, GROUP) == {name: found.end for name, found in logs.items()}
    commits = sum(isinstance(event, CommitAnswered) for event in load.history.events)
    print(f"{kills} kills, {load.acknowledged} records, {commits} commits, {time.monotonic() - began:.0f} s")
    assert load.acknowledged > 10 * ROUNDS
    assert commits > ROUNDS
