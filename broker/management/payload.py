"""Octets that somebody sent, as JSON can show them."""

from __future__ import annotations

import base64


def shown_octets(octets: bytes, encoding: str = "auto") -> tuple[str, str]:
    """As text ("string") where it is text and nobody wants it otherwise, else as base64; and which of them it is."""
    if encoding == "auto":
        try:
            return octets.decode(), "string"
        except UnicodeDecodeError:
            pass
    return base64.b64encode(octets).decode(), "base64"
