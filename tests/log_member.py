"""A member of a consumer group in a process of its own, made to be killed.

Flow:   `python log_member.py BOOTSTRAP TOPIC GROUP NAME HISTORY SESSION_MS` notes what it sees in the file HISTORY
        and prints a line for what a test waits for; SIGTERM has it leave.
Shape:  prints `owns N` when it gets N partitions, `read` and `committed` for the first time after that,
        and `last PARTITION` for a record of the sender `last`, when that is committed.
"""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import closing
from pathlib import Path

from confluent_kafka import Message, TopicPartition

from log_clients import Member, name_of
from log_history import History
from promises import identity_of

LAST = "last"
_COMMIT_EVERY = 10


class SpeakingMember(Member):
    """It prints, and commits after every few records."""

    def begin(self, assigned: list[TopicPartition]) -> None:
        super().begin(assigned)
        self._told: set[str] = set()
        self._uncommitted = 0
        print(f"owns {len(assigned)}")

    def came(self, message: Message) -> None:
        self._tell("read")
        self._uncommitted += 1
        if identity_of(message.value()).publisher == LAST:
            if self.commit(waits=True):  # or it comes again, to whoever has the partition then
                print(f"{LAST} {name_of(message)}")
        elif self._uncommitted >= _COMMIT_EVERY and self.commit(waits=True):
            self._uncommitted = 0
            self._tell("committed")

    def _tell(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            print(what)


def main(bootstrap: str, topic: str, group: str, name: str, file: str, session_ms: str) -> None:
    ends = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ends.set())
    with closing(History(Path(file))) as history:
        settings = {"session.timeout.ms": int(session_ms), "heartbeat.interval.ms": 100}
        member = SpeakingMember(bootstrap, history, topic, name, group, **settings)
        while not ends.is_set():
            member.work()
        member.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
