"""When a broker that speaks Kafka's protocol is ready: asked in the shortest way, not with a client's start-up."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import time

_START_S = 90.0


class StartFailed(Exception):
    """A broker ended, or does not answer."""


def wait_for_metadata(port: int, process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """Until it answers that the cluster has a broker."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            if _count_of_brokers(port):
                return
        time.sleep(0.01)
    raise StartFailed(f"nothing speaks Kafka at port {port}")


def _count_of_brokers(port: int) -> int:
    """Ask for Metadata, version 1, of no topic; its answer begins with the array of brokers.

    size i32 | key i16 = 3 | version i16 = 1 | correlation i32 | client i16 size, octets | topics i32 = 0
    size i32 | correlation i32 | brokers i32 ...
    """
    request = struct.pack(">hhih5si", 3, 1, 7, 5, b"bench", 0)
    with socket.create_connection(("127.0.0.1", port), 5) as peer:
        peer.sendall(struct.pack(">i", len(request)) + request)
        answer = b""
        while len(answer) < 12:
            if not (some := peer.recv(65_536)):
                raise ConnectionResetError("the peer closed the connection")
            answer += some
    correlation, brokers = struct.unpack_from(">ii", answer, 4)
    if correlation != 7:
        raise RuntimeError(f"an answer to {correlation} came for 7")
    return int(brokers)
