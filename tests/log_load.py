"""A load on a broker's log, which goes on while the broker dies and comes back.

Flow:   `with Load(...) as load:` runs idempotent senders, members of one group that come and go, and a reader
        without a group, a thread each; `finish` ends them when all that was sent has been read by both.
Limits: senders wait while the group is `_BEHIND_MAX` records behind them.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Self

from log_clients import WAIT_S, Member, Reader, Sender, read_commits, read_logs
from log_history import History, Log, Read

GROUP = "group"
_BEHIND_MAX = 1000
_WINDOWS = (1, 50, 200)
_MEMBERS = 3


class Load:
    """Its clients and what they have seen."""

    def __init__(self, bootstrap: str, topic: str, partitions: int, seed: str) -> None:
        self.history = History()
        self._bootstrap = bootstrap
        self._topic = topic
        self._place = (bootstrap, topic, partitions)
        self._seed = seed
        self._senders = [
            Sender(bootstrap, self.history, topic, partitions, f"sender-{number}", window=window)
            for number, window in enumerate(_WINDOWS)
        ]
        self._reader = Reader(bootstrap, self.history, topic, "reader", dict.fromkeys(range(partitions), 0))
        self._group_read = 0
        self._counting = threading.Lock()
        self._sent_all = threading.Event()
        self._read_all = threading.Event()
        self._failures: list[BaseException] = []
        runs = [lambda one=one: self._send(one) for one in self._senders]
        runs += [lambda number=number: self._consume(number) for number in range(_MEMBERS)]
        runs.append(self._read)
        self._threads = [threading.Thread(target=self._guarded, args=(run,), daemon=True) for run in runs]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._sent_all.set()
        self._read_all.set()

    @property
    def acknowledged(self) -> int:
        return sum(sender.acknowledged for sender in self._senders)

    # ---- the threads ----

    def _guarded(self, run: Callable[[], None]) -> None:
        try:
            run()
        except BaseException as error:
            self._failures.append(error)

    def _send(self, sender: Sender) -> None:
        while not self._sent_all.is_set():
            if self.acknowledged > self._group_read + _BEHIND_MAX:
                self._sent_all.wait(0.02)
            else:
                sender.work()
        sender.finish()

    def _consume(self, number: int) -> None:
        """One member after the other; each leaves after a while, most of them after a commit."""
        chance = random.Random(f"{self._seed}/member/{number}")
        life = 0
        while not self._read_all.is_set():
            life += 1
            name = f"member-{number}.{life}"
            member = Member(self._bootstrap, self.history, self._topic, name, GROUP)
            self._live(member, chance)
            if chance.random() < 0.7:
                member.commit(waits=True)
            member.close()

    def _live(self, member: Member, chance: random.Random) -> None:
        passes = chance.randint(50, 500)
        while not self._read_all.is_set() and passes:
            passes -= 1
            count = member.work()
            with self._counting:
                self._group_read += count
            if chance.random() < 0.2:
                member.commit(waits=chance.random() < 0.1)

    def _read(self) -> None:
        while not self._read_all.is_set():
            self._reader.work()
        self._reader.close()

    # ---- the end ----

    def check(self) -> None:
        """Raises what a client has died of."""
        if self._failures:
            raise self._failures[0]

    def goes_on(self) -> None:
        """Wait until something more is acknowledged."""
        before = self.acknowledged
        self._wait(lambda: self.acknowledged > before, "nothing is acknowledged")

    def _wait(self, until: Callable[[], object], otherwise: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not until():
            self.check()
            assert time.monotonic() < deadline, otherwise
            time.sleep(0.02)

    def finish(self) -> dict[str, Log]:
        """Returns the logs, when everybody has read and committed them to their ends, and has gone."""
        self._sent_all.set()
        self._wait(
            lambda: not any(thread.is_alive() for thread in self._threads[: len(_WINDOWS)]), "senders hang"
        )
        logs = read_logs(*self._place)
        self._wait(lambda: self._has_read_all(logs), "not all is read")
        ends = {name: log.end for name, log in logs.items()}
        self._wait(lambda: read_commits(*self._place, GROUP) == ends, "not all is committed")
        self._read_all.set()
        for thread in self._threads:
            thread.join(WAIT_S)
            assert not thread.is_alive(), "a client does not end"
        self.check()
        return logs

    def _has_read_all(self, logs: dict[str, Log]) -> bool:
        missing = {
            (group, name, log.end - 1) for name, log in logs.items() if log.end for group in ("", GROUP)
        }
        for event in reversed(self.history.events):
            if not missing:
                break
            if isinstance(event, Read):
                missing.discard((event.group, event.partition, event.offset))
        return not missing
