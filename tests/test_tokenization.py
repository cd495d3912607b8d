"""A piece of a text has the tokens that it has inside the whole, for byte pairs and for SentencePiece.

Source: NeMo-RL#2844 (each piece tokenized on its own gets a word mark; the assistant learns a leading space).
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from simgym.chat_template import MASKED, add_end_token, flip, render, turn_end
from simgym.conversation import Message
from simgym.tokenization import begin_within, encode, encode_around, encode_with_offsets, next_token

ZEPHYR = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SPACES = " \t"
LETTERS = "abcdefghijklmnopqrstuvwxyzHé|<>/?.,0123456789\n"
WORDS = ("Hello", "there", "user", "assistant", "system", "score", "7")


def sentencepiece(make):
    """A Unigram tokenizer as SentencePiece has them, of one of three makes."""
    pieces = ["<unk>", "</s>", "▁", *LETTERS, *WORDS, *(f"▁{word}" for word in WORDS)]
    backend = Tokenizer(models.Unigram([(piece, -float(len(LETTERS)) / len(piece)) for piece in pieces], unk_id=0))
    if make == "legacy":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=make)
        backend.decoder = decoders.Metaspace(prepend_scheme=make)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    tokenizer.chat_template = ZEPHYR
    add_end_token(tokenizer)
    return tokenizer


MAKES = ("first", "always", "legacy")
TALK = (
    Message("user", "Hello there"), Message("assistant", "Hello user"), Message("user", "score 7"),
)  # fmt: skip


@pytest.mark.parametrize("make", MAKES)
def test_training_has_the_tokens_of_the_prompt(make):
    tokenizer = sentencepiece(make)
    example = flip(tokenizer, "You are a user", TALK)
    for spoken in (0, 2):
        prompt = encode(tokenizer, render(tokenizer, [Message("system", "You are a user"), *TALK[:spoken]], "user"))
        assert list(example.input_ids[: len(prompt)]) == prompt
        assert example.labels[len(prompt)] != MASKED
        assert example.labels[len(prompt) - 1] == MASKED
    learned = [token for token in example.labels if token != MASKED]
    end = turn_end(tokenizer)
    assert end == "</s>"
    assert tokenizer.convert_ids_to_tokens(learned) == ["Hello", "▁there", end, "score", "▁7", end]


@pytest.mark.parametrize("make", MAKES)
def test_a_digit_is_taken_as_it_is_tokenized_behind_the_prompt(make):
    tokenizer = sentencepiece(make)
    behind = next_token(tokenizer, render(tokenizer, TALK, "assistant"), "7")
    assert tokenizer.convert_ids_to_tokens(behind) == "7"
    assert next_token(tokenizer, "score", "77") is None


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(MAKES), st.text(LETTERS + SPACES, max_size=30), st.text(LETTERS + SPACES, max_size=30))
def test_both_sides_of_a_seam_are_the_whole(make, before, after):
    tokenizer = sentencepiece(make)
    head, tail = encode_around(tokenizer, before, after)
    ids, offsets = encode_with_offsets(tokenizer, before + after)
    assert head + tail == ids
    assert all(end <= len(before) for _, end in offsets[: len(head)])
    assert not tail or after or not before


@given(
    st.lists(st.integers(0, 20), max_size=30), st.lists(st.tuples(st.integers(0, 20), st.integers(1, 4)), max_size=4)
)
def test_tokens_inside_spans(begins, lengths):
    begins, spans, last = sorted(begins), [], 0
    for gap, length in lengths:
        spans.append((last + gap, last + gap + length))
        last += gap + length
    expected = [any(low <= begin < high for low, high in spans) for begin in begins]
    assert begin_within([(begin, begin + 1) for begin in begins], spans) == expected
