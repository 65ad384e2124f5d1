"""Read the settings: the command line over the environment over a TOML file over the defaults.

Why:    pydantic checks what strangers write, in a file or the environment. A start without either does not import it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from broker.config.errors import ConfigError
from broker.config.notation import read_listener
from broker.config.settings import Config, Listeners

_LISTENERS: Final = tuple(Listeners.__annotations__)
_RABBITMQ_NAMES: Final = {
    "RABBITMQ_DEFAULT_USER": ("default_user", "name"),
    "RABBITMQ_DEFAULT_PASS": ("default_user", "password"),
    "RABBITMQ_DEFAULT_VHOST": ("default_user", "vhost"),
}
_SHORT_NAMES: Final = {
    "AMQP": ("listeners", "amqp"),
    "KAFKA": ("listeners", "kafka"),
    "MANAGEMENT": ("listeners", "management"),
    "METRICS": ("listeners", "metrics"),
}
_PREFIX: Final = "LEVERET_"
# Of the environment, and no settings.
_NO_SETTINGS: Final = frozenset({"CONFIG"})
# Kubernetes tells every pod where a service is, and so one that is called leveret.
_OF_KUBERNETES: Final = re.compile(
    r"(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_.+)?)"
)
_PORT_OF_KUBERNETES: Final = re.compile(r"(tcp|udp|sctp)://.*")


def read_config(
    file: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any] | None = None
) -> Config:
    """The settings of a file, with the environment over them and the flags over both.

    `flags` are `data` and the listeners; None is "not given". Raises ConfigError.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    variables = _from_environment(environment)
    if file is None and not variables:
        try:
            return _of_flags(given)
        except ValueError:
            pass  # said below, in the same words as for a file
    from broker.config.checking import check

    found = _of_file(file) if file is not None else {}
    config = check(found, str(file or "defaults"))  # whose mistake it is must be clear
    for path, value, origin in variables:
        _put(found, path, value)
        config = check(found, origin)
    for name, value in given.items():
        _put(found, ("listeners", name) if name in _LISTENERS else (name,), value)
        config = check(found, f"--{name}")
    return config


def _of_flags(flags: Mapping[str, Any]) -> Config:
    """The defaults with flags over them. Raises ValueError."""
    listeners = {name: read_listener(value) for name, value in flags.items() if name in _LISTENERS}
    return Config(data=Path(flags.get("data", Config.data)), listeners=Listeners(**listeners))


def _of_file(file: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except ValueError as error:  # no TOML, no UTF-8, or a number of more digits than Python reads
        raise ConfigError(f"{file}: {error}") from None


def _from_environment(environment: Mapping[str, str]) -> list[tuple[tuple[str, ...], Any, str]]:
    found: list[tuple[tuple[str, ...], Any, str]] = []
    for name, value in sorted(environment.items()):
        if name in _RABBITMQ_NAMES:
            found.append((_RABBITMQ_NAMES[name], value, name))
        elif name.startswith(_PREFIX) and _is_setting(rest := name.removeprefix(_PREFIX), value):
            path = _SHORT_NAMES.get(rest) or tuple(rest.lower().split("__"))
            found.append((path, value, name))
    return found


def _is_setting(name: str, value: str) -> bool:
    if name in _NO_SETTINGS or _OF_KUBERNETES.fullmatch(name):
        return False
    return not (name.endswith("PORT") and _PORT_OF_KUBERNETES.fullmatch(value))


def _put(found: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        inner = found.get(name)
        found[name] = dict(inner) if isinstance(inner, dict) else {}
        found = found[name]
    found[path[-1]] = value
