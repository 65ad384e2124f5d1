"""Who waits for room is let in in his turn, and what is not used any more is given back."""

import anyio
import pytest

from backends import on_both_backends
from leveret.log.room import Room


class Guests:
    """Tasks that want room, and the order in which they got it."""

    def __init__(self, room, tasks):
        self.room = room
        self.tasks = tasks
        self.came = []
        self.scopes = {}

    async def want(self, name, size):
        self.tasks.start_soon(self._want, name, size)
        await anyio.wait_all_tasks_blocked()

    async def _want(self, name, size):
        with anyio.CancelScope() as self.scopes[name]:
            await self.room.take(size)
            self.came.append(name)

    async def give_back(self, size):
        self.room.give_back(size)
        await anyio.wait_all_tasks_blocked()


@on_both_backends
async def test_those_who_wait_are_let_in_in_their_order():
    room = Room(10)
    async with anyio.create_task_group() as tasks:
        guests = Guests(room, tasks)
        await guests.want("a", 6)
        await guests.want("large", 8)
        await guests.want("small", 1)
        assert guests.came == ["a"]
        assert not room.try_take(1)  # there would be, but others wait
        await guests.give_back(4)
        assert guests.came == ["a", "large"]
        assert room.used == 10
        await guests.give_back(1)
        assert guests.came == ["a", "large", "small"]
        assert room.used == 10
        await guests.give_back(10)
        assert room.try_take(10)
        assert not room.try_take(1)


@on_both_backends
async def test_who_goes_lets_those_behind_in():
    room = Room(10)
    async with anyio.create_task_group() as tasks:
        guests = Guests(room, tasks)
        await guests.want("a", 6)
        await guests.want("large", 8)
        await guests.want("small", 4)
        guests.scopes["large"].cancel()
        await anyio.wait_all_tasks_blocked()
        assert guests.came == ["a", "small"]
        assert room.used == 10


@on_both_backends
async def test_who_is_cancelled_when_he_is_let_in_gives_it_back():
    room = Room(10)
    async with anyio.create_task_group() as tasks:
        guests = Guests(room, tasks)
        await guests.want("a", 10)
        await guests.want("b", 10)
        await guests.want("c", 10)
        room.give_back(10)
        guests.scopes["b"].cancel()
        await anyio.wait_all_tasks_blocked()
        # What was first, being let in or being cancelled, is the backend's affair.
        if guests.came == ["a", "b"]:
            await guests.give_back(10)
            assert guests.came == ["a", "b", "c"]
        else:
            assert guests.came == ["a", "c"]
        assert room.used == 10


@on_both_backends
async def test_more_than_all_is_never_to_be_had():
    with pytest.raises(AssertionError):
        await Room(10).take(11)
