"""The room that a node keeps for itself on the disk: publishers wait as long as it has none."""

from __future__ import annotations

import pytest

from broker.node.alarms import DISK
from broker.node.node import Node, NodeOptions, open_node
from fakes import FakeDefinitions, FakeFiles

RESERVE = "/data/reserve"
SIZE = 1000
LIMIT = 200


@pytest.fixture
def files() -> FakeFiles:
    return FakeFiles()


@pytest.fixture
async def node(files: FakeFiles) -> Node:
    options = NodeOptions("/data", reserve_size=SIZE, disk_free_limit=LIMIT)
    return open_node(options, files, FakeDefinitions())


async def test_it_is_there_while_the_node_runs(node, files):
    node._check_alarms()
    assert files.size(RESERVE) == SIZE
    assert not node.alarms.active
    node.close()
    assert files.size(RESERVE) == -1


async def test_without_room_for_it_publishers_wait_until_there_is(node, files, caplog):
    files.room = files.taken + SIZE + LIMIT - 1
    node._check_alarms()
    assert files.size(RESERVE) == -1
    assert node.alarms.active == {DISK}
    assert caplog.messages.count(f"disk: less room than is kept in reserve, {SIZE} octets") == 1
    files.room += 1
    node._check_alarms()
    assert files.size(RESERVE) == SIZE
    assert not node.alarms.active
    node.close()


async def test_it_is_given_up_when_the_disk_is_full_and_taken_again(node, files):
    node._check_alarms()
    node.flusher._writer.disk_full = True
    node._check_alarms()
    assert files.size(RESERVE) == -1
    assert node.alarms.active == {DISK}
    node.flusher._writer.disk_full = False
    node._check_alarms()
    assert files.size(RESERVE) == SIZE
    assert not node.alarms.active
    node.close()


async def test_one_that_is_too_small_grows(node, files):
    """As an older broker left it."""
    files.put(RESERVE, bytes(SIZE // 2))
    node._check_alarms()
    assert files.size(RESERVE) == SIZE
    node.close()
