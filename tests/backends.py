"""Run an async test of the client under trio and under asyncio, as a plain test of pytest's.

Limits: `PROGRAM_S` for each; on a mock clock, which passes at once when nothing else happens, `MOCK_S`.
Why:    pytest-trio takes every async test, and AnyIO's own plugin cannot be there beside it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
import trio.testing

from patience import PROGRAM_S

MOCK_S = 1_000_000.0


def on_both_backends(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """The test, once for each backend; it takes its fixtures as ever."""
    return pytest.mark.parametrize("backend", ["trio", "asyncio"])(_plain(test, {}))


def on_mock_clock(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """The test under trio, where time passes whenever nothing else happens."""
    return pytest.mark.parametrize("backend", ["trio"])(_plain(test, {"autojump_threshold": 0}))


def _plain(test: Callable[..., Awaitable[None]], clock: dict[str, Any]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(backend: str, **fixtures: Any) -> None:
        async def bounded() -> None:
            with anyio.fail_after(MOCK_S if clock else PROGRAM_S):
                await test(**fixtures)

        options = {"clock": trio.testing.MockClock(**clock)} if clock else {}
        anyio.run(bounded, backend=backend, backend_options=options)

    parameters = [
        inspect.Parameter("backend", inspect.Parameter.KEYWORD_ONLY),
        *inspect.signature(test).parameters.values(),
    ]
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    )
    return run
