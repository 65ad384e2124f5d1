"""What the package of the log says of itself is true."""

import asyncio
import subprocess
import sys
import textwrap

import anyio
import pytest
import trio

import leveret.log
from process import ROOT


@pytest.fixture
def example(log_url, topic):
    """The code of the package's docstring, at the tests' broker."""
    _, code = leveret.log.__doc__.split("\n\n", 1)
    code = textwrap.dedent(code.split("\nConnecting\n")[0])
    assert "anyio.run(main)" in code
    return code.replace("kafka://localhost:9092", log_url).replace("orders", topic)


@pytest.mark.parametrize(
    "run",
    [anyio.run, trio.run, lambda main: asyncio.run(main())],
    ids=["anyio.run", "trio.run", "asyncio.run"],
)
def test_the_example_runs(example, topic, capsys, run):
    names = {}
    exec(example.replace("anyio.run(main)", ""), names)

    run(names["main"])

    assert capsys.readouterr().out.splitlines() == [
        f"{topic}[0] has it at offset 0",
        "b'table 7' b'one tea' b'Ada'",
    ]


def test_everything_public_is_there():
    assert sorted(leveret.log.__all__) == sorted(set(leveret.log.__all__))
    for name in leveret.log.__all__:
        assert getattr(leveret.log, name).__doc__
    errors = [getattr(leveret.log, name) for name in leveret.log.__all__]
    errors = [kind for kind in errors if isinstance(kind, type) and issubclass(kind, Exception)]
    assert all(issubclass(kind, leveret.LeveretError) for kind in errors)
    assert not any(issubclass(kind, OSError) for kind in errors)


def test_whoever_does_not_use_it_does_not_load_it():
    program = "import leveret, sys; print([name for name in sys.modules if 'kafka' in name or 'leveret.log' in name])"
    found = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'clients'}"},
        capture_output=True,
        check=True,
        text=True,
    )
    assert found.stdout == "[]\n"
