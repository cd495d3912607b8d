"""What has been prefilled already: keys and values of token sequences, shared where sequences begin alike.

A radix tree over token ids, one root an adapter, as in SGLang (RadixAttention, arXiv 2312.07104). A node holds the
tokens by which it prolongs its parent, and their keys and values in every layer. A conversation's next prompt begins
with the tokens of its last one and the reply to it, so only what is new has to be prefilled; a system prompt that a
thousand conversations share is kept once; a match depends on the tokens alone, so nobody has to say which conversation
a request belongs to. Beyond `max_bytes` the least recently used sequences are evicted, from their ends.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from simgym.engine.kv_cache import Block


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive tokens of a match, with their keys and values."""

    start: int
    """Position of the first of them."""
    block: Block
    """Their keys and values."""


@dataclass(frozen=True, slots=True)
class Match:
    """The longest known beginning of a prompt."""

    length: int
    """Tokens, >= 0."""
    pieces: list[Piece]
    """In order, without gaps."""


class Slots(Protocol):
    """Where keys and values are read from; the `KVCache`."""

    def read(self, slot: int, start: int, end: int) -> Block:
        """A copy of those of tokens `start` to `end` in a slot."""
        ...


@dataclass(slots=True, eq=False)
class Node:
    """Tokens that follow those of the parent."""

    tokens: list[int]
    """One or more; none at a root."""
    block: Block
    """Their keys and values."""
    parent: Node | None
    """None at a root."""
    children: dict[int, Node] = field(default_factory=dict)
    """By their first token."""
    used: int = 0
    """When it was last on the path of a match or an insertion; larger is later."""


class PrefixCache:
    """Token sequences with their keys and values, within a bound of bytes."""

    def __init__(self, max_bytes: int) -> None:
        """With `max_bytes` 0, nothing is kept from one `evict` to the next."""
        self.max_bytes = max_bytes
        self.size = 0
        """Bytes in use."""
        self._roots: dict[str | None, Node] = {}
        self._clock = 0

    def match(self, adapter: str | None, tokens: list[int]) -> Match:
        """The longest known beginning of `tokens`, as the base model or an adapter read it."""
        length = 0
        pieces: list[Piece] = []
        for node, shared in self._path(adapter, tokens):
            pieces.append(Piece(length, [tensor[..., :shared, :] for tensor in node.block]))
            length += shared
        return Match(length, pieces)

    def insert(self, adapter: str | None, tokens: list[int], slots: Slots, slot: int) -> None:
        """Keep a token sequence that stands in a slot; only what is not known yet is copied."""
        root = self._roots.setdefault(adapter, Node([], [], None))
        path = list(self._path(adapter, tokens))
        length = sum(shared for _, shared in path)
        if length == len(tokens):
            return
        last, shared = path[-1] if path else (root, 0)
        parent = self._split(last, shared) if last is not root and shared < len(last.tokens) else last
        block = slots.read(slot, length, len(tokens))
        node = Node(tokens[length:], block, parent, used=self._clock)
        parent.children[node.tokens[0]] = node
        self.size += _bytes(block)

    def evict(self) -> None:
        """Drop what was least recently used until `max_bytes` is kept."""
        if self.size <= self.max_bytes:
            return
        # ties are broken by the number, for nodes have no order
        leaves = [(node.used, number, node) for number, node in enumerate(self._nodes()) if not node.children]
        heapq.heapify(leaves)
        number = -1
        while leaves and self.size > self.max_bytes:
            leaf = heapq.heappop(leaves)[2]
            parent = leaf.parent
            assert parent is not None
            self.size -= _bytes(leaf.block)
            del parent.children[leaf.tokens[0]]
            if not parent.children and parent.parent is not None:
                heapq.heappush(leaves, (parent.used, number, parent))
                number -= 1

    def clear(self) -> None:
        """Drop everything, as when weights change."""
        self._roots.clear()
        self.size = 0

    def _path(self, adapter: str | None, tokens: list[int]) -> Iterator[tuple[Node, int]]:
        """Nodes along `tokens`, and how many tokens of each are shared; the last may be shared in part."""
        self._clock += 1
        node, position = self._roots.get(adapter), 0
        while node is not None and position < len(tokens):
            child = node.children.get(tokens[position])
            if child is None:
                return
            shared = shared_length(child.tokens, tokens[position : position + len(child.tokens)])
            child.used = self._clock
            yield child, shared
            if shared < len(child.tokens):
                return
            node, position = child, position + shared

    def _split(self, node: Node, length: int) -> Node:
        """Divide a node; the first part, of `length` tokens, is what comes back."""
        assert node.parent is not None
        head = Node(node.tokens[:length], _cut(node.block, 0, length), node.parent, used=node.used)
        node.parent.children[head.tokens[0]] = head
        node.tokens, node.block, node.parent = node.tokens[length:], _cut(node.block, length, None), head
        head.children[node.tokens[0]] = node
        return head

    def _nodes(self) -> Iterator[Node]:
        waiting = [child for root in self._roots.values() for child in root.children.values()]
        while waiting:
            node = waiting.pop()
            waiting += node.children.values()
            yield node


def shared_length(first: list[int], second: list[int]) -> int:
    """How many leading tokens two sequences share."""
    shortest = min(len(first), len(second))
    if first[:shortest] == second[:shortest]:
        return shortest
    return next(index for index in range(shortest) if first[index] != second[index])


def _cut(block: Block, start: int, end: int | None) -> Block:
    """A copy, so that the part that is evicted frees its memory."""
    return [tensor[..., start:end, :].clone() for tensor in block]


def _bytes(block: Block) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in block)
