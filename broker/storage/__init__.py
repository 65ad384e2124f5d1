"""Bytes on disk: offsets, positions and syncs. Nothing here knows what a message is."""
