"""A log that is written, settled, dropped, killed and crashed in any order, beside what must be there."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker.storage import recovery
from fakes import PowerFailed
from log_owner import DIRECTORY, LogOwner, contents, record

AGAIN = st.one_of(st.none(), st.none(), st.tuples(st.integers(0, 8), st.integers(0, 2**32)))


class LogMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.owner = LogOwner()
        self.waiting: list[int] = []
        """Offsets that may be settled."""
        self.commits = 0
        """Of this process."""

    @rule(
        count=st.integers(1, 12),
        transient=st.booleans(),
        gap=st.sampled_from((0, 0, 0, 1, 5)),
        settles=st.booleans(),
    )
    def append(self, count, transient, gap, settles):
        """What was settled before it came to the files is left out of them; its settlement may come."""
        offsets = self.owner.append(count, transient=transient, gap=gap)
        if gap and settles:
            self.owner.settle(range(offsets.start - gap, offsets.start))
        self.waiting += offsets

    @precondition(lambda self: self.waiting)
    @rule(at=st.integers(0, 1000), count=st.integers(1, 15))
    def settle_some(self, at, count):
        at %= len(self.waiting)
        taken, self.waiting = self.waiting[at : at + count], self.waiting[:at] + self.waiting[at + count :]
        first = taken[0]
        for offset, following in zip(taken, [*taken[1:], -1], strict=True):
            if following != offset + 1:
                self.owner.settle(range(first, offset + 1))
                first = following

    @precondition(lambda self: len(self.waiting) > 3)
    @rule(step=st.integers(2, 3))
    def settle_every_other(self, step):
        first = self.waiting[0]
        offsets = [offset for offset in self.waiting if offset < first + 20 and (offset - first) % step == 0]
        length = 1
        while length < len(offsets) and offsets[length] == first + length * step:
            length += 1
        self.owner.settle(range(first, first + length * step, step))
        self.waiting = [offset for offset in self.waiting if offset not in offsets[:length]]

    @rule()
    def commit(self):
        self.owner.commit()
        self.commits += 1

    @precondition(lambda self: not self.owner.pending)
    @rule(all=st.booleans())
    def drop(self, all):
        self.owner.drop(all=all)

    @precondition(lambda self: not self.owner.pending)
    @rule(keep=st.integers(5, 12))
    def settle_most_and_rewrite(self, keep):
        """One message in so many stays."""
        for offset in self.waiting:
            if offset % keep:
                self.owner.settle(range(offset, offset + 1))
        self.waiting = [offset for offset in self.waiting if not offset % keep]
        self.owner.commit()
        while self.owner.rewrite():
            pass

    @precondition(lambda self: self.commits)
    @rule(steps=st.integers(0, 12), seed=st.integers(0, 2**32), drop=st.booleans(), again=AGAIN)
    def crash_in_a_commit(self, steps, seed, drop, again):
        self.owner.files.power_fails_after = self.owner.files.steps + steps
        self._until_the_end(drop)
        self.owner.after_crash(self._crashed_again(self.owner.files.crash(seed), again))
        self._begin()

    @precondition(lambda self: self.commits)
    @rule(steps=st.integers(0, 12), drop=st.booleans(), again=AGAIN)
    def kill_in_a_commit(self, steps, drop, again):
        self.owner.files.power_fails_after = self.owner.files.steps + steps
        self._until_the_end(drop)
        files = self.owner.files.kill()
        if again is None:
            self.owner.after_kill(files)
        else:
            self.owner.after_crash(self._crashed_again(files, again))
        self._begin()

    def _crashed_again(self, files, again):
        """The power may fail once more, in recovery."""
        if again is None:
            return files
        steps, seed = again
        files.power_fails_after = files.steps + steps
        try:
            recovery.open_log(files, files.handles(8), 1, DIRECTORY, segment_size_max=500)
        except PowerFailed:
            pass
        return files.crash(seed)

    def _until_the_end(self, drop):
        try:
            self.owner.commit()
            self.owner.rewrite()
            if drop:
                self.owner.drop()
                self.owner.drop(all=True)
                self.owner.commit()
        except PowerFailed:
            return

    def _begin(self):
        self.waiting = sorted(contents(self.owner.log))
        self.commits = 0

    @precondition(lambda self: not self.owner.pending)
    @invariant()
    def everything_is_readable(self):
        found = contents(self.owner.log)
        for offset, octets in self.owner.live().items():
            assert found.get(offset) == octets
        for offset in found:
            assert offset not in self.owner.settled
        assert self.owner.log.live == len(found)


TestLogMachine = LogMachine.TestCase


def test_the_machine_itself_sees_a_record_that_is_lost():
    owner = LogOwner()
    owner.append(3)
    owner.commit()
    owner.files.put(f"{DIRECTORY}/{0:020d}.log", b"")
    with pytest.raises(AssertionError, match="0 is lost"):
        owner.reopen(owner.files.copy())


def test_the_machine_itself_sees_garbage():
    owner = LogOwner()
    owner.append(1)
    owner.commit()
    owner.appended[0] = {record(7, 7)}
    with pytest.raises(AssertionError, match="0 is b'1:0;"):
        owner.reopen(owner.files.copy())
