from __future__ import annotations

import asyncio
import importlib.metadata
import json

import pytest

verl = pytest.importorskip("verl", reason="verl has an environment of its own")
import hydra  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402
from verl.experimental.agent_loop.agent_loop import DictConfigWrap  # noqa: E402
from verl.utils.config import validate_config  # noqa: E402
from verl.workers.rollout.replica import TokenOutput  # noqa: E402

from simgym.envs.recent_rewards import RecentRewards  # noqa: E402
from simgym.errors import MissingDependency  # noqa: E402
from simgym.integrations import verl as simgym_verl  # noqa: E402

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IS_OLDER = importlib.metadata.version("verl") == "0.9.0"
newest = pytest.mark.skipif(IS_OLDER, reason="refused by simgym")


@pytest.fixture(scope="session")
def tokenizer():
    """Bytes as tokens, and ChatML."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    built = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|im_end|>")
    built.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    built.chat_template = CHATML
    return built


class Policy:
    """In the place of verl's server: says one thing."""

    def __init__(self, tokenizer, says):
        self.ids = [*tokenizer(says, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]

    async def generate(self, request_id, *, prompt_ids, sampling_params, **_):
        return TokenOutput(token_ids=list(self.ids), log_probs=[-0.5] * len(self.ids))


@pytest.fixture
def play(tokenizer, env_id, tmp_path, monkeypatch):
    monkeypatch.setattr(simgym_verl, "_recent_rewards", RecentRewards())
    config = tmp_path / "simgym_loop.yaml"
    settings = {"model": "scripted:seed", "judge": "py:length_judge:LengthJudge", "max_turns": 3}
    entry = {"name": "simgym", "_target_": "simgym.integrations.verl.SimulatedUserLoop",
             "env_id": env_id, "settings": settings}  # fmt: skip
    config.write_text(json.dumps([entry]))  # JSON is YAML

    def run(says="Sure.", *, seed=7, response_length=4096, hf_model_type="llama"):
        rollout = {"prompt_length": 512, "response_length": response_length}
        trainer = OmegaConf.create({"actor_rollout_ref": {"rollout": rollout}, "data": {}})

        async def play():
            loop = hydra.utils.instantiate(  # as verl's worker does
                config=OmegaConf.load(config)[0],
                trainer_config=DictConfigWrap(config=trainer),
                server_manager=Policy(tokenizer, says),
                tokenizer=tokenizer,
                processor=None,
                hf_model_type=hf_model_type,
                dataset_cls=None,
                data_config=DictConfigWrap(config=trainer.data),
            )
            prompt = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "placeholder"}]
            return await loop.run({}, raw_prompt=prompt, scenario_id="everyday-creative-010", seed=seed)

        return asyncio.run(play())

    return run


@newest
def test_the_tokens_are_those_of_the_template_and_the_user_speaks_in_the_user_role(play, tokenizer):
    output = play()
    text = tokenizer.decode([*output.prompt_ids, *output.response_ids])
    parts = text.split("<|im_start|>")[1:]
    assert [part.split("\n")[0] for part in parts] == ["system", *["user", "assistant"] * 3]
    messages = [
        dict(zip(("role", "content"), part.rstrip("\n").removesuffix("<|im_end|>").split("\n", 1), strict=True))
        for part in parts
    ]
    assert text + "\n" == tokenizer.apply_chat_template(messages, tokenize=False)
    assert messages[1]["content"].startswith("number ")


@newest
def test_the_mask_covers_the_sampled_tokens_and_nothing_else(play, tokenizer):
    output = play()
    assert len(output.response_mask) == len(output.response_ids) == len(output.response_logprobs)
    sampled = [token for token, kept in zip(output.response_ids, output.response_mask, strict=True) if kept]
    assert tokenizer.decode(sampled) == "Sure.<|im_end|>" * 3
    pairs = zip(output.response_logprobs, output.response_mask, strict=True)
    assert {(logprob, kept) for logprob, kept in pairs} == {(-0.5, 1), (0.0, 0)}


@newest
def test_equal_seeds_give_equal_users(play):
    assert play().response_ids == play(hf_model_type="qwen2").response_ids
    assert play().prompt_ids != play(seed=8).prompt_ids


@newest
def test_the_reward_and_the_end_reason_arrive(play):
    output = play()
    assert output.reward_score == pytest.approx(0.6)
    assert (output.extra_fields["end_reason"], output.num_turns) == ("turn_limit", 7)


@newest
def test_an_unjudged_conversation_gets_the_mean_of_the_others_and_says_so(play):
    play()
    output = play("unjudgeable")
    assert output.reward_score == pytest.approx(0.6)
    assert output.extra_fields["reward"] is None
    assert (output.extra_fields["reward_imputed"], output.extra_fields["end_reason"]) == (True, "judge_fault")


@newest
def test_a_conversation_longer_than_the_response_ends_as_a_full_context(play):
    output = play(response_length=20)
    assert len(output.response_ids) == len(output.response_mask) == 20
    assert (output.extra_fields["end_reason"], output.extra_fields["reward"]) == ("context_overflow", None)


@newest
def test_thoughts_are_trained_on_and_not_heard(play, tokenizer):
    output = play("<think>unjudgeable</think>Sure.")
    assert output.extra_fields["reward"] == pytest.approx(0.6)
    assert "<think>" in tokenizer.decode(output.response_ids)


@pytest.mark.skipif(not IS_OLDER, reason="not refused")
def test_an_older_verl_is_refused_in_a_sentence_that_names_the_range(play):
    with pytest.raises(Exception, match=r"verl 0\.9\.0 is installed, simgym works with <0\.10,>=0\.9\.1") as caught:
        play()
    assert MissingDependency.__name__ in repr(caught.value) or isinstance(caught.value, MissingDependency)


@newest
def test_the_documented_block_runs(documented):
    assert documented("verl").startswith("simgym everyday-")


@newest
def test_the_tutorial_runs_and_its_settings_are_verls(tutorial, tmp_path):
    page = tutorial("train-verl.md")
    (loop,) = page.blocks("yaml")
    (tmp_path / "simgym_loop.yaml").write_text(loop)
    rows, look = page.blocks("python")
    assert page.run(rows).startswith("simgym everyday-")
    *turns, end = page.run(look).splitlines()
    assert [turn.split()[0] for turn in turns] == ["trained", "masked", "trained"]
    assert "Sure, tell me more." in turns[0]
    assert "number " in turns[1]
    assert end.startswith("turn_limit 0.")
    settings = [word for word in page.command() if "=" in word]
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        config = hydra.compose("ppo_trainer", overrides=settings)
    validate_config(config, use_reference_policy=True, use_critic=False)
    assert config.actor_rollout_ref.rollout.agent.agent_loop_config_path == "simgym_loop.yaml"
