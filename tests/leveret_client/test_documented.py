"""What the package says of itself is true."""

import asyncio
import textwrap

import anyio
import pytest
import trio

import leveret


@pytest.fixture
def example(url):
    """The code of the package's docstring, at the tests' broker."""
    _, code = leveret.__doc__.split("\n\n", 1)
    code = textwrap.dedent(code.split("\nPublishing\n")[0])
    assert "anyio.run(main)" in code
    return code.replace("amqp://guest:guest@localhost:5672/%2F", url)


@pytest.mark.parametrize(
    "run",
    [anyio.run, trio.run, lambda main: asyncio.run(main())],
    ids=["anyio.run", "trio.run", "asyncio.run"],
)
def test_the_example_runs(example, capsys, run):
    names = {}
    exec(example.replace("anyio.run(main)", ""), names)

    run(names["main"])

    assert capsys.readouterr().out == "b'one tea' {'table': 7}\n"


def test_the_example_runs_as_it_stands(example, capsys):
    exec(example, {})

    assert capsys.readouterr().out == "b'one tea' {'table': 7}\n"


def test_everything_public_is_there():
    assert sorted(leveret.__all__) == sorted(set(leveret.__all__))
    for name in leveret.__all__:
        assert getattr(leveret, name).__doc__
    errors = [getattr(leveret, name) for name in leveret.__all__]
    errors = [kind for kind in errors if isinstance(kind, type) and issubclass(kind, Exception)]
    assert all(issubclass(kind, leveret.LeveretError) for kind in errors)
    assert not any(issubclass(kind, OSError) for kind in errors)
