"""Kafka's protocol without I/O: bytes to requests and responses, and back, for both ends of a connection."""
