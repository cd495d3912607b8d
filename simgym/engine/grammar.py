"""JSON-schema-constrained decoding with xgrammar: which tokens may come next in a sequence.

The grammar is compiled once per schema; each constrained sequence then has a matcher that masks the logits before a
token is drawn and is told the token afterwards. The grammar of bounded strings lets raw control characters through,
which JSON forbids: read the result with `strict=False`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from simgym.engine.transfer import to_device

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase
    from xgrammar import CompiledGrammar, GrammarCompiler, GrammarMatcher


class Grammar:
    """Compiles schemas for one tokenizer and hands out matchers."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary_size: int) -> None:
        """Nothing is compiled before the first schema; `vocabulary_size` is that of the model's logits."""
        self._tokenizer = tokenizer
        self._vocabulary_size = vocabulary_size
        self._compilers: dict[tuple[int, ...], GrammarCompiler] = {}
        self._compiled: dict[tuple[tuple[int, ...], str], CompiledGrammar] = {}

    def matcher(self, json_schema: str, stop_token_ids: Iterable[int]) -> GrammarMatcher:
        """A matcher for one sequence, which may write one of its stop tokens once the JSON is complete.

        White space between JSON tokens is fixed, so that a sequence cannot idle in blanks.
        """
        import xgrammar

        stops = tuple(sorted(token for token in stop_token_ids if token < self._vocabulary_size))
        key = stops, json_schema
        if key not in self._compiled:
            self._compiled[key] = self._compiler(stops).compile_json_schema(json_schema, any_whitespace=False)
        return xgrammar.GrammarMatcher(self._compiled[key])

    def mask(self, logits: Tensor, matchers: list[GrammarMatcher | None]) -> Tensor:
        """Logits with forbidden tokens at -inf; rows whose matcher is None are left as they are."""
        rows = [row for row, matcher in enumerate(matchers) if matcher is not None]
        if not rows:
            return logits
        import xgrammar

        bitmask = xgrammar.allocate_token_bitmask(len(matchers), self._vocabulary_size)
        for row in rows:
            matchers[row].fill_next_token_bitmask(bitmask, row)  # type: ignore[union-attr]
        masked = logits.float().clone()
        if masked.device.type == "cpu":
            xgrammar.apply_token_bitmask_inplace(masked, bitmask, vocab_size=self._vocabulary_size, indices=rows)
        else:
            index = to_device(rows, masked.device)
            own = masked[index]
            own[:, : self._vocabulary_size].masked_fill_(
                ~allowed_tokens(bitmask[rows].to(masked.device), self._vocabulary_size), float("-inf")
            )
            masked[index] = own
        return masked

    def _compiler(self, stops: tuple[int, ...]) -> GrammarCompiler:
        import xgrammar

        if stops not in self._compilers:
            vocabulary = xgrammar.TokenizerInfo.from_huggingface(
                self._tokenizer, vocab_size=self._vocabulary_size, stop_token_ids=list(stops)
            )
            self._compilers[stops] = xgrammar.GrammarCompiler(vocabulary)
        return self._compilers[stops]


def allowed_tokens(bitmask: Tensor, vocabulary_size: int) -> Tensor:
    """The bits of (N, W) words as booleans of shape (N, vocabulary_size), by plain torch.

    xgrammar's own kernels for GPUs are compiled on first use, which takes a compiler that not every machine has.
    """
    import torch

    bits = (bitmask[:, :, None] >> torch.arange(32, device=bitmask.device)) & 1
    return bits.flatten(1)[:, :vocabulary_size].bool()
