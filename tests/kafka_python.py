"""kafka-python: a client, and parts that serve as a second opinion; the package warns when it is imported."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from kafka.partitioner.default import murmur2
    from kafka.record import MemoryRecords, MemoryRecordsBuilder

    from kafka import (
        ConsumerRebalanceListener,
        KafkaAdminClient,
        KafkaConsumer,
        KafkaProducer,
        OffsetAndMetadata,
        OffsetSpec,
        TopicPartition,
        admin,
        codec,
        errors,
    )

__all__ = [
    "ConsumerRebalanceListener",
    "KafkaAdminClient",
    "KafkaConsumer",
    "KafkaProducer",
    "MemoryRecords",
    "MemoryRecordsBuilder",
    "OffsetAndMetadata",
    "OffsetSpec",
    "TopicPartition",
    "admin",
    "codec",
    "errors",
    "murmur2",
]
