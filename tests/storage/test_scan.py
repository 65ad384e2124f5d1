"""A walk over a file in pieces finds what one over the whole file does, wherever it is damaged."""

from __future__ import annotations

import pytest

from broker.storage import batch as batches
from broker.storage import scan
from broker.storage.scan import Part, walk
from broker.storage.segment import OFFSET_MAX
from fakes import FakeFiles

PATH = "/data/1/0.log"
SIZES = (1, 30, 200, 5, 90)


def written() -> bytes:
    """Five batches of different sizes, of two records each, and a gap before the last."""
    made = []
    for number, size in enumerate(SIZES):
        base = 2 * number if number < 4 else 20
        made += batches.encode(base, 2, [bytes([65 + number]) * size]).buffers
    return b"".join(made)


WHOLE = written()


def found(octets: bytes, piece_size: int, monkeypatch: pytest.MonkeyPatch, more: int = 0) -> list[Part]:
    """Every part, with the octets in place of a batch; the file is said to be longer by `more`."""
    monkeypatch.setattr(scan, "PIECE_SIZE", piece_size)
    files = FakeFiles()
    files.put(PATH, octets)
    parts = walk(files.handles(1), PATH, len(octets) + more, range(OFFSET_MAX))
    return [part._replace(batch=part.batch and part.batch.payload) for part in parts]  # type: ignore[arg-type]


@pytest.mark.parametrize("piece_size", [1, 12, 61, 100, 300])
def test_a_file_that_is_whole(piece_size, monkeypatch):
    parts = found(WHOLE, piece_size, monkeypatch)
    assert [len(part.batch) for part in parts] == list(SIZES)
    assert (parts[0].at, parts[-1].end) == (0, len(WHOLE))
    assert parts == found(WHOLE, piece_size, monkeypatch, more=50)  # it has become shorter


@pytest.mark.parametrize("piece_size", [1, 61, 100])
@pytest.mark.parametrize("bits", [0x01, 0xFF])
def test_a_flipped_octet_anywhere(piece_size, bits, monkeypatch):
    for at in range(len(WHOLE)):
        octets = WHOLE[:at] + bytes([WHOLE[at] ^ bits]) + WHOLE[at + 1 :]
        assert found(octets, piece_size, monkeypatch) == found(octets, 1 << 20, monkeypatch)


@pytest.mark.parametrize("piece_size", [1, 61, 100])
def test_an_end_anywhere(piece_size, monkeypatch):
    for end in range(len(WHOLE)):
        assert found(WHOLE[:end], piece_size, monkeypatch) == found(WHOLE[:end], 1 << 20, monkeypatch)


def test_a_whole_file_takes_a_piece_of_it_in_memory(monkeypatch):
    """Or two batches."""
    files = FakeFiles()
    files.put(PATH, WHOLE)
    read: list[int] = []

    class Counting:
        def read(self, path: str, position: int, size: int) -> bytes:
            read.append(size)
            return files.handles(1).read(path, position, size)

    monkeypatch.setattr(scan, "PIECE_SIZE", 100)
    assert len(list(walk(Counting(), PATH, len(WHOLE), range(OFFSET_MAX)))) == 5  # type: ignore[arg-type]
    assert max(read) < len(WHOLE)
