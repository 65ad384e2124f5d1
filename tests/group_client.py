"""A member of a consumer group that behaves like a real client: it reacts to errors as those do."""

from __future__ import annotations

from broker.model.group_calls import JoinReply, Leaving, SyncReply
from broker.model.group_errors import GroupError
from group_host import Host

PARTITIONS = frozenset(range(12))

OUT = "out"
"""It is to join next."""
JOINING = "joining"
JOINED = "joined"
"""It is to sync next."""
SYNCING = "syncing"
RUNNING = "running"
DEAD = "dead"

_BEGINS_ANEW = {GroupError.UNKNOWN_MEMBER_ID}
_JOINS_AGAIN = {
    GroupError.MEMBER_ID_REQUIRED,
    GroupError.REBALANCE_IN_PROGRESS,
    GroupError.ILLEGAL_GENERATION,
}
_GIVES_UP = {GroupError.FENCED_INSTANCE_ID, GroupError.GROUP_MAX_SIZE_REACHED}


class Client:
    """It does one thing at a time, when it is told to `step`; answers are given to it by `listen`."""

    def __init__(
        self,
        host: Host,
        instance: str | None,
        *,
        old: bool,
        session_ms: int,
        rebalance_ms: int,
    ) -> None:
        self.host = host
        self.instance = instance
        self.old = old
        self.session_ms = session_ms
        self.rebalance_ms = rebalance_ms
        self.protocols = [("range", b"topics")]
        self.busy = False
        """It does not join again while it is working, but its heartbeats go on."""
        self.removed = False
        """A tool has just removed its instance."""
        self.start()

    def start(self) -> None:
        """A new process, which remembers nothing."""
        self.phase = OUT
        self.member_id = ""
        self.generation = -1
        self.token: int | None = None
        self.reply: JoinReply | None = None
        self.assignment: frozenset[int] = frozenset()

    @property
    def alive(self) -> bool:
        return self.phase != DEAD

    def step(self) -> None:
        if self.phase == OUT and not self.busy:
            self._join()
        elif self.phase == JOINED and not self.busy:
            self._sync()
        elif self.phase in (OUT, JOINED, RUNNING) and self.member_id and self.generation >= 0:
            self.react(
                self.host.heartbeat(self.member_id, instance=self.instance, generation=self.generation)
            )

    def commit(self) -> GroupError | None:
        error = self.host.commit(self.member_id, instance=self.instance, generation=self.generation)
        self.react(error)
        return error

    def listen(self) -> None:
        """Has the answer come?"""
        if self.token is None or self.token not in self.host.answers:
            return
        reply = self.host.answers[self.token]
        if self.token in self.host.waiting_since:
            assert self.removed or reply.error not in _BEGINS_ANEW, "a member that waits is known"
        self.token = None
        assert isinstance(reply, JoinReply if self.phase == JOINING else SyncReply)
        if reply.error is not None:
            self.phase = OUT
            if reply.error is GroupError.MEMBER_ID_REQUIRED and isinstance(reply, JoinReply):
                self.member_id = reply.member_id
            self.react(reply.error)
        elif isinstance(reply, JoinReply):
            self.phase, self.reply = JOINED, reply
            self.member_id, self.generation = reply.member_id, reply.generation
        else:
            self.phase = RUNNING
            self.assignment = frozenset(reply.assignment)

    def react(self, error: GroupError | None) -> None:
        if error is None:
            return
        if error in _GIVES_UP:
            self.phase = DEAD
            return
        assert error in _BEGINS_ANEW | _JOINS_AGAIN, error
        self.phase = OUT
        if error in _BEGINS_ANEW:
            self.member_id, self.generation = "", -1

    def leave(self) -> None:
        """A client without a member id asks for nothing: with an instance id alone, the request would be
        a tool's, and remove the instance's present member."""
        self.disconnect()
        if self.member_id:
            self.host.leave(Leaving(self.member_id, self.instance, "done"))
        self.phase = DEAD

    def die(self) -> None:
        """Its connection closes with it."""
        self.disconnect()
        self.phase = DEAD

    def vanish(self) -> None:
        """The connection seems to be there still."""
        self.token = None
        self.phase = DEAD

    def disconnect(self) -> None:
        if self.token is not None:
            self.host.forget(self.token)
            self._try_again()

    def lose_patience(self) -> None:
        """It connects anew, and the broker has not noticed that the old connection is dead."""
        if self.token is not None:
            self._try_again()

    def _try_again(self) -> None:
        self.token = None
        self.phase = OUT

    def _join(self) -> None:
        self.phase = JOINING
        self.token = self.host.join(
            self.member_id,
            instance=self.instance,
            protocols=self.protocols,
            session_ms=self.session_ms,
            rebalance_ms=self.rebalance_ms,
            old=self.old,
        )

    def _sync(self) -> None:
        assert self.reply is not None
        assignments = {}
        if self.reply.leader == self.member_id and not self.reply.skip_assignment:
            members = sorted(member.member_id for member in self.reply.members)
            assignments = {
                member: bytes(sorted(PARTITIONS)[number :: len(members)])
                for number, member in enumerate(members)
            }
        self.phase = SYNCING
        self.token = self.host.sync(
            self.member_id,
            instance=self.instance,
            generation=self.generation,
            assignments=assignments,
            protocol_type=self.reply.protocol_type,
            protocol=self.reply.protocol,
        )
