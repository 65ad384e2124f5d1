"""Generate the function that writes one version of a message.

Flow:   `broker.kafka.schema` gives the rows and takes the function.
Shape:  Straight code that adds to `out`, with a loop for each array. Neighbouring values of fixed size are
        packed in one call together with the length of what follows them, and with the byte that says that
        there are no tagged fields. Records end a piece: see `broker.kafka.wire.put_records`.
Limits: a number that does not fit its field is a struct.error: our own bug. None, or no value, where null
        cannot be written is written as the empty string, bytes or array.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from broker.kafka import wire
from broker.kafka.reading import FORMATS, element_of
from broker.kafka.source import Source

if TYPE_CHECKING:
    from broker.kafka.schema import Field, Fields, Type, Writer


def build(title: str, fields: Fields, version: int, flexible: bool) -> Writer:
    source = _Writing(version, flexible)
    source.structure(fields, "body")
    source.flush()
    source.line("return out")
    return source.function("body, out, parts", f"{title} v{version}, writing")


class _Writing(Source):
    def __init__(self, version: int, flexible: bool) -> None:
        names = {
            "bytearray": bytearray,
            "differs": wire.differs,
            "len": len,
            "pack_many": struct.pack,
            "put_records": wire.put_records,
            "put_tags": wire.put_tags,
            "uvarint": wire.uvarint,
        }
        super().__init__(names)
        self._version = version
        self._flexible = flexible
        # Where the bytes go: `out`, or what a tagged field is made of.
        self._out = "out"
        # Format and expression of the neighbouring values that are not packed yet.
        self._run: list[tuple[str, str]] = []

    def structure(self, fields: Fields, value: str) -> None:
        get = self.fresh("get")
        self.line(f"{get} = {value}.get")
        for field in fields:
            if field.tag is None and field.is_in(self._version):
                self._field(field, self._got(field, get))
        if self._flexible:
            self._tags(fields, get)

    def _got(self, field: Field, get: str) -> str:
        default = field.absent()
        is_fixed = isinstance(field.type, str) and field.type in FORMATS
        if default is None or not (is_fixed or field.is_nullable_in(self._version)):
            return f"{get}({field.name!r})"  # nothing becomes empty where it is written
        return f"{get}({field.name!r}, {default!r})"

    def _field(self, field: Field, value: str) -> None:
        nullable = field.is_nullable_in(self._version)
        element = element_of(field.type)
        if isinstance(field.type, tuple):
            self._structure(field.type, nullable, value)
        elif element is not None:
            self._array(element, nullable, value)
        elif field.type in FORMATS:
            self._run.append((FORMATS[str(field.type)], value))
        else:
            self._sized(str(field.type), nullable, value)

    def _structure(self, fields: Fields, nullable: bool, value: str) -> None:
        if not nullable:
            self.structure(fields, f"({value} or {{}})")
            return
        name = self._named(value)
        with self._null_or_else(name, b"\xff"):
            self._run.append(("b", "1"))
            self.structure(fields, name)

    def _sized(self, kind: str, nullable: bool, value: str) -> None:
        """A string, bytes or records."""
        code = "h" if kind == "string" else "i"
        if not nullable:
            empty = "''" if kind == "string" else "b''"
            self._octets(kind, code, self._named(f"{value} or {empty}"))
            return
        name = self._named(value)
        with self._null_or_else(name, self._null(code)):
            self._octets(kind, code, name)

    def _octets(self, kind: str, code: str, name: str) -> None:
        if kind == "string":
            self.line(f"{name} = {name}.encode()")
        self._size(code, name)
        if kind == "records":
            self.line(f"out = put_records(out, parts, {name})")
        else:
            self.line(f"{self._out} += {name}")

    def _array(self, element: Type, nullable: bool, value: str) -> None:
        if not nullable:
            self._elements(element, self._named(f"{value} or ()"))
            return
        name = self._named(value)
        with self._null_or_else(name, self._null("i")):
            self._elements(element, name)

    def _elements(self, element: Type, name: str) -> None:
        self._size("i", name)
        code = FORMATS.get(element, "") if isinstance(element, str) else ""
        if len(code) == 1:
            self.line(f"{self._out} += pack_many(f'>{{len({name})}}{code}', *{name})")
            return
        item = self.fresh("item")
        with self.block(f"for {item} in {name}:"):
            if isinstance(element, tuple):
                self.structure(element, item)
            elif code:
                self._run.append((code, item))
            else:
                self._sized(str(element), False, item)
            self.flush()

    def _tags(self, fields: Fields, get: str) -> None:
        """Write the tagged fields that do not have their default."""
        known = [field for field in fields if field.tag is not None and field.is_in(self._version)]
        if not known:
            self._run.append(("x", ""))
            return
        self.flush()
        tags = self._named("()")
        for field in sorted(known, key=lambda field: field.tag or 0):
            name = self._named(f"{get}({field.name!r})")
            with self.block(f"if {self._is_said(field, name)}:"):
                self._tag(field, name, tags)
        with self.block(f"if {tags}:"):
            self.line(f"{self._out} += put_tags({tags})")
        with self.block("else:"):
            self.line(f"{self._out}.append(0)")

    def _is_said(self, field: Field, name: str) -> str:
        default = field.absent()
        if isinstance(default, dict):
            return f"{name} is not None and differs({name}, {self.constant('defaults', default)})"
        return f"{name} is not None and {name} != {default!r}"

    def _tag(self, field: Field, name: str, tags: str) -> None:
        outer, self._out = self._out, self.fresh("out")
        self.line(f"{self._out} = bytearray()")
        self._field(field, name)
        self.flush()
        self.line(f"{tags} += (({field.tag}, {self._out}),)")
        self._out = outer

    def _named(self, value: str) -> str:
        name = self.fresh("v")
        self.line(f"{name} = {value}")
        return name

    @contextmanager
    def _null_or_else(self, name: str, null: bytes) -> Iterator[None]:
        self.flush()
        with self.block(f"if {name} is None:"):
            self.line(f"{self._out} += {null!r}")
        with self.block("else:"):
            yield
            self.flush()

    def _null(self, code: str) -> bytes:
        return b"\0" if self._flexible else struct.pack(f">{code}", -1)

    def _size(self, code: str, name: str) -> None:
        """Write a length or count behind the values that wait, and pack them all."""
        if not self._flexible:
            self._run.append((code, f"len({name})"))
            self.flush()
            return
        size = self._named(f"len({name}) + 1")
        run = self._run
        with self.block(f"if {size} < 128:"):
            self._run = [*run, ("B", size)]
            self.flush()
        with self.block("else:"):
            self._run = run
            self.flush()
            self.line(f"{self._out} += uvarint({size})")

    def flush(self) -> None:
        codes = "".join(code for code, _ in self._run)
        values = ", ".join(value for _, value in self._run if value)
        self._run = []
        if codes == "B":
            self.line(f"{self._out}.append({values})")
        elif codes:
            pack = self.constant("pack", struct.Struct(f">{codes}").pack)
            self.line(f"{self._out} += {pack}({values})")
