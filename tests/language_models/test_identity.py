"""A fingerprint holds what makes a prompt and what is drawn behind it."""

from __future__ import annotations

import json
import shutil

import gymnasium as gym
import pytest

torch = pytest.importorskip("torch", reason="the extra simgym[local] is not installed")

import simgym  # noqa: E402, F401  # registers the environments
from simgym.assistants import LanguageModelAssistant  # noqa: E402
from simgym.conversation import Message  # noqa: E402
from simgym.errors import ConfigurationError  # noqa: E402
from simgym.judges.reward_model import RewardModelJudge  # noqa: E402
from simgym.language_models import OpenAILM, Request, SamplingParams, TransformersLM  # noqa: E402
from simgym.language_models.weights import DEFAULT_MODEL  # noqa: E402
from simgym.rollout import collect  # noqa: E402

HI = Request((Message("user", "Hi"),), SamplingParams(max_new_tokens=2))


@pytest.fixture
def folder(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


def mend(file):
    """Change a file of a model as somebody would who edits it in place."""
    text = file.read_text()
    if file.suffix == ".jinja":
        file.write_text(text.replace("{{ message['content'] }}", "\n{{ message['content'] }}"))
    else:
        file.write_text(json.dumps({**json.loads(text), "mended": True}))


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("chat_template.jinja", "chat_template"),
        ("generation_config.json", "generation_config"),
        ("tokenizer.json", "tokenizer"),
        ("tokenizer_config.json", "tokenizer"),
        ("config.json", "weights"),
    ],
)
def test_whatever_makes_the_prompt_is_in_the_fingerprint_of_a_folder(folder, name, key):
    before, judged = TransformersLM(str(folder)).fingerprint(), RewardModelJudge(str(folder)).fingerprint()
    mend(folder / name)
    after = TransformersLM(str(folder)).fingerprint()
    assert {part for part in after if after[part] != before[part]} == {key}
    assert RewardModelJudge(str(folder)).fingerprint()[key] != judged[key]


def test_the_template_that_writes_a_servers_prompts_is_in_the_fingerprint(folder):
    def server():
        return OpenAILM("m", base_url="http://127.0.0.1:9/v1", tokenizer=str(folder)).fingerprint()

    before = server()
    mend(folder / "chat_template.jinja")
    assert {part for part, value in server().items() if value != before[part]} == {"chat_template"}


def test_a_model_in_memory_keeps_the_fingerprint_of_the_files_that_it_was_read_from(folder):
    lm = TransformersLM(str(folder))
    (before,), known = lm.generate([HI]), lm.fingerprint()
    mend(folder / "chat_template.jinja")
    assert lm.generate([HI])[0].prompt == before.prompt
    assert lm.fingerprint() == known != TransformersLM(str(folder)).fingerprint()


def test_a_run_is_not_continued_behind_a_template_that_was_mended(folder, scenarios, tmp_path):
    """Half of the file would hold other prompts than the other half."""
    env = gym.make("UserSim-Replay-v0", scenarios=scenarios[:1], judge="relevance", judge_model="scripted:echo")
    path = tmp_path / "t.jsonl"
    collect(LanguageModelAssistant(TransformersLM(str(folder)), sampling=HI.sampling), env, path=path)
    mend(folder / "chat_template.jinja")
    again = LanguageModelAssistant(TransformersLM(str(folder)), sampling=HI.sampling)
    with pytest.raises(ConfigurationError, match=r"another assistant \(different: model\.chat_template\)\. Choose"):
        collect(again, env, path=path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:  # as an earlier version wrote it
        for part in ("tokenizer", "chat_template", "generation_config"):
            del line["fingerprints"]["assistant"]["model"][part]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ConfigurationError, match=r"earlier simgym, which did not record these.*Choose another file"):
        collect(again, env, path=path)


def test_the_date_that_a_template_asks_for_is_a_setting_and_in_the_fingerprint(folder):
    assert "date" not in TransformersLM(str(folder)).fingerprint()
    template = "{{ strftime_now('%d %b %Y') }}" + (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(template)
    usual, chosen = TransformersLM(str(folder)), TransformersLM(str(folder), date="2031-12-01")
    assert (usual.fingerprint()["date"], chosen.fingerprint()["date"]) == ("2024-07-26", "2031-12-01")
    assert usual.generate([HI])[0].prompt.startswith("26 Jul 2024")
    assert chosen.generate([HI])[0].prompt.startswith("01 Dec 2031")
    with pytest.raises(ConfigurationError, match="date is 'today'"):
        TransformersLM(str(folder), date="today")


def test_how_a_model_is_quantised_is_in_the_fingerprint_as_json():
    from transformers import BitsAndBytesConfig

    def fingerprint(kind):
        settings = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_compute_dtype=torch.bfloat16
        )
        lm = TransformersLM("owner/model", model_options={"quantization_config": settings})
        return json.dumps(lm.fingerprint(), allow_nan=False, sort_keys=True)

    assert fingerprint("nf4") == fingerprint("nf4") != fingerprint("fp4")
    assert "bfloat16" in fingerprint("nf4")


def test_models_that_are_not_read_from_a_folder_have_the_fingerprints_that_they_had():
    for name in (DEFAULT_MODEL, "owner/model@main"):
        assert TransformersLM(name).fingerprint() == {
            "kind": "transformers", "model": name, "revision": None, "dtype": "auto", "device": "auto",
        }  # fmt: skip
