"""Read the settings: the command line over the environment over a TOML file over the defaults.

Why:    pydantic, because strangers write this.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import (
    ValidationError,
)

from broker.config.problems import lines
from broker.config.settings import Config, Listeners


class ConfigError(Exception):
    """The settings cannot be used; each line of the message says where and why."""


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

    `flags` has the names of the top level and of the listeners; None is "not given". Raises ConfigError.
    """
    found: dict[str, Any] = {}
    if file is not None:
        try:
            found = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: {error}") from None
        _validate(found, str(file))  # whose mistake it is must be clear
    for path, value, origin in _from_environment(environment):
        _put(found, path, value)
        _validate(found, origin)
    for name, value in (flags or {}).items():
        if value is not None:
            _put(found, ("listeners", name) if name in Listeners.model_fields else (name,), value)
            _validate(found, f"--{name}")
    return _validate(found, str(file or "defaults"))


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


def _validate(found: dict[str, Any], origin: str) -> Config:
    try:
        return Config.model_validate(found)
    except ValidationError as error:
        raise ConfigError("\n".join(lines(error, origin))) from None
