"""Members of a consumer group that are killed: their partitions move, and nothing is skipped or forgotten."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from log_clients import Sender, read_logs
from log_history import Began, CommitAnswered, History, check, read_events
from log_member import LAST
from process import ROOT, BrokerProcess
from program import Program

TOPIC = "orders"
GROUP = "group"
PARTITIONS = 6
# Kafka's least is 6 s, which is the time that such a test would wait.
SESSION_MS = 2000
CONFIG = f"""
[kafka]
session_timeout_min_ms = {SESSION_MS}
[[topic]]
name = "{TOPIC}"
partitions = {PARTITIONS}
"""


class Group:
    """Three members, each in a process of its own, a sender, and what all of them have seen."""

    def __init__(self, folder, bootstrap, stack):
        self.bootstrap = bootstrap
        self.members = {}
        self._folder = folder
        self._stack = stack
        self._sent = History()
        self._sender = self._new_sender("sender")

    def _new_sender(self, name):
        return Sender(self.bootstrap, self._sent, TOPIC, PARTITIONS, name, window=1000)

    def join(self, *names):
        """Wait until the partitions are shared out among all of them."""
        for name in names:
            arguments = (self.bootstrap, TOPIC, GROUP, name, self._folder / name, SESSION_MS)
            environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
            program = Program(ROOT / "tests" / "log_member.py", *map(str, arguments), environment=environment)
            self.members[name] = self._stack.enter_context(program)
        self.share()

    def share(self):
        share = PARTITIONS // len(self.members)
        for member in self.members.values():
            member.line(f"owns {share}")

    def send(self, count):
        for number in range(count):
            self._sender.send(number % PARTITIONS)

    def kill(self, name):
        """In the middle of its work."""
        member = self.members.pop(name)
        member.line("committed")
        member.kill()

    def finish(self):
        """Send the last record of each partition, wait for it, and have everybody leave; returns the logs."""
        self._sender.finish()
        last = self._new_sender(LAST)
        for partition in range(PARTITIONS):
            last.send(partition)
        last.finish()
        for member in self.members.values():
            for _ in range(PARTITIONS // len(self.members)):
                member.line(LAST)
        for member in self.members.values():
            assert member.terminate() == 0, member.output
        return read_logs(self.bootstrap, TOPIC, PARTITIONS)

    def events(self, *names):
        """Of these members, or of everybody."""
        files = [file for file in self._folder.iterdir() if not names or file.name in names]
        found = [event for file in files for event in read_events(file)]
        return found if names else [*self._sent.events, *found]


@pytest.fixture
def group(tmp_path):
    histories = tmp_path / "histories"
    histories.mkdir()
    with BrokerProcess(tmp_path, config=CONFIG, kafka=True) as broker, ExitStack() as stack:
        yield Group(histories, broker.bootstrap, stack)


def committed(events):
    """The largest commit that was answered, of each partition."""
    found = {}
    for event in events:
        if isinstance(event, CommitAnswered):
            found[event.partition] = max(found.get(event.partition, 0), event.offset)
    return found


@pytest.mark.crash
def test_the_partitions_of_a_member_that_is_killed_move(group):
    group.join("one", "two", "three")
    group.send(6000)
    group.kill("three")
    group.send(6000)
    group.share()
    logs = group.finish()
    assert check(group.events(), logs)[:10] == []
    assert committed(group.events()) == {name: log.end for name, log in logs.items()}
    lost = {
        event.partition: event.offset for event in group.events("three") if isinstance(event, CommitAnswered)
    }
    last_seen = group.events("three")[-1].at
    moved = {
        event.partition: event.offset
        for event in group.events("one", "two")
        if isinstance(event, Began) and event.at > last_seen
    }
    assert lost
    assert all(moved[partition] >= offset for partition, offset in lost.items())


@pytest.mark.crash
def test_a_group_of_which_nobody_is_left_goes_on_where_it_was(group):
    group.join("one", "two", "three")
    group.send(6000)
    for name in ("one", "two", "three"):
        group.kill(name)
    before = committed(group.events())
    assert set(before) == {f"{TOPIC}-{number}" for number in range(PARTITIONS)}
    group.send(600)
    group.join("four", "five", "six")
    logs = group.finish()
    assert check(group.events(), logs)[:10] == []
    assert committed(group.events()) == {name: log.end for name, log in logs.items()}
    began = {}
    for event in group.events("four", "five", "six"):
        if isinstance(event, Began):
            began.setdefault(event.partition, event.offset)
    assert all(began[name] >= offset for name, offset in before.items())
