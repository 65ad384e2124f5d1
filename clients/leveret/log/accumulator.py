"""What a producer was given and has not brought into the log yet.

Flow:   `partition_for` chooses a partition, `add` puts a record into its pipeline, the sender takes batches out.
Limits: `room` for all records together; whoever brings more waits. A pipeline without batches is kept, for its
        sequence numbers: one for each partition that was ever written to.
Spec:   keys go where Kafka's Java client puts them; records without one stay on a partition until a batch of
        them is full, and then go on to another one (KIP-480, KIP-794), so that batches are large.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio

from broker.kafka.partitioner import partition_for as partition_of_key
from broker.kafka.records import Record
from leveret.log.batch import Batch, Losses, Sending
from leveret.log.errors import Reason
from leveret.log.pipeline import Pipeline
from leveret.log.record import TopicPartition
from leveret.log.room import Room


@dataclass(slots=True, frozen=True)
class ProducerOptions:
    """What `Log.producer` was told."""

    codec: int
    linger_s: float
    batch_size: int
    memory_max: int
    timeout_s: float
    idempotent: bool


class Accumulator:
    """The pipelines of a producer."""

    def __init__(self, options: ProducerOptions) -> None:
        self.options = options
        self.room = Room(options.memory_max)
        self.active: dict[TopicPartition, Pipeline] = {}
        """Those that hold something."""
        self._pipelines: dict[TopicPartition, Pipeline] = {}
        self._losses = Losses()
        # Topic to the partition for records without a key, and how many octets it still gets.
        self._sticky: dict[str, tuple[int, int]] = {}

    # ---- in ----

    def partition_for(
        self, topic: str, key: bytes | None, size: int, count: int, led: Callable[[str], Sequence[int]]
    ) -> int:
        """Of `count` partitions, of which those have leaders that `led` gives."""
        if key is not None:
            return partition_of_key(key, count)
        partition, left = self._sticky.get(topic, (-1, 0))
        if left <= 0 or partition >= count:
            others = [number for number in led(topic) if number != partition] or range(count)
            partition, left = random.choice(others), self.options.batch_size
        self._sticky[topic] = (partition, left - size)
        return partition

    def add(self, place: TopicPartition, record: Record, size: int) -> tuple[Sending, Batch | None]:
        """Put it into its batch, for which the room was taken; if that one is new, also gives what was begun."""
        pipeline = self._pipelines.get(place)
        if pipeline is None:
            pipeline = self._pipelines[place] = Pipeline(place)
        batch = pipeline.filling
        if batch is not None and batch.size + size <= self.options.batch_size:
            return batch.add(record, size), None
        self.active[place] = pipeline
        now = anyio.current_time()
        batch = pipeline.begin(now, now + self.options.timeout_s)
        return batch.add(record, size), batch

    def close_batches(self) -> None:
        """What is being filled goes as it is."""
        for pipeline in self.active.values():
            pipeline.close()

    def batches(self) -> list[Batch]:
        """All that are here, whether they are out or not."""
        return [batch for pipeline in self.active.values() for batch in pipeline]

    # ---- out ----

    def served(self, pipeline: Pipeline) -> None:
        """It comes last the next time."""
        self.active[pipeline.place] = self.active.pop(pipeline.place)

    def acknowledge(self, batch: Batch, base_offset: int, log_time: int) -> None:
        self.room.give_back(batch.size)
        batch.acknowledge(base_offset, log_time)

    def give_up(self, batch: Batch, reason: Reason) -> None:
        self.room.give_back(batch.size)
        batch.fail(reason, self._losses)

    def give_all_up(self, reason: Reason) -> None:
        """Nothing goes any more."""
        pipelines, self.active = self.active, {}
        for pipeline in pipelines.values():
            for batch in pipeline.give_all_up():
                self.give_up(batch, reason)

    def take_losses(self) -> Losses:
        """What was given up since the last time, and nobody has waited for."""
        taken, self._losses = self._losses, Losses()
        return taken
