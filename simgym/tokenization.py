"""Token ids of a text that has a seam: a prompt and what follows it, or a template's words and a user's.

A piece of a text does not have the tokens that the same characters have inside the whole: SentencePiece puts a word
mark in front of whatever it is given (`Hello` alone is `▁Hello`, behind `<|user|>` it is not), and byte pairs merge
across a seam. So a whole is tokenized at once and divided by the characters that each token stands for. Where a token
stands on both sides of a seam, it belongs to what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from simgym.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NEAR = 256
"""Characters before a seam that may have to do with the tokens behind it."""


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text in which special tokens are written out; none is added."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_with_offsets(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """The same, and the characters that each token stands for: L token ids, L pairs of begin and end.

    Raises:
        ConfigurationError: the tokenizer does not tell (one that is not made by the library `tokenizers`).
    """
    try:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    except NotImplementedError:
        raise ConfigurationError(
            f"{type(tokenizer).__name__} does not tell which characters a token stands for. Load it with "
            "use_fast=True, or convert it to a tokenizer.json."
        ) from None
    return list(encoded["input_ids"]), [(int(begin), int(end)) for begin, end in encoded["offset_mapping"]]


def encode_around(tokenizer: PreTrainedTokenizerBase, before: str, after: str) -> tuple[list[int], list[int]]:
    """Token ids of `before + after`, divided where `after` begins; a token that stands on both sides is of `after`."""
    ids, offsets = encode_with_offsets(tokenizer, before + after)
    first = next((number for number, (_, end) in enumerate(offsets) if end > len(before)), len(ids))
    return ids[:first], ids[first:]


def next_token(tokenizer: PreTrainedTokenizerBase, prompt: str, word: str) -> int | None:
    """The token that is written when a word follows a prompt; None if that is not exactly one.

    The prompt keeps the tokens that it has alone, as it does when a model continues it.
    """
    near = prompt[-_NEAR:]
    alone, whole = encode(tokenizer, near), encode(tokenizer, near + word)
    if whole[: len(alone)] != alone or len(whole) != len(alone) + 1:
        return None
    return whole[-1]


def begin_within(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> list[bool]:
    """Which tokens begin inside a span of characters.

    Args:
        offsets: Begin and end of L tokens.
        spans: Begin and end of spans, in order, none within another.

    Returns:
        L answers.
    """
    inside, number = [], 0
    for begin, _ in offsets:
        while number < len(spans) and spans[number][1] <= begin:
            number += 1
        inside.append(number < len(spans) and spans[number][0] <= begin)
    return inside
