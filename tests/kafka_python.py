"""Parts of kafka-python that serve as a second opinion; the package warns when it is imported."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from kafka.partitioner.default import murmur2
    from kafka.record import MemoryRecords, MemoryRecordsBuilder

    from kafka import codec

__all__ = ["MemoryRecords", "MemoryRecordsBuilder", "codec", "murmur2"]
