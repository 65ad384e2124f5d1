"""The commands, for typer. What a command needs is imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from broker import __version__
from broker.cli.exits import BAD_CONFIG, UNAVAILABLE

app = typer.Typer(
    name="leveret",
    help="A message broker: RabbitMQ's protocol and Kafka's in one small process.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", envvar="LEVERET_CONFIG", help="Settings in TOML; without it, the defaults."
    ),
]


@app.command()
def serve(
    config: ConfigFile = None,
    data: Annotated[Path | None, typer.Option(help="Folder for messages and definitions.")] = None,
    amqp: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="AMQP listener, or off.")] = None,
    kafka: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Kafka listener.")] = None,
    management: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="HTTP listener, or off.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Listener for Prometheus alone, or off.")
    ] = None,
) -> None:
    """Run the broker until SIGTERM or Ctrl-C. Flags go over LEVERET_* over the file over defaults."""
    from broker.cli.serve import start

    flags = {"data": data, "amqp": amqp, "kafka": kafka, "management": management, "metrics": metrics}
    raise typer.Exit(start({"config": config, **flags}))


@app.command("check-config")
def check_config(file: Annotated[Path, typer.Argument(help="The file to check.")]) -> None:
    """Say whether a configuration file can be used, and what is wrong if not."""
    from broker.config.errors import ConfigError
    from broker.config.reading import read_config

    try:
        settings = read_config(file, {})
    except ConfigError as error:
        _fail(str(error), BAD_CONFIG)
    declared = (
        f"{len(settings.exchange)} exchanges, {len(settings.queue)} queues, {len(settings.topic)} topics, "
        f"{len(settings.binding)} bindings, {len(settings.user)} users"
    )
    typer.echo(f"{file}: ok, declares {declared}")


@app.command()
def ping(
    address: Annotated[
        str,
        typer.Option("--amqp", metavar="HOST:PORT", envvar="LEVERET_AMQP", help="Where the broker listens."),
    ] = "127.0.0.1:5672",
    timeout: Annotated[float, typer.Option(min=0.001, max=86_400, help="Seconds to wait.")] = 5.0,
) -> None:
    """Exit with 0 if a broker answers to AMQP there, with 69 if not."""
    from broker.cli.ping import ask

    try:
        answer = ask(address, timeout)
    except (OSError, ValueError) as error:
        _fail(f"no broker at {address}: {getattr(error, 'strerror', None) or error}", UNAVAILABLE)
    typer.echo(answer)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"leveret {__version__}")


def _fail(text: str, code: int) -> None:
    typer.echo(text, err=True)
    raise typer.Exit(code)
