"""JSON-schema-constrained decoding with xgrammar: which tokens may come next, per row.

The grammar is compiled once per schema and tokenizer; each constrained row then has a matcher that masks the logits
before a token is drawn and is told the token afterwards. The grammar of bounded strings lets raw control characters
through, which JSON forbids: read the result with `strict=False`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


class JsonConstraints:
    """Compiles schemas for one tokenizer and hands out matchers."""

    def __init__(self, tokenizer: Any, vocabulary_size: int, stop_tokens: Sequence[int]) -> None:
        import xgrammar

        information = xgrammar.TokenizerInfo.from_huggingface(
            tokenizer, vocab_size=vocabulary_size, stop_token_ids=list(stop_tokens)
        )
        self._vocabulary_size = vocabulary_size
        self._compiler = xgrammar.GrammarCompiler(information)
        self._compiled: dict[str, Any] = {}

    def matcher(self, schema: Mapping[str, Any]) -> Any:
        """A fresh matcher for one row. White space between JSON tokens is fixed, so a row cannot idle in blanks."""
        import xgrammar

        text = json.dumps(schema)
        if text not in self._compiled:
            self._compiled[text] = self._compiler.compile_json_schema(text, any_whitespace=False)
        return xgrammar.GrammarMatcher(self._compiled[text])

    def mask(self, logits: Tensor, matchers: Sequence[Any | None]) -> Tensor:
        """Logits with forbidden tokens at -inf; rows whose matcher is None are left as they are."""
        import xgrammar

        rows = [row for row, matcher in enumerate(matchers) if matcher is not None]
        if not rows:
            return logits
        bitmask = xgrammar.allocate_token_bitmask(len(matchers), self._vocabulary_size)
        for row in rows:
            matchers[row].fill_next_token_bitmask(bitmask, row)  # type: ignore[union-attr]
        masked = logits.float().clone()
        xgrammar.apply_token_bitmask_inplace(masked, bitmask.to(masked.device), indices=rows)
        return masked
