"""The tables that say which fields a message has in which version.

Flow:   `broker.kafka.requests` holds the tables; `reader` and `writer` give the functions for one version,
        built on first use.
Shape:  A field's type is the name of a primitive ("int32", "string", "records"), that of an array of them
        ("[]int32"), the fields of a structure, or a list with those fields for an array of structures.
        Versions read like "3+", "0-7" or "none". A field without a default has the one of its type: zero,
        false, an empty string or array, 16 zero bytes, no records, the defaults of the structure's fields.
Limits: a reader takes as many elements, over all arrays of one message, as its caller allows.
Spec:   the schemas that Apache Kafka publishes under clients/src/main/resources/common/message, and the
        README there. Two things differ and cannot be seen on the wire: rows of versions that are not
        served are left out, and a text that may be null (an error message, say) is null by default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from broker.kafka import reading, writing
from broker.kafka.wire import Part, Struct

Fields: TypeAlias = "tuple[Field, ...]"
Type: TypeAlias = "str | Fields | list[Fields]"

# (buffer, position, elements that may come) -> (body, next position)
Reader: TypeAlias = Callable[[bytes, int, int], tuple[Struct, int]]
# (body, bytes so far, pieces so far) -> bytes behind the last piece
Writer: TypeAlias = Callable[[Struct, bytearray, list[Part]], bytearray]

VERSION_MAX = 0x7FFF

_EMPTY: dict[str, Any] = {
    "bool": False,
    "float64": 0.0,
    "string": "",
    "bytes": b"",
    "uuid": bytes(16),
    "records": None,
}


def versions(text: str) -> range:
    """The versions that "3+", "0-7", "5" or "none" stand for."""
    if text == "none":
        return range(0)
    if text.endswith("+"):
        return range(int(text[:-1]), VERSION_MAX + 1)
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


@dataclass(frozen=True, slots=True)
class Field:
    """One row. `default` is that of the type where it is not given; a tagged field is one in all its versions."""

    name: str
    type: Type
    versions: str
    default: Any = ...
    nullable: str = "none"
    tag: int | None = None

    def is_in(self, version: int) -> bool:
        return version in versions(self.versions)

    def is_nullable_in(self, version: int) -> bool:
        return version in versions(self.nullable)

    def absent(self) -> Any:
        """The value where a message does not have the field: a new one each time where it can be changed."""
        if self.default is not ...:
            return self.default
        if isinstance(self.type, tuple):
            return defaults(self.type)
        if isinstance(self.type, list) or self.type.startswith("[]"):
            return []
        return _EMPTY.get(self.type, 0)


def defaults(fields: Fields) -> Struct:
    return {field.name: field.absent() for field in fields}


class Schema:
    """One message in all its versions; `flexible_from` is the first with compact forms and tagged fields."""

    def __init__(self, name: str, fields: Fields, flexible_from: int | None) -> None:
        self.name = name
        self.fields = fields
        self.flexible_from = VERSION_MAX + 1 if flexible_from is None else flexible_from
        self._readers: dict[int, Reader] = {}
        self._writers: dict[int, Writer] = {}

    def reader(self, version: int) -> Reader:
        found = self._readers.get(version)
        if found is None:
            found = reading.build(self.name, self.fields, version, version >= self.flexible_from)
            self._readers[version] = found
        return found

    def writer(self, version: int) -> Writer:
        found = self._writers.get(version)
        if found is None:
            found = writing.build(self.name, self.fields, version, version >= self.flexible_from)
            self._writers[version] = found
        return found
