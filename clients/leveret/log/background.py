"""The tasks behind an `async with` block of ours.

Why:    What the block raises goes on as it is, and not in a group for it alone; a task that fails ends the
        block, as in any task group.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, TypeVarTuple

import anyio

Arguments = TypeVarTuple("Arguments")


class Background:
    """A task group that is opened and closed by the methods of another class."""

    __slots__ = ("_group",)

    def __init__(self) -> None:
        self._group = anyio.create_task_group()

    async def open(self) -> None:
        await self._group.__aenter__()

    def start(
        self, function: Callable[[*Arguments], Coroutine[Any, Any, object]], *arguments: *Arguments
    ) -> None:
        self._group.start_soon(function, *arguments)

    def cancel(self) -> None:
        self._group.cancel_scope.cancel()

    async def close(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Ends the tasks; what it gives is for `__aexit__` to return."""
        self.cancel()
        try:
            return await self._group.__aexit__(kind, error, traceback)
        except BaseExceptionGroup as group:
            if len(group.exceptions) != 1:
                raise
            alone = group.exceptions[0]
        if alone is error:
            return False
        raise alone from alone.__cause__
