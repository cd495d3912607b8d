"""The engine alone: the tokens are those of transformers, memory is bounded, a fault concerns one sequence."""

from __future__ import annotations

import inspect
import pickle

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from simgym.engine import Engine, EngineConfig, InvalidSetting, Scored, Sequence, SequenceTooLarge, check_supported

PROMPTS = [[5, 9, 33, 7], [5, 9, 33, 7, 80, 81], [12] * 40, [12] * 40 + [13, 14]]


@pytest.fixture(scope="module")
def model(tiny_model):
    return AutoModelForCausalLM.from_pretrained(tiny_model).eval()


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


def greedy(prompt, **settings):
    return Sequence(prompt=list(prompt), temperature=0.0, **{"max_new_tokens": 12, **settings})


def test_tokens_are_those_of_transformers_alone_and_in_any_batch(model, tokenizer):
    engine = Engine(model, tokenizer, EngineConfig(max_sequences=3))
    expected = [
        model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None)[0].tolist()
        for prompt in PROMPTS
    ]
    for _ in range(2):  # the second time from the prefix cache
        completions = engine.generate([greedy(prompt) for prompt in PROMPTS])
        for prompt, completion, tokens in zip(PROMPTS, completions, expected, strict=True):
            assert [*prompt, *completion.token_ids] == tokens
            assert completion.finish_reason == "length"
    assert engine.stats.cached_tokens >= sum(len(prompt) - 1 for prompt in PROMPTS)


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_keys_and_values_are_handed_over_by_the_name_that_the_model_has_for_them(model, tokenizer, name):
    """transformers calls them `cache` from 5.24 on, and warns of the other name at every layer."""
    (theirs,) = {"cache", "past_key_values"} & {*inspect.signature(LlamaForCausalLM.forward).parameters}

    class Renamed(LlamaForCausalLM):
        pass

    if name == "cache":

        def forward(self, input_ids=None, position_ids=None, cache=None, **more):
            return LlamaForCausalLM.forward(self, input_ids, position_ids=position_ids, **{theirs: cache}, **more)
    else:

        def forward(self, input_ids=None, position_ids=None, past_key_values=None, **more):
            kept = {theirs: past_key_values}
            return LlamaForCausalLM.forward(self, input_ids, position_ids=position_ids, **kept, **more)

    Renamed.forward = forward
    check_supported(model.config, Renamed)
    renamed = Renamed(model.config).eval()
    renamed.load_state_dict(model.state_dict())
    (completion,) = Engine(renamed, tokenizer).generate([greedy(PROMPTS[0])])
    (expected,) = Engine(model, tokenizer).generate([greedy(PROMPTS[0])])
    assert completion.error is None
    assert completion.token_ids == expected.token_ids


def test_a_token_that_stops_one_sequence_stops_no_other(model, tokenizer):
    engine = Engine(model, tokenizer)
    free = engine.generate([greedy(PROMPTS[0])])[0]
    third = free.token_ids[2]
    stopped, unstopped = engine.generate([greedy(PROMPTS[0], stop_token_ids=frozenset({third})), greedy(PROMPTS[0])])
    assert stopped.token_ids == free.token_ids[: free.token_ids.index(third) + 1]
    assert stopped.finish_reason == "stop"
    assert unstopped.token_ids == free.token_ids


def test_sequences_wait_for_memory_and_what_never_fits_is_refused_alone(model, tokenizer):
    unbounded = Engine(model, tokenizer)
    expected = [unbounded.generate([greedy(prompt)])[0].token_ids for prompt in PROMPTS]
    bytes_of_two = 2 * (40 + 2 + 12 + 65) * unbounded.kv_cache.token_bytes
    engine = Engine(model, tokenizer, EngineConfig(max_kv_bytes=bytes_of_two, max_prefix_bytes=0))
    largest = []
    forward = engine.runner.forward

    def watch(*arguments):
        largest.append(engine.kv_cache.num_slots * engine.kv_cache.num_columns * engine.kv_cache.token_bytes)
        return forward(*arguments)

    engine.runner.forward = watch
    sequences = [greedy(prompt) for prompt in PROMPTS * 3]
    too_large = greedy([1] * 400)
    *completions, refused = engine.generate([*sequences, too_large])
    assert [completion.token_ids for completion in completions] == expected * 3
    assert isinstance(refused.error, SequenceTooLarge)
    assert "400 prompt tokens and 12 new ones need" in str(refused.error)
    assert refused.finish_reason is None
    assert max(largest) <= bytes_of_two


def test_a_sequence_longer_than_the_context_is_refused_alone(model, tokenizer):
    engine = Engine(model, tokenizer, EngineConfig(max_length=30))
    fits, too_long = engine.generate([greedy(PROMPTS[0]), greedy(PROMPTS[2])])
    assert len(fits.token_ids) == 12
    assert "exceed the context of 30" in str(too_long.error)


def test_a_device_that_runs_out_of_memory_goes_on_with_fewer_sequences(model, tokenizer):
    engine = Engine(model, tokenizer)
    expected = [completion.token_ids for completion in engine.generate([greedy(prompt) for prompt in PROMPTS])]
    engine.clear()
    forward = engine.runner.forward

    def small(tokens, *arguments):
        if len(tokens) > 2:
            raise torch.OutOfMemoryError("no room for more than two")
        return forward(tokens, *arguments)

    engine.runner.forward = small
    completions = engine.generate([greedy(prompt) for prompt in PROMPTS])
    assert [completion.token_ids for completion in completions] == expected
    assert engine.scheduler.max_sequences == 2

    def none(*arguments):
        raise torch.OutOfMemoryError("no room at all")

    engine.runner.forward = none
    assert isinstance(engine.generate([greedy([3, 4, 5])])[0].error, SequenceTooLarge)


def test_wrong_settings_are_refused_and_errors_can_be_pickled():
    for settings in ({"max_sequences": 0}, {"max_prefix_bytes": -1}, {"max_kv_bytes": 0}):
        with pytest.raises(InvalidSetting, match="expected >= "):
            EngineConfig(**settings)
    with pytest.raises(InvalidSetting, match="0 prompt tokens"):
        Sequence(prompt=[])
    assert str(pickle.loads(pickle.dumps(SequenceTooLarge("too long")))) == "too long"


def test_numerics_do_not_depend_on_an_autocast_round_the_caller(model, tokenizer):
    """Whoever leads computes for all, and a trainer calls from within its autocast."""
    engine = Engine(model, tokenizer, EngineConfig(max_prefix_bytes=0))
    plain = engine.generate([greedy(prompt) for prompt in PROMPTS])
    with torch.autocast("cpu", torch.bfloat16):
        within = engine.generate([greedy(prompt) for prompt in PROMPTS])
        likelihoods = engine.runner.loglikelihoods([Scored(PROMPTS[0], [7, 8])], None)
    assert [completion.token_ids for completion in within] == [completion.token_ids for completion in plain]
    assert [completion.logprobs for completion in within] == [completion.logprobs for completion in plain]
    assert likelihoods == engine.runner.loglikelihoods([Scored(PROMPTS[0], [7, 8])], None)
