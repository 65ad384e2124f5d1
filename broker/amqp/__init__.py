"""AMQP 0-9-1 without I/O: bytes to methods and contents, and back, for both ends of a connection."""
