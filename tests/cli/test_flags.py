"""A plain start reads its flags itself, everything else goes to typer; what comes out is the same."""

from __future__ import annotations

import inspect

import pytest

from broker.cli import commands
from broker.cli.flags import SERVE_FLAGS, plain_serve_flags


def test_flags_are_those_of_the_command():
    assert tuple(inspect.signature(commands.serve).parameters) == SERVE_FLAGS


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        ("", {}),
        ("--data d", {"data": "d"}),
        ("--data=d --data=e=f", {"data": "e=f"}),
        ("-c c.toml --amqp off", {"config": "c.toml", "amqp": "off"}),
        (
            "--config c --data d --amqp :1 --kafka :2 --management=:3 --metrics 4",
            {"config": "c", "data": "d", "amqp": ":1", "kafka": ":2", "management": ":3", "metrics": "4"},
        ),
    ],
)
def test_plain_flags(arguments, flags):
    assert plain_serve_flags(["serve", *arguments.split()]) == flags


@pytest.mark.parametrize(
    "arguments", [["--data"], ["--data", ""], ["--data="], ["--data", "-d"], ["--data=-d"]]
)
def test_values_that_need_typer(arguments):
    assert plain_serve_flags(["serve", *arguments]) is None


@pytest.mark.parametrize(
    "arguments",
    [
        *("", "--help", "--version", "version", "ping", "check-config f", "serv", "--data d serve"),
        *("serve --help", "serve -h", "serve --nonsense d", "serve --dat d", "serve d", "serve -- --data d"),
        *("serve -cf", "serve -c=f", "serve --amqp --kafka off", "serve --data d --help", "serve --DATA d"),
    ],
)
def test_arguments_that_need_typer(arguments):
    assert plain_serve_flags(arguments.split()) is None


def test_typer_passes_on_the_same_flags(monkeypatch):
    started = []
    monkeypatch.setattr("broker.cli.serve.start", lambda flags: started.append(flags) or 0)
    arguments = ["serve"]
    for flag in SERVE_FLAGS:
        arguments += [f"--{flag}", flag]
    with pytest.raises(SystemExit) as ended:
        commands.app(arguments)
    assert ended.value.code == 0
    (flags,) = started
    assert {name: str(value) for name, value in flags.items()} == plain_serve_flags(arguments)
