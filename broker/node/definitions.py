"""What a node knows apart from messages, and where that is kept.

Flow:   the node reads everything at start and gives every change to the flusher, in whose thread
        `apply` makes it durable, before anybody is told that it happened.
Shape:  keys like `queue/%2F/orders` with JSON values; a revision that rises with each transaction.
        In JSON, what JSON lacks is {"@bytes": base64}, {"@decimal": text}, {"@time": seconds}; a name of
        the user's own that begins with @ gets another one in front.
Why:    Keys, values, transactions and revisions are what etcd offers too, in whose hands they come when
        nodes form a cluster. Embedded they lie in SQLite.
"""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import quote, unquote

from broker.storage.errors import CorruptLog, DiskFull, StorageError, SyncFailed

VHOST: Final = "vhost"
EXCHANGE: Final = "exchange"
QUEUE: Final = "queue"
BINDING: Final = "binding"
USER: Final = "user"
PERMISSION: Final = "permission"
TOPIC: Final = "topic"


class Change(NamedTuple):
    """A value for a key, or None to remove it."""

    key: str
    value: dict[str, Any] | None


def key(kind: str, *names: str) -> str:
    """The key of a definition; the names may hold anything."""
    return "/".join([kind, *(quote(name, safe="") for name in names)])


def names_of(found: str) -> tuple[str, list[str]]:
    """The kind and the names that `key` made a key of."""
    kind, *names = found.split("/")
    return kind, [unquote(name) for name in names]


def dump(value: Any) -> str:
    return json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=False)


def load(text: str) -> Any:
    return json.loads(text, object_hook=_special)


def _plain(value: Any) -> Any:
    match value:
        case bytes():
            return {"@bytes": base64.b64encode(value).decode()}
        case Decimal():
            return {"@decimal": str(value)}
        case datetime():
            return {"@time": int(value.timestamp())}
        case dict():
            return {f"@{name}" if name[:1] == "@" else name: _plain(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
    return value


def _special(found: dict[str, Any]) -> Any:
    if len(found) == 1:
        ((name, value),) = found.items()
        if name == "@bytes":
            return base64.b64decode(value)
        if name == "@decimal":
            return Decimal(value)
        if name == "@time":
            return datetime.fromtimestamp(value, UTC)
    return {name.removeprefix("@"): inner for name, inner in found.items()}


class DefinitionStore(Protocol):
    """Where definitions are kept."""

    def read_all(self) -> dict[str, dict[str, Any]]: ...

    def apply(self, changes: Sequence[Change]) -> int:
        """Make all of them durable, or none; returns the new revision.

        Raises DiskFull, or SyncFailed when the store is broken.
        """
        ...

    def close(self) -> None: ...


class SqliteDefinitions:
    """Definitions in a file of the data folder. Opened in one thread, then used in another."""

    def __init__(self, path: str) -> None:
        """Raises CorruptLog for a file that is no database, DiskFull, or SyncFailed."""
        self._path = path
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._revision = self._prepare()
        except sqlite3.Error as error:
            self._connection.close()
            raise self._refusal(error) from error

    def _prepare(self) -> int:
        """Make what is missing; returns the revision."""
        execute = self._connection.execute
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        execute("CREATE TABLE IF NOT EXISTS definition (key TEXT PRIMARY KEY, value TEXT, revision INTEGER)")
        execute("CREATE TABLE IF NOT EXISTS revision (number INTEGER)")
        row = execute("SELECT number FROM revision").fetchone()
        if row is None:
            execute("INSERT INTO revision VALUES (0)")
        return row[0] if row else 0

    def read_all(self) -> dict[str, dict[str, Any]]:
        try:
            rows = self._connection.execute("SELECT key, value FROM definition ORDER BY rowid").fetchall()
        except sqlite3.Error as error:
            raise self._refusal(error) from error
        return {found: load(value) for found, value in rows}

    def apply(self, changes: Sequence[Change]) -> int:
        revision = self._revision + 1
        execute = self._connection.execute
        try:
            execute("BEGIN IMMEDIATE")
            for change in changes:
                if change.value is None:
                    execute("DELETE FROM definition WHERE key = ?", (change.key,))
                else:
                    execute(
                        "INSERT INTO definition VALUES (?1, ?2, ?3) "
                        "ON CONFLICT (key) DO UPDATE SET value = ?2, revision = ?3",
                        (change.key, dump(change.value), revision),
                    )
            execute("UPDATE revision SET number = ?", (revision,))
            execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise self._refusal(error) from error
        self._revision = revision
        return revision

    def _roll_back(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise self._refusal(error) from error

    def _refusal(self, error: sqlite3.Error) -> StorageError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return CorruptLog(self._path, 0, str(error))
        return (DiskFull if code == sqlite3.SQLITE_FULL else SyncFailed)(f"{self._path}: {error}")

    def close(self) -> None:
        self._connection.close()
