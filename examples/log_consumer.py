"""Read page views with Leveret's own client, and share them with others who do the same, until Ctrl-C.

    python examples/log_consumer.py [trio | asyncio]

Start it twice: the partitions are shared out. What a group has read, it does not read again; another
GROUP in the environment reads all of it.
"""

import os
import signal
import sys

import anyio

import leveret
import leveret.log

url = os.environ.get("KAFKA_URL", "kafka://127.0.0.1:9092")
group = os.environ.get("GROUP", "counters")
backend = sys.argv[1] if len(sys.argv) > 1 else "trio"


async def consume():
    async with (
        leveret.log.connect(url) as log,
        log.consumer("views", group=group, offset="earliest", heartbeat_interval=0.5) as views,
    ):
        print(f"Waiting for views of {len(views.assignment)} partitions. Press Ctrl-C to stop.")
        async for view in views:
            # When the next one is asked for, this one counts as read.
            print(f"{view.key.decode()} saw {view.value.decode()} ({view.partition}:{view.offset})")


async def stop_on_signal(scope):
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()  # commits, and leaves the group, so that others need not wait
            break


async def main():
    problem = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stop_on_signal, tasks.cancel_scope)
        try:
            await consume()
        except leveret.LeveretError as error:
            problem = f"Not read any further: {error}"
        tasks.cancel_scope.cancel()
    if problem:
        sys.exit(problem)
    print("Bye")


anyio.run(main, backend=backend)
