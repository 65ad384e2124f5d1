"""Consumer groups: their members and committed offsets, and the log in which those are kept.

Flow:   the server asks; the model's groups decide; here their replies go to whoever waits, their timers are kept,
        each rebalance is logged, and what must outlive the process is written to the topic `__consumer_offsets`.
Shape:  Kafka's records (`kafka/group_records.py`), in one partition.
Limits: `groups_max` groups, which take `size_max` octets in memory (`hosted.py`). When the log has grown to several
        times what it says, everything is written anew at its end and what lies before is let go.
Why:    All of it is in memory anyway, so that a snapshot is a simpler compaction than to read the log again.
"""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from broker.kafka import group_records, records
from broker.kafka.consumer_protocol import topics_of
from broker.kafka.errors import RemoteProtocolError
from broker.kafka.records import Record, RecordProblem
from broker.model.committed import Committed, CommittedOffset
from broker.model.group import Group
from broker.model.group_calls import (
    Assigned,
    Join,
    JoinReply,
    Leaving,
    Left,
    MemberGone,
    Rebalanced,
    Sync,
    SyncReply,
)
from broker.model.group_errors import GroupError, GroupRefused
from broker.model.group_limits import GroupLimits
from broker.model.group_state import GroupState
from broker.model.topic import OFFSETS_TOPIC
from broker.node.clock import Clock
from broker.node.flusher import Commit, Flusher
from broker.node.group_memory import description, group_record, offset_record
from broker.node.hosted import GroupRoom, Hosted, Token
from broker.node.partition import Partition
from broker.node.scheduler import Scheduler
from broker.node.topics import Topic, Topics

logger = logging.getLogger("broker.node")

_LOG_CONFIGS: Final = {"cleanup.policy": "compact", "max.message.bytes": str(256 * 1024 * 1024)}
_LOG_SIZE_MIN: Final = 8 * 1024 * 1024
_LOG_GROWTH_MAX: Final = 4
_RECORDS_PER_BATCH: Final = 1000
_OCTETS_PER_BATCH: Final = 1024 * 1024
# Between one batch and the next when all is written anew: others want the loop, too.
_ANEW_EVERY_MS: Final = 1
_ANEW_CROWDED_MS: Final = 100
_EXPIRE_EVERY_MS: Final = 60_000
_EXPIRED_AT_ONCE: Final = 1000
_READ_SIZE: Final = 1024 * 1024


@dataclass(slots=True, frozen=True)
class GroupOptions:
    """What groups must be told."""

    vhost: str = "/"
    groups_max: int = 100_000
    size_max: int = 256 * 1024 * 1024
    """Octets of all groups together; Kafka has no such limit."""
    limits: GroupLimits = field(default_factory=GroupLimits)
    retention_ms: int = 7 * 24 * 60 * 60 * 1000


class Groups:
    """All consumer groups of a node."""

    def __init__(
        self, flusher: Flusher, topics: Topics, clock: Clock, scheduler: Scheduler, options: GroupOptions
    ) -> None:
        self.rebalances = 0
        self.room = GroupRoom(options.size_max)
        self._flusher = flusher
        self._topics = topics
        self._clock = clock
        self._scheduler = scheduler
        self._options = options
        self._hosted: dict[str, Hosted] = {}
        self._written: Commit | None = None
        self._snapshot_size = 0
        self._anew: Iterator[Record] | None = None
        self._expired_ms = 0
        self._expiring: deque[Hosted] = deque()
        topics.deleted.append(self._topic_deleted)

    # ---- finding ----

    def find(self, group_id: str) -> Hosted | None:
        return self._hosted.get(group_id)

    def all(self) -> list[Hosted]:
        return list(self._hosted.values())

    def hosted(self, group_id: str) -> Hosted:
        """The group, made if it is missing. Raises GroupRefused if there are too many."""
        hosted = self._hosted.get(group_id)
        if hosted is None:
            if len(self._hosted) >= self._options.groups_max:
                raise GroupRefused(
                    GroupError.GROUP_MAX_SIZE_REACHED,
                    f"there are {self._options.groups_max} groups, the limit",
                )
            hosted = self._made(group_id)
            if hosted.size > self._room(group_id):
                what = f"all groups keep {self.room.size} octets of {self.room.size_max}, the limit"
                raise GroupRefused(GroupError.GROUP_MAX_SIZE_REACHED, what)
            self._hosted[group_id] = hosted
            self.room.count(hosted)
        return hosted

    def _made(self, group_id: str) -> Hosted:
        room = partial(self._room, group_id)
        group: Group[Token] = Group(group_id, self._options.limits, _new_member_id, topics_of, room)
        return Hosted(group, Committed(room=room))

    def _room(self, group_id: str) -> int:
        return self.room.left(self._hosted.get(group_id))

    @property
    def unsafe(self) -> Commit | None:
        """The commit that makes the newest of the groups' log safe, if it is not yet.

        Nobody outside is told before what may be gone after a crash: a generation whose number would be given
        to another, or an offset that is then an earlier one.
        """
        written = self._written
        return None if written is None or written.done else written

    # ---- members ----

    def join(self, group_id: str, request: Join, token: Token) -> None:
        """`token` is called with the JoinReply, now or later."""
        try:
            hosted = self.hosted(group_id)
        except GroupRefused as refused:
            token(JoinReply(refused.error, request.member_id))
            return
        hosted.group.join(request, token, self._clock.now_ms())
        self._carry_through(hosted)

    def sync(self, group_id: str, request: Sync, token: Token) -> None:
        """`token` is called with the SyncReply, now or later."""
        hosted = self._hosted.get(group_id)
        if hosted is None:
            token(SyncReply(GroupError.UNKNOWN_MEMBER_ID))
            return
        hosted.group.sync(request, token, self._clock.now_ms())
        self._carry_through(hosted)

    def forget(self, group_id: str, token: Token) -> None:
        """Whoever waits for an answer has gone."""
        hosted = self._hosted.get(group_id)
        if hosted is not None:
            hosted.group.forget(token, self._clock.now_ms())
            self._carry_through(hosted)

    def heartbeat(self, group_id: str, member_id: str, instance_id: str | None, generation: int) -> None:
        """Raises GroupRefused."""
        hosted = self._known(group_id)
        try:
            hosted.group.heartbeat(member_id, instance_id, generation, self._clock.now_ms())
        finally:
            self._carry_through(hosted)

    def leave(self, group_id: str, leaving: Sequence[Leaving]) -> list[Left]:
        """Raises GroupRefused."""
        hosted = self._known(group_id)
        left = hosted.group.leave(leaving, self._clock.now_ms())
        self._carry_through(hosted)
        return left

    def _known(self, group_id: str) -> Hosted:
        hosted = self._hosted.get(group_id)
        if hosted is None:
            raise GroupRefused(GroupError.UNKNOWN_MEMBER_ID, f"there is no group '{group_id}'")
        return hosted

    def _carry_through(self, hosted: Hosted) -> None:
        """What the group has decided: answer, log, write, and be there when its next moment comes."""
        self.room.count(hosted)
        group = hosted.group
        events = list(group.events)
        group.events.clear()
        for event in events:
            self._tell(hosted, event)
        if group.replies:
            replies = list(group.replies)
            group.replies.clear()
            unsafe = self.unsafe
            for token, reply in replies:
                if unsafe is not None and isinstance(reply, SyncReply):
                    unsafe.waiters.append(partial(token, reply))
                else:
                    token(reply)
        moment = group.next_moment()
        if hosted.timer is not None and hosted.timer.waiting and hosted.timer.moment_ms == moment:
            return
        if hosted.timer is not None:
            hosted.timer.cancel()
            hosted.timer = None
        if moment:
            hosted.timer = self._scheduler.at(moment, partial(self._time_has_come, hosted))

    def _time_has_come(self, hosted: Hosted) -> None:
        hosted.timer = None
        hosted.group.expire(self._clock.now_ms())
        self._carry_through(hosted)

    def _tell(self, hosted: Hosted, event: Rebalanced | Assigned | MemberGone) -> None:
        group_id = hosted.group.group_id
        if isinstance(event, MemberGone):
            logger.info("group %s: member %s is gone: %s", group_id, event.member_id, event.reason)
            return
        if isinstance(event, Rebalanced):
            hosted.rebalances += 1
            self.rebalances += 1
            logger.info(
                "group %s: generation %d of %d members: %s",
                group_id,
                event.generation,
                event.members,
                event.reason,
            )
            if event.members:
                return
        self._write([Record(0, self._clock.now_ms(), *group_record(hosted.group, self._clock.now_ms()))])

    # ---- offsets ----

    def check_commit(self, group_id: str, member_id: str, instance_id: str | None, generation: int) -> None:
        """May this one commit? Raises GroupRefused."""
        if generation >= 0 and group_id not in self._hosted:
            raise GroupRefused(GroupError.ILLEGAL_GENERATION, f"there is no group '{group_id}'")
        hosted = self.hosted(group_id)
        try:
            hosted.group.check_commit(member_id, instance_id, generation, self._clock.now_ms())
        finally:
            self._carry_through(hosted)

    def committed(self, group_id: str, offsets: Mapping[tuple[str, int], CommittedOffset]) -> Commit:
        """Write what was committed in the model; it is safe with the commit that this returns."""
        now_ms = self._clock.now_ms()
        if group_id in self._hosted:
            self.room.count(self._hosted[group_id])
        return self._write(
            [Record(0, now_ms, *offset_record(group_id, *key, offset)) for key, offset in offsets.items()]
        )

    def delete_offsets(self, group_id: str, gone: Iterable[tuple[str, int]]) -> Commit:
        """Those that are there."""
        hosted = self._hosted[group_id]
        deleted = [key for key in gone if hosted.committed.delete(*key)]
        self.room.count(hosted)
        return self._write_gone(group_id, deleted)

    def _write_gone(self, group_id: str, keys: Iterable[tuple[str, int]], with_group: bool = False) -> Commit:
        now_ms = self._clock.now_ms()
        gone = [Record(0, now_ms, group_records.offset_key(group_id, *key)) for key in keys]
        if with_group:
            gone.append(Record(0, now_ms, group_records.group_key(group_id)))
        return self._write(gone)

    def delete(self, group_id: str) -> None:
        """With its offsets. Raises GroupRefused for one that is missing or has members."""
        hosted = self._hosted.get(group_id)
        if hosted is None:
            raise GroupRefused(GroupError.GROUP_ID_NOT_FOUND, f"there is no group '{group_id}'")
        hosted.group.check_delete()
        self._remove(hosted)

    def _remove(self, hosted: Hosted) -> None:
        group_id = hosted.group.group_id
        hosted.group.close()
        self._carry_through(hosted)
        del self._hosted[group_id]
        self.room.forget(hosted)
        self._write_gone(group_id, hosted.committed.clear(), with_group=True)

    def _topic_deleted(self, topic: Topic) -> None:
        if topic.vhost != self._options.vhost:
            return
        if topic.name == OFFSETS_TOPIC:  # with its virtual host
            self._forget_all()
        for group_id, hosted in self._hosted.items():
            if topic.name in hosted.committed:
                self._forget_topic(group_id, hosted, topic.name)

    def _forget_topic(self, group_id: str, hosted: Hosted, name: str) -> None:
        numbers = hosted.committed.delete_topic(name)
        self.room.count(hosted)
        if numbers:
            self._write_gone(group_id, [(name, number) for number in numbers])

    def _forget_all(self) -> None:
        """Nothing is written of it: there is no place for that any more."""
        gone, self._hosted = self._hosted, {}
        for hosted in gone.values():
            hosted.group.close()
            hosted.group.events.clear()
            self._carry_through(hosted)
            self.room.forget(hosted)

    # ---- time ----

    def tidy(self, now_ms: int) -> None:
        """Called now and then: offsets that nobody needs any more go, and a log that has grown is written anew."""
        if now_ms - self._expired_ms >= _EXPIRE_EVERY_MS and not self._expiring:
            self._expired_ms = now_ms
            self._expiring.extend(self._hosted.values())
        for _ in range(min(len(self._expiring), _EXPIRED_AT_ONCE)):
            self._expire(self._expiring.popleft(), now_ms)
        partition = self._find_log()
        if partition is None or self._anew is not None:
            return
        if partition.size > max(_LOG_SIZE_MIN, _LOG_GROWTH_MAX * self._snapshot_size):
            self._write_anew(partition)

    def _expire(self, hosted: Hosted, now_ms: int) -> None:
        group_id = hosted.group.group_id
        gone = hosted.committed.expire(hosted.group.retention(), self._options.retention_ms, now_ms)
        self.room.count(hosted)
        if gone:
            logger.info("group %s: %d offsets have expired", group_id, len(gone))
            self._write_gone(group_id, gone)
        if hosted.group.idle and not len(hosted.committed):
            self._remove(hosted)

    # ---- the log ----

    def _find_log(self) -> Partition | None:
        topic = self._topics.find(self._options.vhost, OFFSETS_TOPIC)
        return topic.partitions[0] if topic is not None else None

    def _log(self) -> Partition:
        """Made when the first group has something to say."""
        found = self._find_log()
        if found is None:
            topic = self._topics.create(
                self._options.vhost, OFFSETS_TOPIC, 1, configs=_LOG_CONFIGS, internal=True
            )
            found = topic.partitions[0]
        return found

    def _write(self, written: Iterable[Record]) -> Commit:
        partition = self._log()
        left = iter(written)
        while self._write_batch(partition, left):
            pass
        self._written = self._flusher.open
        return self._written

    @staticmethod
    def _write_batch(partition: Partition, left: Iterator[Record]) -> int:
        """Of so many of them as a batch has at most; returns its size, 0 if there were none."""
        some: list[Record] = []
        size = 0
        for record in left:
            record.offset = len(some)
            some.append(record)
            size += len(record.key or b"") + len(record.value or b"")
            if len(some) >= _RECORDS_PER_BATCH or size >= _OCTETS_PER_BATCH:
                break
        if not some:
            return 0
        octets = records.build(some)
        partition.append(records.read_header(octets), octets)
        return len(octets)

    def _write_anew(self, partition: Partition) -> None:
        """Batch by batch, while groups go on: what changes meanwhile is written behind it once more.

        1. everything once more at the end, 2. when that is safe, the log begins there
        """
        partition.log.roll_due = True
        self._anew = self._everything()
        self._go_on_anew(partition, partition.next_offset, 0)

    def _everything(self) -> Iterator[Record]:
        """Each as it is when it is its turn."""
        for group_id, hosted in list(self._hosted.items()):
            if hosted.group.state is GroupState.DEAD:
                continue
            yield Record(0, self._clock.now_ms(), *group_record(hosted.group, self._clock.now_ms()))
            for topic, number in [(topic, number) for topic, number, _ in hosted.committed]:
                offset = hosted.committed.get(topic, number)
                if offset is not None:
                    yield Record(0, self._clock.now_ms(), *offset_record(group_id, topic, number, offset))

    def _go_on_anew(self, partition: Partition, start: int, size: int) -> None:
        assert self._anew is not None
        if partition.closed:
            self._anew = None
            return
        if self._flusher.crowded:
            delay_ms = _ANEW_CROWDED_MS
        elif more := self._write_batch(partition, self._anew):
            size += more
            delay_ms = _ANEW_EVERY_MS
        else:
            self._flusher.open.waiters.append(partial(self._written_anew, partition, start, size))
            return
        self._scheduler.after(delay_ms, partial(self._go_on_anew, partition, start, size))

    def _written_anew(self, partition: Partition, start: int, size: int) -> None:
        self._anew = None
        self._snapshot_size = size
        if not partition.closed:
            partition.move_start(start)

    # ---- at start ----

    def load(self) -> None:
        """Read everything back."""
        partition = self._find_log()
        if partition is None:
            return
        described: dict[str, dict[str, Any]] = {}
        offset = partition.start_offset
        while found := partition.batches(offset, _READ_SIZE):
            for octets in found:
                self._load_batch(octets, described)
                header = records.read_header(octets)
                offset = header.base_offset + header.last_offset_delta + 1
        now_ms = self._clock.now_ms()
        for group_id, body in described.items():
            self._restore(group_id, body, now_ms)
        for hosted in self._hosted.values():
            self.room.count(hosted)
        self._forget_strange_topics()

    def _load_batch(self, octets: bytes, described: dict[str, dict[str, Any]]) -> None:
        try:
            for record in records.iterate(octets):
                try:
                    self._load_record(record, described)
                except RemoteProtocolError as error:
                    logger.error("%s at offset %d: %s; passed over", OFFSETS_TOPIC, record.offset, error)
        except RecordProblem as problem:
            logger.error("%s: a batch cannot be opened: %s", OFFSETS_TOPIC, problem)

    def _forget_strange_topics(self) -> None:
        """The last process may have died when a topic was gone already, and its offsets were not."""
        vhost = self._options.vhost
        for group_id, hosted in self._hosted.items():
            known = dict.fromkeys(topic for topic, _, _ in hosted.committed)
            for name in [name for name in known if self._topics.find(vhost, name) is None]:
                self._forget_topic(group_id, hosted, name)
                self._topics.keep_free(vhost, name)

    def _load_record(self, record: Record, described: dict[str, dict[str, Any]]) -> None:
        group_id, of_offset = group_records.read_key(record.key or b"")
        if of_offset is None:
            if record.value is None:
                described.pop(group_id, None)
                self._hosted.pop(group_id, None)
            else:
                described[group_id] = group_records.read_group(record.value)
        elif record.value is None:
            if group_id in self._hosted:
                self._hosted[group_id].committed.delete(*of_offset)
        else:
            body = group_records.read_offset(record.value)
            expire_ms = body["expire_timestamp"] if body["expire_timestamp"] >= 0 else None
            offset = CommittedOffset(
                body["offset"], body["leader_epoch"], body["metadata"], body["commit_timestamp"], expire_ms
            )
            self._loaded(group_id).committed.restore(*of_offset, offset)

    def _loaded(self, group_id: str) -> Hosted:
        hosted = self._hosted.get(group_id)
        if hosted is None:
            hosted = self._hosted[group_id] = self._made(group_id)
        return hosted

    def _restore(self, group_id: str, body: dict[str, Any], now_ms: int) -> None:
        hosted = self._loaded(group_id)
        hosted.group.restore(description(group_id, body), now_ms)
        self._carry_through(hosted)


def _new_member_id(client: str) -> str:
    return f"{client}-{uuid.uuid4()}"
