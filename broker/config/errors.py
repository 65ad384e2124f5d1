"""What is raised for settings."""

from __future__ import annotations


class ConfigError(Exception):
    """The settings cannot be used; each line of the message says where and why."""
