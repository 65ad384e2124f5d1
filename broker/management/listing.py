"""Lists: filtered, sorted, cut into pages, with the columns that were asked for.

Flow:   a resource gives its objects, how one is shown, and under which name; the rows are made while they are
        sent, or before that if they must be sorted by what they show.
Limits: a page has at most 500 rows; rows go out in pieces of 32 KiB or 100 rows, and whatever walks over
        many objects does so in turns. Two lists at a time are sorted by what they show, and two filtered by a
        pattern, as that takes memory.
Spec:   RabbitMQ: `page`, `page_size`, `name`, `use_regex`, `sort`, `sort_reverse`, `columns`.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import trio

from broker.management.errors import bad_request
from broker.management.http import JSON, Refused, Response, as_json, refusal
from broker.management.pattern import Pattern, PatternError
from broker.management.turns import Turns

PAGE_SIZE_MAX: Final = 500
_PAGE_SIZE: Final = 100
_PIECE_SIZE: Final = 32 * 1024
_PIECE_ROWS: Final = 100
# So many are sorted at once; what is longer is merged of such parts.
_PART: Final = 1000

_sorting: Final = trio.CapacityLimiter(2)
_matching: Final = trio.CapacityLimiter(2)

T = TypeVar("T")
Row: TypeAlias = dict[str, Any]
Columns: TypeAlias = Sequence[Sequence[str]]


class Page(NamedTuple):
    """Which part of a list."""

    number: int
    size: int


async def listed(
    query: Mapping[str, str],
    items: Sequence[T],
    show: Callable[[T], Row],
    key: Callable[[T], tuple[str, ...]],
) -> Response:
    """The answer to whoever asks for a list. `key` is the order, its last part the name.

    Raises Refused for a query that cannot be.
    """
    page = _page(query)
    columns = columns_of(query)
    total = len(items)
    if page is not None:
        items = await _named(items, key, query)
    reverse = query.get("sort_reverse") == "true"
    wanted = query.get("sort") or ""
    rows: Iterable[Row]
    if wanted in ("", "name", "vhost"):
        items = await _sorted(items, key, reverse)
        rows = map(show, _cut(items, page))
    else:
        path = wanted.split(".")
        async with _sorting:
            made = await _rows(await _sorted(items, key, reverse=False), show)
            rows = _cut(await _sorted(made, lambda row: _comparable(_dotted(row, path)), reverse), page)
    if columns:
        rows = (only(row, columns) for row in rows)
    if page is None:
        return rows_answer(rows)
    found = list(rows)
    return as_json(
        {
            "filtered_count": len(items),
            "item_count": len(found),
            "items": found,
            "page": page.number,
            "page_count": -(-len(items) // page.size),
            "page_size": page.size,
            "total_count": total,
        }
    )


def shown_once(query: Mapping[str, str], row: Row) -> Response:
    """One object, with the columns that were asked for."""
    columns = columns_of(query)
    return as_json(only(row, columns) if columns else row)


def shown_with(query: Mapping[str, str], row: Row, name: str, rows: Iterable[Row]) -> Response:
    """The same, with one more column that has rows: they are made while they are sent."""
    columns = columns_of(query)
    row = only(row, columns) if columns else row
    if columns and [name] not in columns:
        return as_json(row)
    rest = "," if row else ""
    head = json.dumps(row, separators=(",", ":"), allow_nan=False)[:-1] + f'{rest}"{name}":'
    return Response(200, JSON, chain((head.encode(),), _pieces(iter(rows)), (b"}",)))


# ---- names and pages ----


def _page(query: Mapping[str, str]) -> Page | None:
    if "page" not in query:
        return None
    try:
        number, size = int(query["page"]), int(query.get("page_size") or _PAGE_SIZE)
    except ValueError:
        raise bad_request("Pagination parameters are invalid") from None
    if number < 1 or not 1 <= size <= PAGE_SIZE_MAX:
        reason = f"Invalid pagination parameters: page number {number}, page size {size}"
        raise Refused(refusal(400, reason, "invalid_pagination_parameters"))
    return Page(number, size)


def _cut(items: Sequence[T], page: Page | None) -> Sequence[T]:
    if page is None:
        return items
    start = (page.number - 1) * page.size
    if start and start >= len(items):
        reason = f"Page out of range, page: {page.number} page size: {page.size}, len: {len(items)}"
        raise Refused(refusal(400, reason, "page_out_of_range"))
    return items[start : start + page.size]


async def _named(
    items: Sequence[T], key: Callable[[T], tuple[str, ...]], query: Mapping[str, str]
) -> Sequence[T]:
    """Those whose names have the text in them, or match the pattern, in whatever case."""
    wanted = query.get("name", "")
    if not wanted:
        return items
    turns = Turns()
    if query.get("use_regex") != "true":
        wanted = wanted.lower()
        return [item async for item, name in _each(items, key, turns) if wanted in name.lower()]
    try:
        pattern = Pattern(wanted)
        async with _matching:
            return [
                item async for item, name in _each(items, key, turns) if await pattern.found_in(name, turns)
            ]
    except PatternError as error:
        raise bad_request(f"Pagination parameters are invalid: name: {error}") from None


async def _each(
    items: Sequence[T], key: Callable[[T], tuple[str, ...]], turns: Turns
) -> AsyncIterator[tuple[T, str]]:
    """Each with its name, in turns."""
    for item in items:
        await turns.take_break()
        yield item, key(item)[-1]


# ---- order ----


async def _sorted(items: Sequence[T], key: Callable[[T], Any], reverse: bool) -> Sequence[T]:
    """As `sorted`, in turns: a long list in parts, which are merged then."""
    parts = []
    turns = Turns()
    for start in range(0, len(items), _PART):
        await turns.take_break()
        parts.append(sorted(items[start : start + _PART], key=key, reverse=reverse))
    if len(parts) < 2:
        return parts[0] if parts else []
    merged = []
    for item in heapq.merge(*parts, key=key, reverse=reverse):
        await turns.take_break()
        merged.append(item)
    return merged


async def _rows(items: Sequence[T], show: Callable[[T], Row]) -> list[Row]:
    rows = []
    turns = Turns()
    for item in items:
        await turns.take_break()
        rows.append(show(item))
    return rows


def _dotted(row: Any, path: Sequence[str]) -> Any:
    """What is not there counts as 0, as with RabbitMQ."""
    for name in path:
        if not isinstance(row, dict) or name not in row:
            return 0
        row = row[name]
    return row


def _comparable(value: Any) -> tuple[int, Any]:
    if value is None:
        return 0, 0
    if isinstance(value, int | float):
        return 0, value
    if isinstance(value, str):
        return 1, value
    return 2, json.dumps(value, sort_keys=True)


# ---- columns ----


def columns_of(query: Mapping[str, str]) -> Columns:
    """`a,b.c`: a whole, and c of b; nothing for everything."""
    return [path.split(".") for path in query.get("columns", "").split(",") if path]


def only(row: Row, columns: Columns) -> Row:
    """The row with nothing but these columns."""
    found: Row = {}
    for name, value in row.items():
        inner = [path[1:] for path in columns if path[0] == name]
        if not inner:
            continue
        if all(inner) and isinstance(value, dict):
            value = only(value, inner)
        found[name] = value
    return found


# ---- sending ----


def rows_answer(rows: Iterable[Row]) -> Response:
    """An array of rows. A long one is made while it is sent."""
    pieces = _pieces(iter(rows))
    first, second = next(pieces), next(pieces, None)
    body = first if second is None else chain((first, second), pieces)
    return Response(200, JSON, body)


def _pieces(rows: Iterator[Row]) -> Iterator[bytes]:
    encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
    gathered: list[str] = []
    size = 0
    start = "["
    for row in rows:
        text = encode(row)
        gathered.append(text)
        size += len(text)
        if size >= _PIECE_SIZE or len(gathered) >= _PIECE_ROWS:
            yield f"{start}{','.join(gathered)}".encode()
            gathered, size, start = [], 0, ","
    yield f"{start if gathered or start == '[' else ''}{','.join(gathered)}]".encode()
