"""The last offset of each key in the dirty part of a log, and what it leaves of a batch.

Flow:   a compactor's thread gives batches to `add`, in the order of offsets, until there is no more room; then
        `kept` says of every batch what stays of it.
Shape:  a key of up to 39 octets, or the 40 octets of a hash of it → an offset.
Limits: `keys_max` keys, about 150 octets each. A batch goes in whole or not at all, the first one in any case. One that
        is larger inflated than `inflated_size_max_of` allows stays as it is.
Spec:   Kafka's SkimpyOffsetMap and Cleaner, which has MD5 of each key.
Why:    What is not in the map is kept, so that a part of a log is compacted as rightly as all of it. A hash costs as
        much as all else that is done for a record, and most keys, as UUIDs written out, are not longer than what it saves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import islice
from typing import Final, TypeAlias

from broker.kafka.outlines import outlines
from broker.kafka.rebuild import rebuild
from broker.kafka.records import CONTROL, RecordProblem, inflated_size_max_of, read_header
from broker.storage import batch as batches
from broker.storage.batch import Batch

GiveWay: TypeAlias = Callable[[], None]

_HASH_SIZE: Final = 40
# So many records are looked at between two looks at the clock.
_GIVE_WAY_EVERY: Final = 256
_LONG_MAX: Final = (1 << 63) - 1


class KeyMap:
    """Knows the records from `first` up to before `end`."""

    def __init__(self, first: int, keys_max: int) -> None:
        self.end = first
        self.full = False
        """The next batch had no room."""
        self.unopened = 0
        """Batches that could not be opened, and were kept as they are."""
        self.first_unopened = ""
        self._keys_max = keys_max
        self._offsets: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._offsets)

    def add(self, batch: Batch, give_way: GiveWay) -> None:
        """Note the keys of a batch behind `end`, if there is room."""
        if self._offsets and len(self._offsets) + batch.count > self._keys_max:
            self.full = True
            return
        self._offsets.update(self._found(batch, give_way))
        self.end = batch.next_offset

    def _found(self, batch: Batch, give_way: GiveWay) -> dict[bytes, int]:
        """All of its keys, or none: a record that nobody can read must not make another one go."""
        if batch.attributes & CONTROL:
            return {}
        found: dict[bytes, int] = {}
        try:
            octets = b"".join(batch.buffers)
            records = outlines(octets, inflated_size_max=inflated_size_max_of(len(octets)))
            while some := list(islice(records, _GIVE_WAY_EVERY)):
                for offset, key, _, _, _ in some:
                    if key is not None:  # `_short`, without the call
                        found[key if len(key) < _HASH_SIZE else _hash(key)] = offset
                give_way()
        except RecordProblem:
            return {}
        return found

    def kept(
        self, batch: Batch, now_ms: int, delete_retention_ms: int, ends: frozenset[int], give_way: GiveWay
    ) -> list[Batch]:
        """What stays of it; `ends` are where the last batches of producers end, of which at least the header stays.

        Records behind what the map knows stay, and tombstones among them get no delete horizon, as what they
        delete may still be there.
        """
        give_way()
        if batch.base_offset >= self.end or batch.attributes & CONTROL:
            return [batch]
        octets = b"".join(batch.buffers)
        horizon_ms = read_header(octets).delete_horizon_ms
        gone = horizon_ms is not None and horizon_ms <= now_ms
        try:
            rebuilt = rebuild(
                octets,
                self._keeper(gone, give_way),
                delete_horizon_ms=min(now_ms + delete_retention_ms, _LONG_MAX),
                keep_empty=batch.next_offset in ends,
                inflated_size_max=inflated_size_max_of(len(octets)),
            )
        except RecordProblem as problem:
            self.first_unopened = self.first_unopened or f"offset {batch.base_offset}: {problem.text}"
            self.unopened += 1
            return [batch]
        if rebuilt == octets:
            return [batch]
        return [] if rebuilt is None else [batches.decode(rebuilt, 0)]

    def _keeper(self, gone: bool, give_way: GiveWay) -> Callable[[int, bytes | None, bool], bool]:
        """`gone`: the time of the batch's tombstones is over."""
        offsets = self._offsets
        asked = 0

        def keep(offset: int, key: bytes | None, has_value: bool) -> bool:
            nonlocal asked
            asked += 1
            if not asked % _GIVE_WAY_EVERY:
                give_way()
            if key is None or (gone and not has_value):
                return False
            return offset >= offsets.get(_short(key), -1)

        return keep


def _short(key: bytes) -> bytes:
    """Itself, or a hash, which is longer than those that are themselves."""
    return key if len(key) < _HASH_SIZE else _hash(key)


def _hash(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=_HASH_SIZE).digest()
