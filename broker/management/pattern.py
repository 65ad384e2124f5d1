"""Regular expressions that cannot run away, for the names that a query filters. Case does not matter.

Flow:   `Pattern(text)` reads a pattern; `found_in` looks for it anywhere in a name.
Shape:  a program as Thompson's construction makes it: take a character, or go on at one or two other places.
        All places where a match can be are walked together, character by character. What a character leads to is
        remembered: names that begin alike, and most characters of all others, cost a look into a dictionary.
Limits: patterns of 256 characters, 20 groups in each other, programs of 400 steps; what is not remembered yet takes
        turns, and of that there is a total for all the names of a request.
Spec:   what people write for names: literals, `.`, classes, `\\d \\w \\s`, groups, `|`, `* + ? {m,n}`, `^`, `$`.
        Back references and looking around are refused.
Why:    Python's own `re` takes exponential time for some patterns, and holds everything up while it does: one
        request of any user could stop the broker. RE2 does not; but its Python package, google-re2, has wheels
        neither for musl nor, for months after each release, for a new Python, and is hardly faster: 6 us for a name
        of 240 characters, here 10 us.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from broker.management.turns import Turns

_TEXT_MAX: Final = 256
_DEPTH_MAX: Final = 20
_STEPS_MAX: Final = 400
# Places looked at, for all names together: 0.2 s. Ordinary patterns take some thousands.
_WORK_MAX: Final = 500_000
# What a place takes of it besides, in time and in memory.
_FOLLOW_WORK: Final = 10

_CLASSES: Final[dict[str, Callable[[str], bool]]] = {
    "d": str.isdecimal,
    "w": lambda character: character.isalnum() or character == "_",
    "s": str.isspace,
}
_CONTROLS: Final = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v"}

Test: TypeAlias = Callable[[str], bool]


class PatternError(ValueError):
    """The pattern cannot be read, or is too much."""


# ---- what a pattern consists of ----


@dataclass(slots=True, frozen=True)
class _One:
    """A character that passes a test."""

    test: Test


@dataclass(slots=True, frozen=True)
class _Edge:
    """The start of the name, or its end."""

    start: bool


@dataclass(slots=True, frozen=True)
class _All:
    """One after the other; none is the empty pattern."""

    parts: tuple[_Part, ...]


@dataclass(slots=True, frozen=True)
class _Either:
    parts: tuple[_Part, ...]


@dataclass(slots=True, frozen=True)
class _Repeat:
    """At least `least` times, and at most `most` unless that is None."""

    part: _Part
    least: int
    most: int | None


_Part: TypeAlias = _One | _Edge | _All | _Either | _Repeat


class _Reader:
    """Reads a pattern from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def read(self) -> _Part:
        part = self._either()
        if self._at < len(self._text):
            raise PatternError("there is a ) without a (")
        return part

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self) -> str:
        character = self._peek()
        if not character:
            raise PatternError("it ends too early")
        self._at += 1
        return character

    def _skip(self, text: str) -> bool:
        found = self._text.startswith(text, self._at)
        self._at += len(text) if found else 0
        return found

    def _either(self) -> _Part:
        parts = [self._sequence()]
        while self._skip("|"):
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else _Either(tuple(parts))

    def _sequence(self) -> _Part:
        parts: list[_Part] = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._repeated())
        return _All(tuple(parts))

    def _repeated(self) -> _Part:
        part = self._atom()
        while True:
            if self._skip("*"):
                part = _Repeat(part, 0, None)
            elif self._skip("+"):
                part = _Repeat(part, 1, None)
            elif self._skip("?"):
                part = _Repeat(part, 0, 1)
            elif self._peek() == "{" and (bounds := self._bounds()):
                part = _Repeat(part, *bounds)
            else:
                return part
            self._skip("?")  # how much it takes does not matter to whether it is there
            if self._peek() in ("*", "+"):
                raise PatternError(f"there is nothing to repeat before {self._peek()}")

    def _bounds(self) -> tuple[int, int | None] | None:
        """`{2}`, `{2,}`, `{2,5}`; anything else in braces is literal."""
        inside, brace, _ = self._text[self._at + 1 :].partition("}")
        least, comma, most = inside.partition(",")
        if not brace or not least.isdecimal() or not (most.isdecimal() or not most):
            return None
        self._at += len(inside) + 2
        bounds = int(least), (int(most) if most else None) if comma else int(least)
        if bounds[1] is not None and bounds[1] < bounds[0]:
            raise PatternError(f"{{{inside}}} is the wrong way round")
        return bounds

    def _atom(self) -> _Part:
        character = self._take()
        match character:
            case "(":
                return self._group()
            case "[":
                return _One(self._set())
            case ".":
                return _One(lambda character: character != "\n")
            case "^":
                return _Edge(start=True)
            case "$":
                return _Edge(start=False)
            case "\\":
                return _One(self._escaped())
            case "*" | "+" | "?":
                raise PatternError(f"there is nothing to repeat before {character}")
        return _One(character.lower().__eq__)

    def _group(self) -> _Part:
        if self._skip("?") and not self._skip(":"):
            raise PatternError("(? is only allowed as (?:")
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise PatternError(f"more than {_DEPTH_MAX} groups are in each other")
        part = self._either()
        self._depth -= 1
        if not self._skip(")"):
            raise PatternError("there is a ( without a )")
        return part

    def _escaped(self) -> Test:
        """After a backslash."""
        character = self._take()
        if character in _CLASSES:
            return _CLASSES[character]
        if character.lower() in _CLASSES:
            inner = _CLASSES[character.lower()]
            return lambda character: not inner(character)
        return self._escaped_literal(character).__eq__

    def _escaped_literal(self, character: str) -> str:
        if character in _CONTROLS:
            return _CONTROLS[character]
        if character.isalnum():
            raise PatternError(f"\\{character} is not supported")
        return character

    def _set(self) -> Test:
        """After `[`."""
        negative = self._skip("^")
        tests: list[Test] = []
        first = True
        while first or self._peek() != "]":
            tests.append(self._member())
            first = False
        self._take()
        return lambda character: any(test(character) for test in tests) is not negative

    def _member(self) -> Test:
        """A character of a class, a range, or a class in the class."""
        character = self._take()
        if character == "[" and self._peek() in (":", "=", "."):
            raise PatternError("named classes are not supported")
        if character == "\\":
            if self._peek().lower() in _CLASSES and self._peek():
                return self._escaped()
            character = self._escaped_literal(self._take())
        if self._peek() != "-" or self._text[self._at + 1 : self._at + 2] in ("", "]"):
            return character.lower().__eq__
        self._take()
        last = self._take()
        if last == "\\":
            last = self._escaped_literal(self._take())
        if last < character:
            raise PatternError(f"the range {character}-{last} is the wrong way round")
        return lambda found: character <= found <= last or character <= found.upper() <= last


# ---- the program ----


@dataclass(slots=True)
class _Step:
    """Take a character that passes the test and go on behind; or go on at each of `to`."""

    test: Test | None = None
    to: tuple[int, ...] = ()
    edge: _Edge | None = None


class _State:
    """The places where a match can be after some characters, and what has been found out about them."""

    __slots__ = ("places", "found", "ends", "following")

    def __init__(self, places: tuple[int, ...], found: bool, ends: bool) -> None:
        self.places = places
        self.found = found
        self.ends = ends
        """Found if the name ends here."""
        self.following: dict[str, int] = {}
        """Where a character leads; by number, as the collector that looks for cycles runs seldom."""


class Pattern:
    """A pattern, ready to look for in the names of one request. Raises PatternError."""

    def __init__(self, text: str) -> None:
        if len(text) > _TEXT_MAX:
            raise PatternError(f"it has {len(text)} characters, at most {_TEXT_MAX} are allowed")
        self._steps: list[_Step] = []
        self._write(_Reader(text).read())
        self._end = len(self._steps)
        places: set[int] = set()
        self._reach(0, places, start=True)
        self._states = [self._state(tuple(places), start=True)]
        self._numbers: dict[tuple[int, ...], int] = {}
        self._work = 0

    async def found_in(self, name: str, turns: Turns) -> bool:
        """Whether some part of the name matches. Raises PatternError when all names together took too much."""
        states = self._states
        state = states[0]
        for character in name.lower():
            if state.found:
                return True
            number = state.following.get(character)
            if number is None:
                await turns.take_break()
                number = state.following[character] = self._follow(state, character)
            state = states[number]
        return state.found or state.ends

    def _follow(self, state: _State, character: str) -> int:
        passed: dict[Test, bool] = {}  # repeated parts share a test
        following: set[int] = set()
        for place in state.places:
            test = self._steps[place].test
            if test is None:
                continue
            if test not in passed:
                passed[test] = test(character)
            if passed[test]:
                self._reach(place + 1, following)
        self._reach(0, following)  # a match may begin anywhere
        self._work += _FOLLOW_WORK + len(state.places) + len(following)
        if self._work > _WORK_MAX:
            raise PatternError("it takes too long to look for in these names")
        places = tuple(sorted(following))
        if places not in self._numbers:
            self._numbers[places] = len(self._states)
            self._states.append(self._state(places))
        return self._numbers[places]

    def _state(self, places: tuple[int, ...], *, start: bool = False) -> _State:
        at_end: set[int] = set()
        for place in places:
            self._reach(place, at_end, start=start, end=True)
        return _State(places, self._end in places, self._end in at_end)

    def _reach(self, place: int, places: set[int], *, start: bool = False, end: bool = False) -> None:
        """Add a place, and all that lead on from it without taking a character, at the start or end of a name."""
        pending = [place]
        while pending:
            place = pending.pop()
            if place in places:
                continue
            places.add(place)
            if place == self._end:
                continue
            step = self._steps[place]
            if step.edge is not None:
                if start if step.edge.start else end:
                    pending.append(place + 1)
            elif step.test is None:
                pending += step.to

    def _add(self, step: _Step) -> _Step:
        if len(self._steps) >= _STEPS_MAX:
            raise PatternError("it is too complex")
        self._steps.append(step)
        return step

    def _write(self, part: _Part) -> None:
        match part:
            case _One(test):
                self._add(_Step(test))
            case _Edge():
                self._add(_Step(edge=part))
            case _All(parts):
                for inner in parts:
                    self._write(inner)
            case _Either(parts):
                self._write_either(parts)
            case _Repeat(inner, least, most):
                self._write_repeat(inner, least, most)

    def _write_either(self, parts: tuple[_Part, ...]) -> None:
        """fork to each; part; jump behind; part; jump behind ..."""
        fork = self._add(_Step())
        jumps = []
        for part in parts:
            fork.to += (len(self._steps),)
            self._write(part)
            jumps.append(self._add(_Step()))
        for jump in jumps:
            jump.to = (len(self._steps),)

    def _write_repeat(self, part: _Part, least: int, most: int | None) -> None:
        for _ in range(least):
            before = len(self._steps)
            self._write(part)
            if len(self._steps) == before:
                break  # nothing, however often
        if most is None:
            fork_at = len(self._steps)
            fork = self._add(_Step())
            self._write(part)
            self._add(_Step(to=(fork_at,)))
            fork.to = (fork_at + 1, len(self._steps))
            return
        forks = []
        for _ in range(most - least):
            fork = self._add(_Step())
            fork.to = (len(self._steps),)
            forks.append(fork)
            self._write(part)
        for fork in forks:
            fork.to += (len(self._steps),)
