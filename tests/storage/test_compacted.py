"""How far a partition is compacted: written down, and never trusted."""

import pytest

from broker.storage import compacted
from fakes import FakeFiles

DIRECTORY = "/data/partitions/1"
PATH = f"{DIRECTORY}/compacted"


def test_what_was_written_is_read():
    files = FakeFiles()
    reader = files.handles(4)
    assert compacted.first_dirty(files, reader, DIRECTORY) == 0
    for offset in (1, 1 << 62, 5):
        compacted.write_of(DIRECTORY, offset).carry_out(files, reader)
        assert compacted.first_dirty(files, reader, DIRECTORY) == offset
    crashed = files.crash(1)
    assert compacted.first_dirty(crashed, crashed.handles(4), DIRECTORY) == 5


def test_the_octets():
    assert compacted.encode(5).hex(" ", 4) == "4c564331 b9d9a696 00000000 00000005"


@pytest.mark.parametrize("at", range(16))
def test_a_changed_octet_means_that_all_is_dirty(at):
    files = FakeFiles()
    octets = bytearray(compacted.encode(1000))
    octets[at] ^= 1
    files.put(PATH, bytes(octets))
    assert compacted.first_dirty(files, files.handles(4), DIRECTORY) == 0


@pytest.mark.parametrize("octets", [b"", compacted.encode(5)[:-1], compacted.encode(5) + b"\0"])
def test_and_so_does_a_file_of_another_size(octets):
    files = FakeFiles()
    files.put(PATH, octets)
    assert compacted.first_dirty(files, files.handles(4), DIRECTORY) == 0
    assert compacted.decode(octets) == 0
