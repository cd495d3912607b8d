"""A device draws the token that drawing row by row finds; equal probabilities do not make it depend on the batch."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simgym.engine import Sequence
from simgym.engine.grammar import allowed_tokens
from simgym.engine.sampler import draw_on_device, draw_one_by_one

ALMOST_ONE = 1 - 2**-53


class Fixed:
    """A generator of given numbers."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def random(self):
        return self.numbers.pop(0)


def rows_of(settings_N):
    """Sequences as a sampler sees them, twice: each drawing uses up their numbers."""
    return [
        [
            SimpleNamespace(temperature=temperature, top_p=top_p, rng=Fixed(uniform))
            for temperature, top_p, uniform in settings_N
        ]
        for _ in range(2)
    ]


row = st.tuples(
    st.sampled_from([0.0, 0.1, 0.7, 1.0, 5.0]),
    st.sampled_from([0.01, 0.3, 0.9, 0.999, 1.0]),
    st.one_of(st.sampled_from([0.0, ALMOST_ONE]), st.floats(0, ALMOST_ONE)),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(row, min_size=1, max_size=5),
    st.sampled_from([7, 512, 513, 3000, 49_152]),
    st.floats(0, 8),
    st.floats(0, 0.99),
    st.integers(0, 2**32),
)
def test_a_device_draws_the_token_that_drawing_row_by_row_finds(settings_N, vocabulary, spread, forbidden, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(settings_N), vocabulary, generator=generator) * spread
    mask = torch.rand(logits.shape, generator=generator) < forbidden
    mask[:, seed % vocabulary] = False
    logits[mask] = float("-inf")
    if spread < 1e-3:  # equal probabilities have an order of their own, see below
        logits += torch.arange(vocabulary) * 1e-4
    first, second = rows_of(settings_N)
    assert draw_on_device(logits, first).tolist() == draw_one_by_one(logits, second).tolist()


def test_tokens_of_equal_probability_are_ranked_by_their_ids():
    logits = torch.zeros(3, 2000)
    logits[:, 1000:] = 1.0
    logits[1, 5] = 4.0
    draws = rows_of([(1.0, 0.1, 0.0), (1.0, 0.5, 0.9), (1.0, 0.1, ALMOST_ONE)])[0]
    first, _, last = draw_on_device(logits, draws).tolist()
    assert first == 1000
    mass = 1000 * torch.e + 1000
    assert last == 1000 + int(0.1 * mass / torch.e)
    alone = draw_on_device(logits[1:2], rows_of([(1.0, 0.5, 0.9)])[0]).tolist()
    assert alone == [draw_on_device(logits, rows_of([(1.0, 0.5, 0.9)] * 3)[0])[1].item()]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.sampled_from([31, 32, 33, 1000]), st.integers(0, 2**32))
def test_the_words_of_a_grammar_forbid_what_xgrammar_forbids(count, vocabulary, seed):
    import xgrammar

    generator = torch.Generator().manual_seed(seed)
    words = xgrammar.allocate_token_bitmask(count, vocabulary)
    words.copy_(torch.randint(-(2**31), 2**31, words.shape, generator=generator))
    logits = torch.zeros(count, vocabulary)
    xgrammar.apply_token_bitmask_inplace(logits, words)
    assert torch.equal(allowed_tokens(words, vocabulary), logits == 0)


def test_a_sequence_draws_one_number_a_token_whatever_its_temperature():
    for draw in (draw_on_device, draw_one_by_one):
        sequences = [Sequence(prompt=[1], seed=3, temperature=0.0), Sequence(prompt=[1], seed=3)]
        draw(torch.zeros(2, 9), sequences)
        assert sequences[0].rng.random() == sequences[1].rng.random()
