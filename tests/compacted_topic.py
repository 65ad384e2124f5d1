"""A compacted topic on a stepped node, and its naive twin: what every pass must have left of what was appended.

Flow:   `append` and `compact` do the same to both; `check` holds one against the other.
Shape:  one partition, whose segments are small. The twin is a list of records; of a tombstone it knows when it
        may go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from broker.kafka import records
from broker.kafka.records import Record
from broker.node.partition import Partition
from broker.storage.noted import COMPACTED
from fakes import FakeFiles
from stepped_node import SteppedNode

NAME = "latest"
SEGMENT_SIZE = 500


@dataclass
class Twin:
    """Records in the order of offsets."""

    retention_ms: int
    records: list[Record] = field(default_factory=list)
    compacted_to: int = 0
    horizons: dict[int, int] = field(default_factory=dict)
    """Of tombstones, by offset: when they may go."""

    def compact(self, end: int, now_ms: int) -> None:
        """A pass that has read everything from where the last one ended up to before `end`."""
        last = {each.key: each.offset for each in self.records if self.compacted_to <= each.offset < end}
        kept = []
        for each in self.records:
            if each.offset < end:
                out_of_date = each.offset < last.get(each.key, -1)
                if each.key is None or out_of_date or self.horizons.get(each.offset, now_ms + 1) <= now_ms:
                    continue
                if each.value is None:
                    self.horizons.setdefault(each.offset, now_ms + self.retention_ms)
            kept.append(each)
        self.records, self.compacted_to = kept, end

    def cut(self, end: int) -> None:
        self.records = [each for each in self.records if each.offset < end]


def latest(found: Sequence[Record]) -> dict[bytes | None, bytes]:
    """What somebody knows who has read these."""
    values: dict[bytes | None, bytes] = {}
    for each in found:
        if each.value is None:
            values.pop(each.key, None)
        else:
            values[each.key] = each.value
    return values


class CompactedTopic:
    """It and its node, over restarts."""

    def __init__(self, files: FakeFiles | None = None, *, joins: bool = False, **configs: object) -> None:
        self.joins = joins
        self.node = SteppedNode(files)
        given = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": 0, **configs}
        self.configs = {name.replace("_", "."): str(value) for name, value in given.items()}
        self.twin = Twin(int(self.configs.get("delete.retention.ms", 86_400_000)))
        self.appended: list[Record] = []
        self.node.node.topics.create("/", NAME, 1, configs=self.configs)
        self.settle()
        self.node.finish()

    def settle(self) -> None:
        """What is not kept over a restart: how large segments may be. What has no room in a new one is not joined."""
        self.partition.log.segment_size_max = SEGMENT_SIZE

    @property
    def partition(self) -> Partition:
        return self.node.node.topics.topic("/", NAME).partitions[0]

    @property
    def compactor(self):
        return self.node.node.topics.compactor

    # ---- what producers do ----

    def append(
        self,
        *pairs: tuple[bytes | None, bytes | None],
        codec: int = 0,
        producer: tuple[int, int] | None = None,
    ) -> range:
        """One batch with these keys and values; `producer` is an id and a sequence number."""
        now_ms = self.node.clock.now
        made = [Record(0, now_ms + number, key, value) for number, (key, value) in enumerate(pairs)]
        ids = (
            {}
            if producer is None
            else {"producer_id": producer[0], "producer_epoch": 0, "base_sequence": producer[1]}
        )
        octets = records.build(made, compression_type=codec, **ids)
        self.settle()
        base = self.partition.append(records.read_header(octets), octets).base_offset
        for offset, each in enumerate(made, base):
            each.offset = offset
        self.twin.records += made
        self.appended += made
        self.node.commit()
        return range(base, base + len(made))

    def fill(self, *pairs: tuple[bytes | None, bytes | None], codec: int = 0) -> None:
        """The same, and what comes next is in another segment."""
        self.append(*pairs, codec=codec)
        self.partition.log.roll_due = True

    def roll(self) -> None:
        """What is there is in sealed segments; what comes next is with one more record in another one."""
        self.partition.log.roll_due = True
        self.append((b"last", b"%d" % self.partition.next_offset))

    # ---- what happens ----

    def pass_time(self, ms: int) -> None:
        self.node.clock.now += ms

    def tidy(self) -> None:
        self.partition.log.segment_size_max = SEGMENT_SIZE if self.joins else 0
        self.node.node.topics.tidy(self.node.clock.now)

    def compact(self) -> int:
        """One pass, if one is due; how far the partition is compacted then."""
        self.tidy()
        self.node.commit()
        end = self.compacted_to
        if end != self.twin.compacted_to:
            self.twin.compact(end, self.node.clock.now)
        return end

    @property
    def compacted_to(self) -> int:
        """As it is written down."""
        files = self.node.files
        return COMPACTED.read(files, files.handles(1), self.partition.log.directory)

    def restart(self) -> Self:
        return self._became(self.node.close())

    def kill(self) -> Self:
        return self._became(self.node.kill())

    def crash(self, seed: int) -> Self:
        return self._became(self.node.crash(seed))

    def _became(self, node: SteppedNode) -> Self:
        self.node = node
        self.settle()
        return self

    # ---- what is there ----

    def stored(self, size_max: int = 1) -> list[Record]:
        """As a consumer reads it, a batch at a time, or more at once."""
        partition = self.partition
        found: list[Record] = []
        offset = partition.start_offset
        while offset < partition.high_watermark and (octets := partition.read(offset, size_max)):
            at = 0
            while len(octets) - at >= records.HEADER_SIZE:
                header = records.read_header(octets, at)
                if at + header.size > len(octets):
                    break
                found += [
                    each for each in records.iterate(octets[at : at + header.size]) if each.offset >= offset
                ]
                at += header.size
                behind = header.base_offset + header.last_offset_delta + 1
            assert behind > offset
            offset = behind
        return found

    def headers(self) -> list[records.BatchHeader]:
        """Of all batches in the files."""
        log = self.partition.log
        return [
            records.read_header(log.batch_at(segment, at, span.size))
            for segment, at, span in log.spans_from(0)
        ]

    def files(self, suffix: str) -> list[str]:
        below = f"{self.partition.log.directory}/"
        return [
            path.removeprefix(below)
            for path in self.node.files.paths()
            if path.startswith(below) and path.endswith(suffix)
        ]

    def check(self) -> None:
        assert self.stored() == self.stored(1 << 20) == self.twin.records
