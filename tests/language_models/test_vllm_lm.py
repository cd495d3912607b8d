"""A vLLM in this process: what is refused before it is loaded, and how threads share it; replies: `test_protocol`."""

from __future__ import annotations

import json
import pickle
import shutil
import threading
import time
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="the extra simgym[local] is not installed")

from simgym import extras  # noqa: E402
from simgym.errors import ConfigurationError, MissingDependency, WeightsError  # noqa: E402
from simgym.language_models import TransformersLM, VllmLM, load_language_model  # noqa: E402
from simgym.language_models import vllm_lm as module  # noqa: E402
from simgym.language_models._vllm_engine import VllmEngine, _Errand  # noqa: E402
from simgym.language_models._vllm_loaded import room_for_adapters  # noqa: E402
from simgym.language_models.model_spec import ModelSpec  # noqa: E402
from simgym.testing import save_tiny_adapter  # noqa: E402


@pytest.fixture
def installed(monkeypatch):
    """As if vLLM were installed."""
    monkeypatch.setattr(module, "require_extra", lambda *_: None)


@pytest.mark.parametrize(
    ("version", "problem"),
    [(None, "not installed: vllm."), ("0.31.2", "vllm 0.31.2 is installed, simgym works with <0.33,>=0.32.")],
)
def test_a_vllm_that_is_missing_or_of_another_version_is_a_sentence(monkeypatch, version, problem):
    real = extras._packages()
    packages = tuple(
        extras.PackageStatus(p.name, p.specifier, p.extra, version if p.name == "vllm" else p.installed) for p in real
    )
    monkeypatch.setattr(extras, "_packages", lambda: packages)
    with pytest.raises(MissingDependency) as caught:
        load_language_model({"kind": "vllm", "model": "owner/model"})
    message = str(caught.value)
    assert message.startswith("The model 'owner/model', which vLLM runs in this process, needs the extra 'vllm': ")
    assert problem in message
    assert message.endswith("pip install 'simgym[vllm]'")


def test_it_is_named_like_any_other_model(installed):
    assert ModelSpec.parse("vllm:owner/model").to_json() == {"kind": "vllm", "model": "owner/model"}
    assert load_language_model("vllm:owner/model").name == "owner/model"
    with pytest.raises(ConfigurationError, match="context_length"):
        load_language_model({"kind": "vllm", "model": "owner/model", "context_lenght": 5})


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"dtype": "int8"}, "dtype is 'int8', expected auto, float32, float16 or bfloat16"),
        ({"max_batch_size": 0}, "max_batch_size is 0"),
        ({"kv_cache_gib": 0}, "kv_cache_gib is 0, expected > 0"),
        ({"max_lora_rank": 1000}, r"max_lora_rank is 1000, expected a number in \[1, 512\]"),
        ({"engine_options": {"max_model_len": 9}}, "'max_model_len', which is an argument of its own"),
        ({"date": "today"}, "date is 'today'"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_loaded(installed, wrong, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        VllmLM("owner/model", **wrong)


def test_its_fingerprint_holds_what_makes_the_prompt_and_survives_pickling(installed, tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    lm = VllmLM(str(folder), engine_options={"enforce_eager": True}, chat_template_kwargs={"enable_thinking": False})
    before = lm.fingerprint()
    assert before == json.loads(json.dumps(before)) == pickle.loads(pickle.dumps(lm)).fingerprint()
    shared = TransformersLM(str(folder), chat_template_kwargs={"enable_thinking": False}).fingerprint()
    for part in ("weights", "tokenizer", "generation_config", "chat_template", "chat_template_kwargs"):
        assert before[part] == shared[part]
    template = folder / "chat_template.jinja"
    template.write_text("\n" + template.read_text())
    after = lm.fingerprint()
    assert {part for part in after if after[part] != before[part]} == {"chat_template"}


def test_a_forked_process_is_told_that_the_engine_does_not_come_along(installed, monkeypatch):
    lm = VllmLM("owner/model")
    monkeypatch.setattr(module.os, "getpid", lambda: -1)  # as in a child
    with pytest.raises(ConfigurationError, match=r"before this process was forked.*Start workers by spawn"):
        lm.check()


def test_an_adapter_that_adds_tokens_is_refused_before_the_model_is_loaded(installed, tiny_model, tmp_path):
    adapter = save_tiny_adapter(tmp_path / "adapter", tiny_model, end_token=True)
    with pytest.raises(WeightsError, match=r"adds the tokens .*for which vLLM has no rows\. Merge it"):
        VllmLM(tiny_model, adapters={"user": str(adapter)}).check()


def test_the_room_for_adapters_is_the_next_rank_that_vllm_knows(installed, tiny_model, tiny_adapter):
    assert room_for_adapters(VllmLM(tiny_model)) == 0
    assert room_for_adapters(VllmLM(tiny_model, adapters={"a": tiny_adapter})) == 8  # its rank is 4
    assert room_for_adapters(VllmLM(tiny_model, adapters={"a": tiny_adapter}, max_lora_rank=20)) == 32


@dataclass
class FakeLLMEngine:
    """Steps as vLLM does: every request that runs gets a token at each step, and calls may not overlap."""

    left: dict[str, int] = field(default_factory=dict)
    aborted: list[str] = field(default_factory=list)
    most: int = 0
    busy: threading.Lock = field(default_factory=threading.Lock)
    gate: threading.Event = field(default_factory=threading.Event)
    last_step: threading.Event = field(default_factory=threading.Event)  # set: whatever runs ends

    def step(self):
        assert self.busy.acquire(blocking=False), "two calls at once"
        self.gate.wait(10)
        self.most = max(self.most, len(self.left))
        self.left = {number: tokens - 1 for number, tokens in self.left.items()}
        ended = [number for number, tokens in self.left.items() if tokens <= 0 or self.last_step.is_set()]
        for number in ended:
            del self.left[number]
        self.busy.release()
        return [SimpleNamespace(request_id=number, finished=True) for number in ended]

    def abort_request(self, numbers):
        self.aborted += numbers
        for number in numbers:
            del self.left[number]


def request(tokens):
    def begin(engine, number):
        if tokens < 0:
            raise ConfigurationError("refused")
        engine.left[number] = tokens

    return _Errand(begin, is_request=True)


def test_threads_share_a_batch_and_whoever_is_done_leaves_it():
    fake = FakeLLMEngine()
    engine = VllmEngine(fake)
    short, *long = [threading.Thread(target=engine._run, args=([request(tokens)],)) for tokens in (3, 10**9, 10**9)]
    for thread in (short, *long):
        thread.start()
    while len(engine._arrived) + len(engine._running) < 3:
        time.sleep(0.001)  # all are in before the first token
    fake.gate.set()
    short.join(60)
    assert not short.is_alive()
    assert all(thread.is_alive() for thread in long)
    fake.last_step.set()
    for thread in long:
        thread.join(60)
        assert not thread.is_alive()
    assert fake.most == 3


def test_what_fails_is_the_affair_of_its_caller():
    fake = FakeLLMEngine()
    fake.gate.set()
    engine = VllmEngine(fake)
    with pytest.raises(ConfigurationError, match="refused"):
        engine._run([request(2), request(-1)])
    assert engine.call(lambda inner: inner is fake)
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda inner: 1 / 0)
    assert len(engine._run([request(1), request(5)])) == 2


def test_requests_that_nobody_waits_for_any_more_are_taken_out(monkeypatch):
    fake = FakeLLMEngine()
    fake.gate.set()
    engine, step, steps = VllmEngine(fake), fake.step, iter(range(10))

    def interrupted():
        if next(steps) == 1:
            raise KeyboardInterrupt
        return step()

    fake.step = interrupted
    with pytest.raises(KeyboardInterrupt):
        engine._run([request(100)])
    engine._run([request(1)])
    assert fake.aborted == ["0"]
    assert not fake.left


def test_when_vllm_breaks_everybody_is_told():
    fake = FakeLLMEngine()
    engine = VllmEngine(fake)

    def broken():
        raise RuntimeError("out of memory")

    fake.step = broken
    with pytest.raises(RuntimeError, match="out of memory"):
        engine._run([request(5)])
