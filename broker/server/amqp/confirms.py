"""Publisher confirms of one channel: numbers in, basic.ack and basic.nack out.

Flow:   publishing adds a run's numbers with the commit that makes them safe; when that is done, or at the
        end of the pass if there is nothing to wait for, `send` answers.
Shape:  in the order of the numbers, so that one `multiple` says as much as can be: a transient message
        behind a persistent one waits for it.
Limits: what is unconfirmed is what one commit takes in while another runs.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from broker.amqp import methods
from broker.node.flusher import Commit
from broker.node.metrics import Metrics

_TAG = struct.Struct(">QBB")
_FRAME_END = 0xCE


class _Pending:
    """The numbers up to `last` that wait for one commit; `refused` are those to be answered with a nack."""

    __slots__ = ("commit", "last", "refused")

    def __init__(self, commit: Commit | None, last: int, refused: Sequence[int]) -> None:
        self.commit = commit
        self.last = last
        self.refused = refused


def _prefix(channel: int, method: type[methods.Method]) -> bytes:
    """A basic.ack or basic.nack frame up to the tag; both have a tag and an octet of bits."""
    return struct.pack(">BHIHH", 1, channel, 13, *method.id)


class Confirms:
    """The confirms of a channel in confirm mode."""

    def __init__(
        self,
        channel: int,
        send: Callable[[bytes], None],
        soon: Callable[[], None],
        guard: Callable[[Callable[[], None]], None],
        metrics: Metrics,
    ) -> None:
        self._ack = _prefix(channel, methods.BasicAck)
        self._nack = _prefix(channel, methods.BasicNack)
        self._send = send
        self._soon = soon
        self._when_safe = partial(guard, self.send)
        self._metrics = metrics
        self._pending: deque[_Pending] = deque()
        self._next = 1
        self._confirmed = 0
        self.closed = False

    @property
    def unconfirmed(self) -> int:
        return self._next - 1 - self._confirmed

    @property
    def confirmed(self) -> int:
        return self._confirmed

    def add(self, count: int, commit: Commit | None, refused: Sequence[int] = ()) -> None:
        """Take the next `count` numbers; `refused` are indices, ascending, of those to be answered with a nack."""
        first = self._next
        self._next = first + count
        if refused:
            refused = [first + index for index in refused]
        elif self._pending and self._pending[-1].commit is commit:
            self._pending[-1].last = first + count - 1
            return
        self._pending.append(_Pending(commit, first + count - 1, refused))
        if commit is None:
            self._soon()
        else:
            commit.waiters.append(self._when_safe)

    def send(self) -> None:
        """Answer as far as everything before is safe."""
        if self.closed:
            return
        before = self._confirmed
        pending = self._pending
        last = before
        while pending and ((commit := pending[0].commit) is None or commit.done):
            answered = pending.popleft()
            last = answered.last
            for number in answered.refused:
                self._acknowledge(number - 1)
                self._send(self._nack + _TAG.pack(number, 0, _FRAME_END))
                self._confirmed = number
        self._acknowledge(last)
        self._metrics.messages_confirmed += self._confirmed - before

    def _acknowledge(self, last: int) -> None:
        """Everything up to `last` that was not answered yet."""
        count = last - self._confirmed
        if count > 0:
            self._send(self._ack + _TAG.pack(last, count > 1, _FRAME_END))
            self._confirmed = last
