"""The members of one consumer group: who leads, who has joined, and which protocol suits all.

Flow:   `group.py` decides who comes and goes; this keeps count.
Shape:  in the order in which they came. For each protocol the number of members that support it, so that
        whether a newcomer suits all does not depend on how many there are.
Spec:   Kafka's classic groups (ClassicGroup, ClassicGroupMember).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from broker.model.group_calls import Join, MemberDescription
from broker.model.group_limits import MEMBER_COST, text_size

Token = TypeVar("Token", bound=Hashable)


@dataclass(slots=True, eq=False)
class Member(Generic[Token]):
    member_id: str
    group_instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocols: dict[str, bytes]
    """Metadata by name, the preferred one first."""
    knows_its_id: bool
    """It asked with this id, or has been told it."""
    new: bool = True
    """It has not seen a generation yet."""
    joined: bool = False
    """It will be in the generation that is being prepared."""
    join_token: Token | None = None
    """Whom to answer; None also when the connection is gone."""
    sync_token: Token | None = None
    assignment: bytes = b""
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = member_size(self.group_instance_id, self.client_id, self.client_host, self.protocols)

    @property
    def parked(self) -> bool:
        """It waits for us, so that its silence means nothing."""
        return self.join_token is not None or self.sync_token is not None

    def offers(self, protocols: dict[str, bytes]) -> bool:
        """The same names and metadata, in the same order."""
        return list(self.protocols.items()) == list(protocols.items())

    def vote(self, candidates: set[str]) -> str:
        """The one it likes best; there is one, or it would not have been let in."""
        return next(name for name in self.protocols if name in candidates)


def member_size(instance_id: str | None, client_id: str, host: str, protocols: dict[str, bytes]) -> int:
    """Octets that a member's join makes us keep."""
    names = text_size(instance_id or "") + text_size(client_id) + text_size(host)
    return names + sum(text_size(name) + len(metadata) for name, metadata in protocols.items())


def _kept(member: Member[Any]) -> int:
    """Octets that it takes in memory, about."""
    return MEMBER_COST + text_size(member.member_id) + member.size + len(member.assignment)


def new_member(member_id: str, request: Join, protocols: dict[str, bytes]) -> Member[Token]:
    return Member(
        member_id=member_id,
        group_instance_id=request.group_instance_id,
        client_id=request.client_id,
        client_host=request.client_host,
        session_timeout_ms=request.session_timeout_ms,
        rebalance_timeout_ms=max(request.rebalance_timeout_ms, 0),
        protocols=protocols,
        knows_its_id=request.member_id == member_id,
    )


def restored_member(description: MemberDescription) -> Member[Token]:
    return Member(
        member_id=description.member_id,
        group_instance_id=description.group_instance_id,
        client_id=description.client_id,
        client_host=description.client_host,
        session_timeout_ms=description.session_timeout_ms,
        rebalance_timeout_ms=description.rebalance_timeout_ms,
        protocols=dict(description.protocols),
        knows_its_id=True,
        new=False,
        assignment=description.assignment,
    )


class Members(Generic[Token]):
    """All that are in the group, joined or not."""

    def __init__(self) -> None:
        self._by_id: dict[str, Member[Token]] = {}
        self._id_of_instance: dict[str, str] = {}
        self._supporters: Counter[str] = Counter()
        self._joined = 0
        self.leader: str | None = None
        self.size = 0
        """Octets that are kept of them, without assignments."""
        self.kept = 0
        """About how many octets they take in memory, with everything."""
        self.revision = 0
        """Another number whenever one comes, goes, or offers something else."""

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Member[Token]]:
        return iter(list(self._by_id.values()))

    def get(self, member_id: str) -> Member[Token] | None:
        return self._by_id.get(member_id)

    def of_instance(self, instance_id: str | None) -> Member[Token] | None:
        """The static member that has this instance id now."""
        member_id = None if instance_id is None else self._id_of_instance.get(instance_id)
        return None if member_id is None else self._by_id[member_id]

    @property
    def all_joined(self) -> bool:
        return self._joined == len(self._by_id)

    @property
    def rebalance_timeout_ms(self) -> int:
        """The longest of all."""
        return max((member.rebalance_timeout_ms for member in self._by_id.values()), default=0)

    def add(self, member: Member[Token]) -> None:
        """The first one leads."""
        assert member.member_id not in self._by_id
        self._by_id[member.member_id] = member
        if member.group_instance_id is not None:
            assert member.group_instance_id not in self._id_of_instance
            self._id_of_instance[member.group_instance_id] = member.member_id
        self._supporters.update(member.protocols.keys())
        self.size += member.size
        self.kept += _kept(member)
        self.revision += 1
        self._joined += member.joined
        if self.leader is None:
            self.leader = member.member_id

    def remove(self, member: Member[Token]) -> None:
        """If it led, the one that came first of the others leads."""
        del self._by_id[member.member_id]
        if member.group_instance_id is not None:
            del self._id_of_instance[member.group_instance_id]
        self._unsupport(member)
        self.size -= member.size
        self.kept -= _kept(member)
        self.revision += 1
        self._joined -= member.joined
        if self.leader == member.member_id:
            self.leader = next(iter(self._by_id), None)

    def replace(self, old: Member[Token], new: Member[Token]) -> None:
        """The same instance under another id; if it led, it leads still."""
        led = self.leader == old.member_id
        self.remove(old)
        self.add(new)
        if led:
            self.leader = new.member_id

    def update(self, member: Member[Token], request: Join, protocols: dict[str, bytes]) -> None:
        """It has joined again, perhaps with other wishes."""
        self._unsupport(member)
        self.size -= member.size
        self.kept -= member.size
        member.knows_its_id = True
        member.client_id = request.client_id
        member.client_host = request.client_host
        member.session_timeout_ms = request.session_timeout_ms
        member.rebalance_timeout_ms = max(request.rebalance_timeout_ms, 0)
        member.protocols = protocols
        member.size = member_size(
            member.group_instance_id, member.client_id, member.client_host, member.protocols
        )
        self._supporters.update(protocols.keys())
        self.size += member.size
        self.kept += member.size
        self.revision += 1

    def assign(self, member: Member[Token], assignment: bytes) -> None:
        self.kept += len(assignment) - len(member.assignment)
        member.assignment = assignment

    def set_joined(self, member: Member[Token], joined: bool) -> None:
        self._joined += joined - member.joined
        member.joined = joined

    def supports(self, names: Iterable[str], without: Member[Token] | None) -> bool:
        """Some name is supported by all others than `without`, whose place the asker takes."""
        others = len(self._by_id) - (without is not None)
        for name in names:
            own = without is not None and name in without.protocols
            if self._supporters[name] - own == others:
                return True
        return False

    def vote(self) -> str:
        """The protocol that most like best of those that all support; of equals, the earlier member's."""
        candidates = {name for name, count in self._supporters.items() if count == len(self._by_id)}
        votes = Counter(member.vote(candidates) for member in self._by_id.values())
        return max(votes, key=votes.__getitem__)

    def elect(self) -> bool:
        """Let one lead that has joined and can be reached; the old leader, if it has and can.

        Returns False if nobody has joined.
        """
        old = None if self.leader is None else self._by_id[self.leader]
        joined = [member for member in self._by_id.values() if member.joined]
        reachable = [member for member in joined if member.join_token is not None]
        fit = reachable or joined
        if fit and old not in fit:
            self.leader = fit[0].member_id
        return bool(fit)

    def _unsupport(self, member: Member[Token]) -> None:
        for name in member.protocols:
            self._supporters[name] -= 1
            if not self._supporters[name]:
                del self._supporters[name]
