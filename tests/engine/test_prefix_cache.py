"""The prefix cache: the longest known beginning, within a bound of bytes, least recently used evicted first."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from simgym.engine import PrefixCache


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.booleans()), max_size=20),
    st.integers(0, 800),
)
def test_the_tree_finds_the_longest_known_beginning_within_its_bound(sequences, bound):
    import torch

    def block(tokens):
        keys = torch.tensor(tokens, dtype=torch.float32)[None, None, :, None]
        return [torch.cat([keys, torch.zeros_like(keys)])]

    tree, everything = PrefixCache(10**9), []
    for tokens, first in sequences:
        adapter = "first" if first else "second"
        slots = SimpleNamespace(read=lambda slot, start, end, tokens=tokens: block(tokens[start:end]))
        tree.insert(adapter, tokens, slots, 0)
        everything.append((adapter, tokens))
        for wanted_adapter, wanted in everything:
            match = tree.match(wanted_adapter, wanted)
            assert match.length == len(wanted)
            joined = [int(value) for piece in match.pieces for value in piece.block[0][0, 0, :, 0]]
            assert joined == wanted
            assert [piece.start for piece in match.pieces] == [
                sum(piece.block[0].shape[2] for piece in match.pieces[:number]) for number in range(len(match.pieces))
            ]
    known = {(adapter, *tokens[:end]) for adapter, tokens in everything for end in range(1, len(tokens) + 1)}
    assert tree.size == 8 * len(known)
    tree.max_bytes = bound
    tree.evict()
    assert tree.size <= bound


def test_what_was_not_used_for_longest_goes_first():
    import torch

    class Slots:
        def read(self, slot, start, end):
            return [torch.zeros(2, 1, end - start, 1)]

    tree = PrefixCache(10**9)
    for end in (10, 20, 30):
        tree.insert("a", [1] * end, Slots(), 0)
    for end in (10, 20, 30):
        tree.insert("a", [2] * end, Slots(), 0)
    tree.max_bytes = tree.size - 15 * 8
    tree.evict()
    assert tree.match("a", [1] * 30).length == 10
    assert tree.match("a", [2] * 30).length == 30
