"""Cross-turn memory, ragged batches and many callers: whatever is reused or shared, the tokens are the same."""

from __future__ import annotations

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simgym.conversation import Message
from simgym.engine import Sequence
from simgym.language_models import Request, SamplingParams, TransformersLM
from simgym.seeding import derive_seed

ROLES = ("user", "assistant")


def request(texts, seed=0, adapter=None, **sampling):
    messages = tuple(Message(ROLES[number % 2], text) for number, text in enumerate(texts))
    return Request(messages, SamplingParams(**{"max_new_tokens": 8, **sampling}), seed=seed, adapter=adapter)


@pytest.fixture(scope="module")
def fresh(tiny_model, tiny_adapter):
    return TransformersLM(tiny_model, adapters={"other": tiny_adapter}, kv_cache_gib=0)


@pytest.fixture(scope="module")
def keeping(tiny_model, tiny_adapter):
    return TransformersLM(tiny_model, adapters={"other": tiny_adapter}, max_batch_size=3)


@pytest.fixture(scope="module")
def forgetful(tiny_model, tiny_adapter):
    return TransformersLM(tiny_model, adapters={"other": tiny_adapter}, kv_cache_gib=1e-4)


histories = st.lists(
    st.tuples(
        # few letters, so that histories begin alike and part at any place
        st.lists(st.text("ab", min_size=1, max_size=40), min_size=1, max_size=5).filter(lambda texts: len(texts) % 2),
        st.integers(0, 9),
        st.sampled_from([None, "other"]),
        st.sampled_from([0.0, 1.0]),
        st.integers(1, 9),
    ),
    min_size=1,
    max_size=7,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories)
def test_what_is_reused_gives_what_reading_again_gives(fresh, keeping, forgetful, batch):
    requests = [
        request(texts, seed, adapter, temperature=temperature, max_new_tokens=length)
        for texts, seed, adapter, temperature, length in batch
    ]
    expected = [fresh.generate([asked])[0] for asked in requests]
    for lm in (keeping, forgetful):
        for actual, other in zip(lm.generate(requests), expected, strict=True):
            assert actual.token_ids == other.token_ids
            assert actual.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert lm._loaded.engine.prefix_cache.size <= lm._loaded.engine.prefix_cache.max_bytes


def test_a_conversations_next_turn_reads_what_is_new_alone(tiny_model):
    lm = TransformersLM(tiny_model)
    texts = ["x" * 100]
    read = []
    for turn in range(4):
        before = lm.stats.prefill_tokens
        generation = lm.generate([request(texts, temperature=0.0, max_new_tokens=20)])[0]
        read.append(lm.stats.prefill_tokens - before)
        reply = lm.tokenizer.decode(generation.token_ids[:-1], skip_special_tokens=True)
        reencoded = lm.tokenizer(reply, add_special_tokens=False)["input_ids"]
        if reencoded != list(generation.token_ids[:-1]):  # bytes that are no text are not said again as they were
            reply = "fine"
        texts += [reply, f"and {turn}"]
    assert read[0] > 100
    assert max(read[1:]) < 60


def test_a_batch_reads_what_it_shares_once_and_forks_share_their_history(tiny_model):
    lm = TransformersLM(tiny_model, kv_cache_gib=0)
    lm.generate([request(["s" * 300 + str(number % 2) + "t" * 100 + str(number)]) for number in range(8)])
    assert lm.stats.prefill_tokens < 300 + 2 * 100 + 8 * 30


def test_rows_come_and_go_without_disturbing_each_other(keeping, fresh):
    requests = [request(["y" * number], number, max_new_tokens=1 + 5 * (number % 4)) for number in range(1, 20)]
    alone = [fresh.generate([asked])[0].token_ids for asked in requests]
    assert [generation.token_ids for generation in keeping.generate(requests)] == alone


def ask_from_threads(lm, requests):
    """Replies by number, and the numbers of the callers whose call raised."""
    replies, failed = {}, []
    gate = threading.Barrier(len(requests))

    def ask(number):
        gate.wait()
        try:
            replies[number] = lm.generate([requests[number]])[0].token_ids
        except RuntimeError:
            failed.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return replies, failed


def from_threads(count):
    return [request([f"thread {number}"], number, max_new_tokens=40) for number in range(count)]


def test_callers_of_many_threads_share_passes_and_get_their_own_replies(tiny_model, fresh):
    lm = TransformersLM(tiny_model)
    requests = from_threads(12)
    replies, failed = ask_from_threads(lm, requests)
    assert not failed
    assert replies == {number: fresh.generate([request])[0].token_ids for number, request in enumerate(requests)}
    assert lm.stats.forward_passes < 12 * 40 / 3


def test_a_caller_that_breaks_off_leaves_the_others_their_replies(tiny_model, fresh, monkeypatch):
    lm = TransformersLM(tiny_model)
    requests, calls = from_threads(4), []
    engine = lm._ready().engine
    run_pass = engine._decode

    def breaking(*arguments):
        calls.append(1)
        if len(calls) == 20:
            raise RuntimeError("the first leader dies")
        return run_pass(*arguments)

    monkeypatch.setattr(engine, "_decode", breaking)
    replies, failed = ask_from_threads(lm, requests)
    assert len(failed) == 1
    assert replies == {
        number: fresh.generate([request])[0].token_ids
        for number, request in enumerate(requests)
        if number not in failed
    }


def test_a_row_that_fails_is_its_callers_affair_alone(tiny_model, fresh, monkeypatch):
    lm = TransformersLM(tiny_model)
    requests = from_threads(4)
    expected = {number: fresh.generate([requests[number]])[0].token_ids for number in (0, 1, 3)}
    append = Sequence.append

    def poisoned(sequence, *arguments):
        if sequence.seed == derive_seed(2) and len(sequence.token_ids) == 5:
            raise RuntimeError("poison")
        append(sequence, *arguments)

    monkeypatch.setattr(Sequence, "append", poisoned)
    replies, failed = ask_from_threads(lm, requests)
    assert failed == [2]
    assert replies == expected


def test_nothing_read_with_old_weights_is_used_after_forget(tiny_model):
    import torch

    lm, again = TransformersLM(tiny_model), TransformersLM(tiny_model)
    asked = request(["x" * 60], temperature=0.0, max_new_tokens=20)
    before = lm.generate([asked])[0]
    busy = threading.Thread(target=lm.generate, args=([request(["y" * 60], max_new_tokens=200)],))
    busy.start()
    for model in (lm.model, again.model):
        with lm.lock, torch.no_grad():
            model.model.layers[0].self_attn.v_proj.weight.mul_(-1.5)
    lm.clear_cache()
    busy.join(60)
    after = lm.generate([asked])[0]
    assert after.token_ids == again.generate([asked])[0].token_ids != before.token_ids


def test_one_long_prompt_does_not_cost_its_length_for_every_later_row(tiny_model):
    lm = TransformersLM(tiny_model)
    lm.generate([request(["z" * 900], max_new_tokens=2)])
    cache = lm._loaded.engine.kv_cache
    lm.generate([request([f"{number}"], max_new_tokens=2) for number in range(30)])
    lm.generate([request(["a"], max_new_tokens=2)])
    assert cache.num_slots * cache.num_columns < 30 * 900


@pytest.mark.parametrize("window", [4, 64])
def test_sliding_windows_see_what_transformers_shows_them(tmp_path, window):
    import torch
    from transformers import AutoModelForCausalLM

    from simgym.testing import save_tiny_model

    folder = save_tiny_model(tmp_path / "model")
    path = folder / "config.json"
    text = path.read_text(encoding="utf-8").replace('"LlamaForCausalLM"', '"MistralForCausalLM"')
    path.write_text(text.replace('"llama"', f'"mistral", "sliding_window": {window}'), encoding="utf-8")
    lm = TransformersLM(str(folder))
    ours = lm.generate([request(["hello there"], temperature=0.0), request(["you"], temperature=0.0)])
    again = lm.generate([request(["hello there"], temperature=0.0)])[0]
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__name__ == "MistralForCausalLM"
    prompt = torch.tensor([ours[0].prompt_token_ids])
    theirs = model.generate(prompt, max_new_tokens=8, do_sample=False)[0, prompt.shape[1] :].tolist()
    assert list(ours[0].token_ids) == list(again.token_ids) == theirs
