"""What a configuration file declares: made if it is missing, left as it is and said if it is different."""

from __future__ import annotations

import pytest
import trio

from broker.config import declarations, read_config
from broker.node.declarations import apply
from broker.node.node import NodeOptions, open_node


class Files:
    """Starts of a broker on one data folder, each with a file."""

    def __init__(self, folder):
        self._folder = folder

    async def start(self, text, then=None):
        """What is said when the file is applied; `then` is called with the node while it runs."""
        file = self._folder / "broker.toml"
        file.write_text(text)
        declared = declarations(read_config(file, {}))
        node = open_node(NodeOptions(str(self._folder / "data"), reserve_size=0))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.run)
                nursery.start_soon(self._collect, node)
                conflicts = await apply(node, declared)
                if then is not None:
                    then(node)
                    await node.settled()
                nursery.cancel_scope.cancel()
        finally:
            node.close()
        return conflicts

    async def _collect(self, node):
        """What the pump does: hear of commits that are safe."""
        while True:
            await trio.lowlevel.wait_readable(node.flusher.fileno())
            node.flusher.collect()


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


STREAM = """
[[exchange]]
name = "events"
type = "fanout"

[[queue]]
name = "log"
arguments = { x-queue-type = "stream", x-max-age = "7D" }

[[binding]]
source = "events"
destination = "log"
"""


async def test_a_queue_of_the_type_stream_is_a_topic(files):
    def look(node):
        topic = node.topics.topic("/", "log")
        assert (len(topic.partitions), topic.settings.retention_ms) == (1, 7 * 86_400_000)
        (binding,) = node.topology.vhost("/").bindings()
        assert (binding.destination.kind, binding.destination.name) == ("topic", "log")

    assert await files.start(STREAM, look) == []
    assert await files.start(STREAM, look) == []
    assert await files.start(STREAM.replace("7D", "8D"), look) == [
        "queue 'log': inequivalent arg 'x-max-age' for queue 'log' in vhost '/': "
        "received '8D' but the topic has retention.ms=604800000"
    ]


@pytest.mark.parametrize("first", ["", 'arguments = { x-queue-type = "stream" }'])
async def test_a_queue_stays_of_its_type(files, first):
    second = "" if first else 'arguments = { x-queue-type = "stream" }'
    assert await files.start(f'[[queue]]\nname = "q"\n{first}') == []
    (line,) = await files.start(f'[[queue]]\nname = "q"\n{second}')
    assert line.startswith("queue 'q': inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received ")
