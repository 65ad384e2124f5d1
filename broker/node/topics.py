"""Topics: the partitioned logs of a node, kept as definitions.

Flow:   Kafka's admin requests, HTTP, the configuration file and auto-creation all come here; `load` brings
        them back at start; `tidy` is called now and then and lets go of what is too old, too much or out of date.
Limits: `partitions_max` partitions in all. Who makes many does it in portions: a topic, or what one gets more, is there
        when all of it is, and whoever asks for the same name meanwhile waits.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import trio

from broker.model.errors import (
    AlreadyExists,
    InvalidPartitions,
    InvalidReplicas,
    InvalidTopicName,
    NotAllowed,
    UnknownTopic,
)
from broker.model.topic import OFFSETS_TOPIC, TopicSettings, check_configs, check_name, read_settings
from broker.node.clock import Clock
from broker.node.compaction import Compactor
from broker.node.definitions import TOPIC, Change, key, names_of
from broker.node.flusher import Flusher
from broker.node.partition import Partition
from broker.node.portions import Portions
from broker.node.stream_reader import StreamReader
from broker.node.tail import TailLimit
from broker.node.topic_sink import TopicSink
from broker.node.topology import Topology
from broker.storage.file import Files, Handles
from broker.storage.log import Log
from broker.storage.unsynced import Unsynced

logger = logging.getLogger("broker.node")

PARTITIONS_MAX = 20_000
# 20 microseconds each, in which the loop stands still.
MADE_AT_ONCE: Final = 250
# Some microseconds each, in which the loop stands still; 30 the first time, if they are compacted.
_TIDIED_AT_ONCE = 250
_SEGMENT_SIZE_MAX = 1024 * 1024 * 1024


@dataclass(slots=True, eq=False)
class Topic:
    """A topic and its partitions."""

    name: str
    vhost: str
    id: bytes
    """16 octets; another topic of the same name has another one."""
    configs: dict[str, str]
    settings: TopicSettings
    partitions: list[Partition] = field(default_factory=list)
    internal: bool = False
    """Made by the broker; clients do not write to it."""
    deleted: bool = False
    readers: dict[StreamReader, None] = field(default_factory=dict)
    """AMQP consumers."""

    def partition(self, number: int) -> Partition:
        """Raises UnknownTopic."""
        if not 0 <= number < len(self.partitions):
            raise UnknownTopic(f"topic '{self.name}' has no partition {number}")
        return self.partitions[number]

    @property
    def spoken_id(self) -> str:
        return str(uuid.UUID(bytes=self.id))


class Topics:
    """All topics of a node."""

    def __init__(
        self,
        flusher: Flusher,
        clock: Clock,
        files: Files,
        reader: Handles,
        directory: str,
        topology: Topology,
        *,
        partitions_max: int = PARTITIONS_MAX,
    ) -> None:
        self.partition_count = 0
        self.deleted: list[Callable[[Topic], None]] = []
        """Called when a topic is gone."""
        self.segment_size_max = _SEGMENT_SIZE_MAX
        """Whatever a topic's configuration says."""
        self._topics: dict[tuple[str, str], Topic] = {}
        self._by_id: dict[bytes, Topic] = {}
        self._coming: dict[tuple[str, str], trio.Event] = {}
        self._leaving: set[tuple[str, str]] = set()
        self._tail_limit = TailLimit()
        self._untidy: deque[tuple[Topic, Partition]] = deque()
        self._flusher = flusher
        self._clock = clock
        self._files = files
        self._reader = reader
        self._directory = directory
        self._topology = topology
        self.compactor = Compactor(flusher, files, reader)
        self._partitions_max = partitions_max

    # ---- finding ----

    def topic(self, vhost: str, name: str) -> Topic:
        """Raises UnknownTopic."""
        topic = self._topics.get((vhost, name))
        if topic is None:
            raise UnknownTopic(f"no topic '{name}' in vhost '{vhost}'")
        return topic

    def find(self, vhost: str, name: str) -> Topic | None:
        return self._topics.get((vhost, name))

    def by_id(self, id: bytes) -> Topic | None:
        return self._by_id.get(id)

    def topics(self, vhost: str | None = None) -> list[Topic]:
        return [topic for topic in self._topics.values() if vhost is None or topic.vhost == vhost]

    # ---- changing ----

    def check_new(
        self,
        vhost: str,
        name: str,
        partitions: int,
        replicas: int = 1,
        configs: Mapping[str, str] | None = None,
    ) -> None:
        """Raises what `create` would raise."""
        check_name(name)
        if name == OFFSETS_TOPIC:
            raise InvalidTopicName(f"'{name}' is the name of the broker's own topic")
        if (vhost, name) in self._topics:
            raise AlreadyExists(f"topic '{name}' exists already in vhost '{vhost}'")
        if (vhost, name) in self._leaving:
            raise AlreadyExists(f"topic '{name}' in vhost '{vhost}' is being deleted")
        if (vhost, name) in self._coming:
            raise AlreadyExists(f"topic '{name}' in vhost '{vhost}' is being made")
        if partitions < 1:
            raise InvalidPartitions(f"a topic has 1 partition at least, not {partitions}")
        if replicas not in (1, -1):
            raise InvalidReplicas(f"there is one broker, so that there cannot be {replicas} replicas")
        self._check_room(partitions)
        check_configs(configs or {})
        self._check_no_queue(vhost, name)

    def _check_no_queue(self, vhost: str, name: str) -> None:
        if name in self._topology.vhost(vhost).queues:
            raise AlreadyExists(f"there is a queue '{name}' in vhost '{vhost}'")

    def _check_room(self, more: int) -> None:
        if self.partition_count + more > self._partitions_max:
            raise InvalidPartitions(
                f"{more} more partitions would be more than {self._partitions_max} in all, the limit"
            )

    def create(
        self,
        vhost: str,
        name: str,
        partitions: int,
        *,
        replicas: int = 1,
        configs: Mapping[str, str] | None = None,
        internal: bool = False,
    ) -> Topic:
        """Raises InvalidTopicName, AlreadyExists, InvalidPartitions, InvalidReplicas, InvalidConfig.

        One of the broker's own is made whatever limits there are and whatever queues have its name.
        """
        if not internal:
            self.check_new(vhost, name, partitions, replicas, configs)
        topic = _new_topic(vhost, name, configs, internal=internal)
        topic.partitions = [self._new_partition(topic, number) for number in range(partitions)]
        self._count(partitions)
        self._remember(topic)
        self._change(topic)
        return topic

    async def create_in_portions(
        self,
        portions: Portions,
        vhost: str,
        name: str,
        partitions: int,
        *,
        replicas: int = 1,
        configs: Mapping[str, str] | None = None,
    ) -> Topic:
        """The same; a unit of work is a partition.

        Raises AlreadyExists or NotFound, too, for what others have made of the name or the virtual host meanwhile.
        """
        await self.settled(vhost, name)
        self.check_new(vhost, name, partitions, replicas, configs)
        topic = _new_topic(vhost, name, configs)
        async with self._coming_partitions(vhost, name, partitions):
            topic.partitions = await self._made(portions, topic, range(partitions))
            self._check_no_queue(vhost, name)
        self._remember(topic)
        self._change(topic)
        return topic

    async def settled(self, vhost: str, name: str) -> None:
        """Wait for who is making this topic, or partitions of it."""
        while (coming := self._coming.get((vhost, name))) is not None:
            await coming.wait()

    def is_coming(self, vhost: str, name: str) -> bool:
        """Somebody is making this topic, or partitions of it."""
        return (vhost, name) in self._coming

    @asynccontextmanager
    async def _coming_partitions(self, vhost: str, name: str, count: int) -> AsyncIterator[None]:
        """They are counted, and stay so unless something comes between."""
        made = self._coming[vhost, name] = trio.Event()
        self._count(count)
        try:
            yield
        except BaseException:
            self._count(-count)
            raise
        finally:
            del self._coming[vhost, name]
            made.set()

    async def _made(self, portions: Portions, topic: Topic, numbers: range) -> list[Partition]:
        made = []
        for number in numbers:
            made.append(self._new_partition(topic, number))
            await portions.take(1)
        return made

    def _remember(self, topic: Topic) -> None:
        if not topic.internal:
            vhost = self._topology.vhost(topic.vhost)
            self._topology.add_topic(vhost, TopicSink(topic))
        self._topics[topic.vhost, topic.name] = topic
        self._by_id[topic.id] = topic

    def _new_partition(self, topic: Topic, number: int) -> Partition:
        id = self._topology.take_id()
        size = self._segment_size(topic.settings)
        log = Log(id, self.directory(id), self._reader, [], segment_size_max=size, settles=False)
        return self._partition_of(topic, number, log)

    def _partition_of(self, topic: Topic, number: int, log: Log) -> Partition:
        return Partition(
            f"'{topic.vhost}'/{topic.name}-{number}",
            number,
            log,
            topic.settings,
            self._files,
            self._reader,
            self._flusher,
            self._clock.now_ms,
            self._tail_limit,
        )

    def _count(self, more: int) -> None:
        self.partition_count += more
        self._tail_limit.share(self.partition_count)

    def _segment_size(self, settings: TopicSettings) -> int:
        return min(settings.segment_bytes, self.segment_size_max)

    def directory(self, id: int) -> str:
        return os.path.join(self._directory, str(id))

    async def add_partitions(self, portions: Portions, topic: Topic, count: int) -> None:
        """Until it has `count`. Raises InvalidPartitions, or UnknownTopic if it is deleted meanwhile."""
        await self.settled(topic.vhost, topic.name)
        self.check_more(topic, count)
        have = len(topic.partitions)
        async with self._coming_partitions(topic.vhost, topic.name, count - have):
            more = await self._made(portions, topic, range(have, count))
            self._check_there(topic)
        for partition in more:  # what is configured may have changed
            self._configure(partition, topic.settings)
        topic.partitions += more
        for reader in topic.readers:
            reader.partitions_added()
        self._change(topic)

    def check_more(self, topic: Topic, count: int) -> None:
        """Raises InvalidPartitions or UnknownTopic for what `add_partitions` would not do."""
        self._check_there(topic)
        have = len(topic.partitions)
        if count <= have:
            raise InvalidPartitions(
                f"topic '{topic.name}' has {have} partitions already, {count} are asked for"
            )
        self._check_room(count - have)

    @staticmethod
    def _check_there(topic: Topic) -> None:
        if topic.deleted:
            raise UnknownTopic(f"topic '{topic.name}' in vhost '{topic.vhost}' is deleted")

    def configure(self, topic: Topic, configs: Mapping[str, str]) -> None:
        """These and no others. Raises InvalidConfig."""
        check_configs(configs)
        topic.configs = dict(configs)
        topic.settings = read_settings(topic.configs)
        for partition in topic.partitions:
            self._configure(partition, topic.settings)
        self._change(topic)

    def _configure(self, partition: Partition, settings: TopicSettings) -> None:
        partition.configure(settings)
        partition.log.segment_size_max = self._segment_size(settings)

    def delete(self, topic: Topic) -> None:
        """With everything in it. Raises NotAllowed for one of the broker's own."""
        if topic.internal:
            raise NotAllowed(f"topic '{topic.name}' is the broker's own")
        topic.deleted = True
        del self._topics[topic.vhost, topic.name]
        del self._by_id[topic.id]
        self._count(-len(topic.partitions))
        self._flusher.change([Change(_key(topic), None)])
        self._topology.remove_topic(self._topology.vhost(topic.vhost), topic.name)
        for partition in topic.partitions:
            self._flusher.forget(partition)
            partition.ring()
        for reader in list(topic.readers):
            reader.topic_deleted()
        for call in self.deleted:
            call(topic)
        self.keep_free(topic.vhost, topic.name)

    def keep_free(self, vhost: str, name: str) -> None:
        """No topic gets this name before the open commit is safe, with all that says that there is none.

        Otherwise a new one could be found beside what others remember of the old one, as committed offsets.
        """
        key = (vhost, name)
        self._leaving.add(key)
        self._flusher.open.waiters.append(partial(self._leaving.discard, key))

    def forget_vhost(self, vhost: str) -> None:
        for topic in self.topics(vhost):
            topic.internal = False
            self.delete(topic)

    def _change(self, topic: Topic) -> None:
        value = {
            "id": topic.id,
            "logs": [partition.log.id for partition in topic.partitions],
            "configs": topic.configs,
            "internal": topic.internal,
        }
        self._flusher.change([Change(_key(topic), value)])

    # ---- time ----

    def tidy(self, now_ms: int) -> bool:
        """Some of what is to be done now and then: retention, compaction, and producers not heard of for long.

        Whether there is more of it this time: others have their turn before that.
        """
        untidy = self._untidy
        if not untidy:
            untidy.extend(
                (topic, partition) for topic in self._topics.values() for partition in topic.partitions
            )
        for _ in range(min(len(untidy), _TIDIED_AT_ONCE)):
            topic, partition = untidy.popleft()
            if not partition.closed:
                partition.retain(now_ms)
                partition.producers.expire(now_ms)
                # The groups write their log anew of themselves, as they have all of it in memory.
                if topic.settings.compacts and not topic.internal:
                    self.compactor.look_at(partition, now_ms)
        if not untidy:
            self.compactor.choose(now_ms)
        return bool(untidy)

    # ---- at start and at the end ----

    def note_safe(self) -> None:
        """For the next start, when everything is safe."""
        for topic in self._topics.values():
            for partition in topic.partitions:
                partition.note_safe()

    def load_all(self, found: Mapping[str, dict[str, Any]], open_log: OpenLog, unsynced: Unsynced) -> None:
        """Those among all definitions that were found; `unsynced` gets what must be synced before others see it."""
        for known, value in found.items():
            kind, names = names_of(known)
            if kind == TOPIC:
                vhost, name = names
                self._load(vhost, name, value, open_log, unsynced)

    def _load(
        self, vhost: str, name: str, value: dict[str, Any], open_log: OpenLog, unsynced: Unsynced
    ) -> None:
        """Bring a topic back, with its logs."""
        configs = value["configs"]
        topic = Topic(name, vhost, value["id"], configs, read_settings(configs), internal=value["internal"])
        size = self._segment_size(topic.settings)
        for number, id in enumerate(value["logs"]):
            spoken = f"partition '{vhost}'/{name}-{number}"
            log = open_log(id, self.directory(id), spoken, size, topic.settings.syncs)
            topic.partitions.append(self._partition_of(topic, number, log))
            self._count(1)
            topic.partitions[number].make_safe(unsynced)
            topic.partitions[number].restore_producers()
        self._remember(topic)


OpenLog = Callable[[int, str, str, int, bool], Log]
"""Of an id, a directory, a name to speak of it, the size of a segment, and whether what is confirmed is synced."""


def _new_topic(vhost: str, name: str, configs: Mapping[str, str] | None, *, internal: bool = False) -> Topic:
    given = dict(configs or {})
    return Topic(name, vhost, uuid.uuid4().bytes, given, read_settings(given), internal=internal)


def _key(topic: Topic) -> str:
    return key(TOPIC, topic.vhost, topic.name)
