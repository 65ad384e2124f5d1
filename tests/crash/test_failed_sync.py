"""A disk that refuses to sync: the process ends, says so, and has confirmed nothing that is not safe."""

from __future__ import annotations

from pathlib import Path

import pytest

from altered_broker import AlteredBroker
from amqp_client import Client

# The system calls that make something safe fail as long as there is a file of this name.
REFUSES = """
import errno, os

def refuse():
    if os.path.exists({marker!r}):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

fdatasync, pwritev = os.fdatasync, os.pwritev

def fdatasync_or_not(descriptor):
    refuse()
    fdatasync(descriptor)

def pwritev_or_not(descriptor, buffers, offset, flags=0):
    if flags & os.RWF_DSYNC:
        refuse()
    return pwritev(descriptor, buffers, offset, flags)

os.fdatasync, os.pwritev = fdatasync_or_not, pwritev_or_not
"""
QUEUES = ("a", "b", "c", "d")


@pytest.mark.parametrize("exchange", ["", "amq.fanout"], ids=["one queue", "the journal"])
async def test_a_failed_sync_ends_the_process_with_a_clear_last_line(tmp_path: Path, exchange: str) -> None:
    queues = QUEUES if exchange else QUEUES[:1]
    marker = tmp_path / "refuse"
    with AlteredBroker(tmp_path, REFUSES.format(marker=str(marker))) as broker:
        client = await Client.connect(broker.amqp)
        channel = await client.channel()
        for queue in QUEUES:
            await channel.declare(queue, durable=True)
            await channel.bind(queue, "amq.fanout")
        await channel.confirm_mode()
        await channel.publish(b"safe", exchange=exchange, to="a", delivery_mode=2)
        assert await channel.confirms(1) == {1: True}
        marker.touch()
        await channel.publish(b"not safe", exchange=exchange, to="a", delivery_mode=2)
        await client.ended()
        client.drop()
        assert client.came(channel.number) == []
        assert broker.wait() == 70
        folder = "journal" if exchange else "queues"
        assert broker.output[-1].startswith(f"leveret: the disk failed: {broker.data}/{folder}/")
        assert broker.output[-1].endswith(
            ": Input/output error; nothing that was not safe has been confirmed"
        )
        assert "Traceback" not in broker.log.read_text()
        marker.unlink()
        broker.start()
        client = await Client.connect(broker.amqp)
        channel = await client.channel()
        for queue in queues:
            first = await channel.get(queue)
            assert first is not None
            assert first.body == b"safe"
            second = await channel.get(queue)
            assert second is None or second.body == b"not safe"
        await client.close()
