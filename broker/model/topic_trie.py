"""Topic patterns in a tree of their words.

Flow:   a topic exchange adds and removes patterns; `match` is asked once for each routing key, as routes
        are remembered.
Shape:  a node is one word; `*` matches one word, `#` none or more; the values hang where a pattern ends.
Limits: a routing key has 255 octets, so at most 256 words. Keys with `#` at many depths could make a
        plain walk exponential: visited (node, word) pairs bound it by nodes times words.
Spec:   AMQP 0-9-1 section 3.1.3.3; the empty key is one empty list of words, which `#` matches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

V = TypeVar("V")


@dataclass(slots=True, eq=False)
class _Node(Generic[V]):
    children: dict[str, _Node[V]] = field(default_factory=dict)
    values: dict[V, int] = field(default_factory=dict)
    """Each value with the number of times it was added."""


def words_of(key: str) -> list[str]:
    return key.split(".") if key else []


class TopicTrie(Generic[V]):
    """Values under patterns."""

    def __init__(self) -> None:
        self._root: _Node[V] = _Node()

    def add(self, pattern: str, value: V) -> None:
        node = self._root
        for word in words_of(pattern):
            node = node.children.setdefault(word, _Node())
        node.values[value] = node.values.get(value, 0) + 1

    def remove(self, pattern: str, value: V) -> None:
        """Undo one `add`; nodes that hold nothing any more go too."""
        path = [(self._root, "")]
        for word in words_of(pattern):
            path.append((path[-1][0].children[word], word))
        node = path[-1][0]
        node.values[value] -= 1
        if not node.values[value]:
            del node.values[value]
        for (parent, _), (child, word) in zip(path[-2::-1], path[:0:-1], strict=True):
            if child.values or child.children:
                break
            del parent.children[word]

    def match(self, key: str) -> dict[V, None]:
        """The values of all patterns that match, each once, in a stable order."""
        words = words_of(key)
        count = len(words)
        found: dict[V, None] = {}
        visited: set[tuple[int, int]] = set()
        pending = [(self._root, 0, False)]
        while pending:
            node, at, greedy = pending.pop()
            if (id(node), at) in visited:
                continue
            visited.add((id(node), at))
            if at == count:
                found.update(dict.fromkeys(node.values))
            elif greedy:
                pending.append((node, at + 1, True))
            children = node.children
            if not children:
                continue
            many = children.get("#")
            if many is not None:
                pending.append((many, at, True))
            if at < count:
                for word in ("*", words[at]):
                    child = children.get(word)
                    if child is not None:
                        pending.append((child, at + 1, word == "#"))
        return found
