"""Kafka's protocol for clients."""
