"""What has been read already: keys and values of token sequences, shared where sequences begin alike.

A radix tree over token ids, one root an adapter. A node holds the tokens by which it prolongs its parent, and their
keys and values in every layer. A conversation's next prompt begins with the tokens of its last one and the reply to
it, so only what is new has to be read; a system prompt that a thousand conversations share is kept once; what is found
depends on the tokens alone, so nobody has to say which conversation a request belongs to. Beyond the bound the
sequences that were not used for longest go, from their ends, and are read again when they come back.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from simgym.language_models.slot_cache import Layers


@dataclass(slots=True, eq=False)
class Node:
    """Tokens that follow those of the parent."""

    tokens: list[int]
    """One or more; none at a root."""
    layers: Layers
    """Their keys and values."""
    parent: Node | None
    """None at a root."""
    children: dict[int, Node] = field(default_factory=dict)
    """By their first token."""
    used: int = 0
    """When it was last on a path that was found or stored; larger is later."""


class PrefixTree:
    """Token sequences with their keys and values, within a bound of bytes."""

    def __init__(self, bound: int) -> None:
        """`bound` in bytes; 0 keeps nothing from one call to the next."""
        self.bound = bound
        self.size = 0
        """Bytes that are held."""
        self._roots: dict[str, Node] = {}
        self._clock = 0

    def find(self, adapter: str, tokens: Sequence[int]) -> tuple[int, list[tuple[int, Layers]]]:
        """The longest known beginning of `tokens`.

        Returns:
            Its length, and its pieces: the column at which each begins, and its keys and values.
        """
        length = 0
        pieces: list[tuple[int, Layers]] = []
        for node, common in self._path(adapter, tokens):
            pieces.append((length, [(keys[:, :common], values[:, :common]) for keys, values in node.layers]))
            length += common
        return length, pieces

    def store(self, adapter: str, tokens: Sequence[int], read: Callable[[int, int], Layers]) -> None:
        """Keep a sequence; `read(start, end)` gives keys and values of what is not known yet."""
        root = self._roots.setdefault(adapter, Node([], [], None))
        path = list(self._path(adapter, tokens))
        length = sum(common for _, common in path)
        if length == len(tokens):
            return
        last, common = path[-1] if path else (root, 0)
        parent = self._split(last, common) if last is not root and common < len(last.tokens) else last
        layers = read(length, len(tokens))
        node = Node(list(tokens[length:]), layers, parent, used=self._clock)
        parent.children[node.tokens[0]] = node
        self.size += _bytes(layers)

    def trim(self) -> None:
        """Drop what was not used for longest until the bound is kept."""
        if self.size <= self.bound:
            return
        # ties are broken by the number, for nodes have no order
        leaves = [(node.used, number, node) for number, node in enumerate(self._nodes()) if not node.children]
        heapq.heapify(leaves)
        number = -1
        while leaves and self.size > self.bound:
            leaf = heapq.heappop(leaves)[2]
            parent = leaf.parent
            assert parent is not None
            self.size -= _bytes(leaf.layers)
            del parent.children[leaf.tokens[0]]
            if not parent.children and parent.parent is not None:
                heapq.heappush(leaves, (parent.used, number, parent))
                number -= 1

    def clear(self) -> None:
        """Forget everything, as when weights change."""
        self._roots.clear()
        self.size = 0

    def _path(self, adapter: str, tokens: Sequence[int]) -> Iterator[tuple[Node, int]]:
        """Nodes along `tokens`, and how many tokens of each are shared; the last may be shared in part."""
        self._clock += 1
        node, at = self._roots.get(adapter), 0
        while node is not None and at < len(tokens) and (child := node.children.get(tokens[at])) is not None:
            common = shared_length(child.tokens, tokens[at : at + len(child.tokens)])
            child.used = self._clock
            yield child, common
            if common < len(child.tokens):
                return
            node, at = child, at + common

    def _split(self, node: Node, at: int) -> Node:
        """Divide a node; the first part is what comes back."""
        assert node.parent is not None
        head = Node(node.tokens[:at], _cut(node.layers, 0, at), node.parent, used=node.used)
        node.parent.children[head.tokens[0]] = head
        node.tokens, node.layers, node.parent = node.tokens[at:], _cut(node.layers, at, None), head
        head.children[node.tokens[0]] = node
        return head

    def _nodes(self) -> Iterator[Node]:
        waiting = [child for root in self._roots.values() for child in root.children.values()]
        while waiting:
            node = waiting.pop()
            waiting += node.children.values()
            yield node


def shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many leading tokens two sequences share."""
    shortest = min(len(first), len(second))
    if first[:shortest] == second[:shortest]:
        return shortest
    return next(index for index in range(shortest) if first[index] != second[index])


def _cut(layers: Layers, start: int, end: int | None) -> Layers:
    """A copy, so that the part that goes frees its memory."""
    return [(keys[:, start:end].clone(), values[:, start:end].clone()) for keys, values in layers]


def _bytes(layers: Layers) -> int:
    return sum(one.numel() * one.element_size() for pair in layers for one in pair)
