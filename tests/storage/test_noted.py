"""Offsets that are written down, and never trusted."""

import pytest

from broker.storage.noted import COMPACTED, SAFE
from fakes import FakeFiles

DIRECTORY = "/data/partitions/1"
PATH = f"{DIRECTORY}/compacted"


def test_what_was_written_is_read():
    files = FakeFiles()
    reader = files.handles(4)
    assert COMPACTED.read(files, reader, DIRECTORY) == 0
    for offset in (1, 1 << 62, 5):
        COMPACTED.write_of(DIRECTORY, offset).carry_out(files, reader)
        assert COMPACTED.read(files, reader, DIRECTORY) == offset
    crashed = files.crash(1)
    assert COMPACTED.read(crashed, crashed.handles(4), DIRECTORY) == 5


def test_the_octets():
    assert COMPACTED.encode(5).hex(" ", 4) == "4c564331 b9d9a696 00000000 00000005"


@pytest.mark.parametrize("at", range(16))
def test_a_changed_octet_means_that_all_is_dirty(at):
    files = FakeFiles()
    octets = bytearray(COMPACTED.encode(1000))
    octets[at] ^= 1
    files.put(PATH, bytes(octets))
    assert COMPACTED.read(files, files.handles(4), DIRECTORY) == 0


@pytest.mark.parametrize("octets", [b"", COMPACTED.encode(5)[:-1], COMPACTED.encode(5) + b"\0"])
def test_and_so_does_a_file_of_another_size(octets):
    files = FakeFiles()
    files.put(PATH, octets)
    assert COMPACTED.read(files, files.handles(4), DIRECTORY) == 0
    assert COMPACTED.decode(octets) == 0


def test_what_is_not_synced_is_there_or_not_and_never_something_else():
    found = set()
    for seed in range(40):
        files = FakeFiles()
        files.make_directory(DIRECTORY)
        writer = files.handles(4)
        SAFE.write_of(DIRECTORY, 5).carry_out(files, writer)
        files.sync_directory(DIRECTORY)
        writer.sync(f"{DIRECTORY}/safe")
        SAFE.write_of(DIRECTORY, 1 << 40).carry_out(files, writer)
        crashed = files.crash(seed)
        found.add(SAFE.read(crashed, crashed.handles(4), DIRECTORY))
    assert {5, 1 << 40} <= found <= {0, 5, 1 << 40}
    assert SAFE.decode(COMPACTED.encode(5)) == 0


def test_what_cannot_be_read_is_0():
    class Unreadable:
        def read(self, path: str, position: int, size: int) -> bytes:
            raise OSError(5, "Input/output error", path)

    files = FakeFiles()
    files.put(PATH, COMPACTED.encode(5))
    assert COMPACTED.read(files, Unreadable(), DIRECTORY) == 0  # type: ignore[arg-type]
