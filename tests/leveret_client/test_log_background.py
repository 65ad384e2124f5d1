"""What a block and the tasks behind it raise comes out as whoever wrote the block expects it."""

import anyio
import pytest

from backends import on_both_backends
from leveret.log.background import Background


class Block:
    """As our classes use it."""

    async def __aenter__(self):
        self.background = Background()
        await self.background.open()
        return self.background

    async def __aexit__(self, *raised):
        return await self.background.close(*raised)


async def fail():
    raise KeyError("task")


@on_both_backends
async def test_tasks_end_with_the_block():
    ended = []

    async def wait():
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    async with Block() as background:
        background.start(wait)
        await anyio.wait_all_tasks_blocked()
    assert ended


@on_both_backends
async def test_what_the_block_raises_is_in_no_group():
    with pytest.raises(KeyError, match="block") as caught:
        async with Block():
            raise KeyError("block")
    assert caught.value.__cause__ is None


@on_both_backends
async def test_a_task_that_fails_ends_the_block():
    async def block():
        async with Block() as background:
            background.start(fail)
            await anyio.sleep_forever()

    with pytest.raises(KeyError, match="task"):
        await block()


@on_both_backends
async def test_both_fail():
    async def block():
        async with Block() as background:
            background.start(fail)
            try:
                await anyio.sleep_forever()
            finally:
                raise ValueError("block")

    with pytest.raises(ExceptionGroup) as caught:
        await block()
    assert {type(error) for error in caught.value.exceptions} == {KeyError, ValueError}


@on_both_backends
async def test_who_is_cancelled_from_outside_is_cancelled():
    with anyio.move_on_after(0.01) as scope:
        async with Block() as background:
            background.start(anyio.sleep_forever)
            await anyio.sleep_forever()
    assert scope.cancelled_caught
