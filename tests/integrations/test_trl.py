from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest

from simgym.conversation import Conversation
from simgym.errors import ConfigurationError, MissingDependency, ServerUnavailable
from simgym.extras import PackageStatus
from simgym.integrations import judge_reward, make_rollout_func, scenario_dataset
from simgym.judges import Judgement
from simgym.simulators import UserTurn

trl = pytest.importorskip("trl", reason="the extra simgym[train] is not installed")


class Vowels:
    """A judge that any model can please: the share of vowels; fails on the scenario it is told to."""

    def __init__(self, failing=None):
        self.failing = failing

    def judge(self, scenarios, conversations, *, seeds):
        judgements = []
        for scenario, conversation in zip(scenarios, conversations, strict=True):
            said = "".join(conversation.said_by("assistant"))
            share = sum(letter in "aeiou" for letter in said) / max(1, len(said))
            failed = scenario.id == self.failing
            judgements.append(Judgement(None, fault="refused: on purpose") if failed else Judgement(share))
        return judgements

    def fingerprint(self):
        return {"judge": "vowels"}


def make_trainer(tiny_model, scenarios, folder, *, rollouts, **options):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = trl.GRPOConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", per_device_train_batch_size=8,
        num_generations=4, max_completion_length=6, max_steps=1, logging_steps=1, save_strategy="no", disable_tqdm=True,
        **options,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return trl.GRPOTrainer(
            AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32"),
            judge_reward,
            args=config,
            train_dataset=scenario_dataset(scenarios),
            processing_class=AutoTokenizer.from_pretrained(tiny_model),
            rollout_func=rollouts,
        )


@pytest.fixture
def watched(monkeypatch):
    """What TRL's generation gave, call by call."""
    calls = []
    original = trl.GRPOTrainer._generate_single_turn

    def generate(self, prompt_ids, *more):
        ids, logprobs = original(self, prompt_ids, *more)
        calls.append((prompt_ids, ids))
        return ids, logprobs

    monkeypatch.setattr(trl.GRPOTrainer, "_generate_single_turn", generate)
    return calls


def test_what_is_trained_on_is_what_was_sampled_and_users_are_masked(tiny_model, scenarios, tmp_path, watched):
    rollouts = make_rollout_func("UserSim-Replay-v0", scenarios=scenarios, judge=Vowels(), max_turns=2)
    trainer = make_trainer(tiny_model, scenarios, tmp_path, rollouts=rollouts)
    tokenizer = trainer.processing_class
    prompts = [[{"role": "user", "content": scenario.id}] for scenario in scenarios[:2] for _ in range(4)]
    output = rollouts(prompts, trainer)
    assert len(watched) == 2
    for row, dialogue in enumerate(rollouts.latest):
        whole = output["prompt_ids"][row] + output["completion_ids"][row]
        mask = [0] * len(output["prompt_ids"][row]) + output["env_mask"][row]
        assert len(mask) == len(whole)
        sampled = [token for token, ours in zip(whole, mask, strict=True) if ours]
        assert sampled == [token for _, ids in watched for token in ids[row]]
        # the second turn was sampled after exactly the tokens that stand before it
        second = watched[1][1][row]
        assert watched[1][0][row] + second == whole
        user = [token for token, ours in zip(output["completion_ids"][row], output["env_mask"][row], strict=True)
                if not ours]  # fmt: skip
        (said,) = dialogue.conversation.said_by("user")[1:]
        assert tokenizer.decode(user) in (f"<|end|><|user|>{said}<|end|><|assistant|>",
                                          f"<|user|>{said}<|end|><|assistant|>")  # fmt: skip
        assert "".join(dialogue.conversation.said_by("assistant")) != ""
        assert output["judge_reward"][row] == dialogue.reward


def test_rollouts_of_a_group_meet_the_same_user_and_steps_meet_others(tiny_model, scenarios, tmp_path):
    rollouts = make_rollout_func("UserSim-FineTuned-v0", scenarios=scenarios, judge=Vowels(), max_turns=2,
                                 model=tiny_model, simulator_options={"max_new_tokens": 5})  # fmt: skip
    trainer = make_trainer(tiny_model, scenarios, tmp_path, rollouts=rollouts)
    prompts = [[{"role": "user", "content": scenario.id}] for scenario in scenarios[:2] for _ in range(4)]
    trainer.model.train()
    rollouts(prompts, trainer)
    seeds = [dialogue.seed for dialogue in rollouts.latest]
    assert len(set(seeds[:4])) == len(set(seeds[4:])) == 1
    assert seeds[0] != seeds[4]
    trainer.state.global_step = 1
    rollouts(prompts, trainer)
    assert {dialogue.seed for dialogue in rollouts.latest}.isdisjoint(seeds)
    trainer.model.eval()
    rollouts(prompts, trainer)
    first = [dialogue.seed for dialogue in rollouts.latest]
    trainer.state.global_step = 7
    rollouts(prompts, trainer)
    assert [dialogue.seed for dialogue in rollouts.latest] == first


def test_a_step_of_grpo_trains_and_leaves_failed_judgements_out(tiny_model, scenarios, tmp_path):
    rollouts = make_rollout_func("UserSim-Replay-v0", scenarios=scenarios[:2], judge=Vowels(failing="s0"), max_turns=2)
    trainer = make_trainer(tiny_model, scenarios[:2], tmp_path, rollouts=rollouts, learning_rate=1e-2)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    assert any((before[name] != value).any() for name, value in trainer.model.named_parameters())
    assert all(value.isfinite().all() for value in trainer.model.parameters())
    log = next(row for row in trainer.state.log_history if "reward" in row)
    assert rollouts.faults == {"judge_fault: refused": 4}
    assert log["simgym/unjudged"] == 0.5
    judged = [transcript.reward for transcript in rollouts.latest if transcript.reward is not None]
    assert log["reward"] == pytest.approx(sum(judged) / 4)  # not halved by zeros
    advantages = dict(
        zip([transcript.scenario.id for transcript in rollouts.latest], trainer._logs["advantages"], strict=False)
    )
    assert advantages["s0"] == 0


def test_a_group_in_which_every_judgement_failed_moves_nothing(tiny_model, scenarios, tmp_path):
    rollouts = make_rollout_func("UserSim-Replay-v0", scenarios=scenarios[:1], judge=Vowels(failing="s0"), max_turns=1)
    trainer = make_trainer(tiny_model, scenarios[:1] * 2, tmp_path, rollouts=rollouts, learning_rate=1e-2)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    assert all((before[name] == value).all() for name, value in trainer.model.named_parameters())
    assert rollouts.faults == {"judge_fault: refused": 8}


class Silent:
    """A simulator that cannot open some scenarios."""

    def open(self, scenarios, *, seeds):
        return [
            UserTurn("", fault="timeout: on purpose") if scenario.id == "s0" else UserTurn("hello")
            for scenario in scenarios
        ]

    def reply(self, scenarios, conversations, *, seeds):
        return [UserTurn("and?") for _ in scenarios]

    def fingerprint(self):
        return {"simulator": "silent"}


def test_an_opening_that_failed_is_counted_and_the_others_go_on(tiny_model, scenarios, tmp_path):
    rollouts = make_rollout_func("UserSim-Replay-v0", simulator=Silent(), scenarios=scenarios[:2], judge=Vowels())
    trainer = make_trainer(tiny_model, scenarios[:2], tmp_path, rollouts=rollouts)
    trainer.train()
    assert rollouts.faults == {"simulator_fault: timeout": 4}
    assert sum(transcript.reward is not None for transcript in rollouts.latest) == 4


class Flickering(Vowels):
    """A judge whose server is away for the first calls."""

    def __init__(self, away):
        super().__init__()
        self.away = away

    def judge(self, scenarios, conversations, *, seeds):
        self.away -= 1
        if self.away >= 0:
            return [Judgement(None, fault="server: no connection to the judge") for _ in scenarios]
        return super().judge(scenarios, conversations, seeds=seeds)


def test_a_batch_is_played_again_when_a_server_comes_back_and_given_up_when_it_does_not(
    tiny_model, scenarios, tmp_path
):
    prompts = [[{"role": "user", "content": "s0"}]] * 2
    arguments = {"scenarios": scenarios, "max_turns": 1, "waits": (0.0, 0.0)}
    rollouts = make_rollout_func("UserSim-Replay-v0", judge=Flickering(2), **arguments)
    trainer = make_trainer(tiny_model, scenarios, tmp_path, rollouts=rollouts)
    assert None not in rollouts(prompts, trainer)["judge_reward"]
    assert rollouts.faults == {}
    with pytest.raises(ServerUnavailable, match="no connection to the judge"):
        make_rollout_func("UserSim-Replay-v0", judge=Flickering(3), **arguments)(prompts, trainer)


def test_a_context_that_is_full_ends_a_conversation(tiny_model, scenarios, tmp_path):
    rollouts = make_rollout_func("UserSim-Replay-v0", scenarios=scenarios, judge=Vowels(), max_turns=2)
    trainer = make_trainer(tiny_model, scenarios, tmp_path, rollouts=rollouts)
    trainer.model.config.max_position_embeddings = 60
    output = rollouts([[{"role": "user", "content": "s0"}]], trainer)
    assert output["end_reason"] == ["context_overflow"]
    assert output["judge_reward"] == [None]
    assert set(output["env_mask"][0]) == {1}


def test_room_is_what_vllm_was_given_where_that_is_less_than_the_model_takes(tiny_model, scenarios, tmp_path):
    rollouts = make_rollout_func("UserSim-Replay-v0", scenarios=scenarios, judge=Vowels(), max_turns=2)
    trainer = make_trainer(tiny_model, scenarios, tmp_path, rollouts=rollouts, vllm_max_model_length=60)
    trainer.use_vllm = True
    client = SimpleNamespace(get_server_info=lambda: {"model_config": {"max_model_len": 512}})
    trainer.vllm_generation = SimpleNamespace(vllm_client=client)
    trainer._generate_single_turn = lambda ids_N, *more: ([[5] * 4] * len(ids_N), [[0.0] * 4] * len(ids_N))
    prompt = [[{"role": "user", "content": "s0"}]]
    assert rollouts(prompt, trainer)["end_reason"] == ["context_overflow"]
    trainer.args.vllm_max_model_length = None
    assert rollouts(prompt, trainer)["end_reason"] != ["context_overflow"]
    client.get_server_info = lambda: {"model_config": {"max_model_len": 60}}
    assert rollouts(prompt, trainer)["end_reason"] == ["context_overflow"]


def test_a_trl_that_calls_rollout_functions_otherwise_is_refused_at_once(scenarios, monkeypatch):
    old = PackageStatus("trl", ">=1.16,<2", "train", "1.8.0")
    monkeypatch.setattr("simgym.extras.missing_packages", lambda extra: [old])
    with pytest.raises(MissingDependency, match=r"trl 1\.8\.0 is installed, simgym works with >=1\.16,<2"):
        make_rollout_func("UserSim-Replay-v0", scenarios=scenarios, judge=Vowels())


def test_wrong_input_is_a_sentence(tiny_model, scenarios, tmp_path):
    rollouts = make_rollout_func("UserSim-Replay-v0", scenarios=scenarios, judge=Vowels(), max_turns=1)
    trainer = make_trainer(tiny_model, scenarios, tmp_path, rollouts=rollouts)
    with pytest.raises(ConfigurationError, match="Unknown scenario 'nobody'"):
        rollouts([[{"role": "user", "content": "nobody"}]], trainer)
    trainer.processing_class.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' and loop.index > 1 %}{{ raise_exception('no second user') }}"
        "{% endif %}{{ m['content'] }}{% endfor %}"
    )
    longer = make_rollout_func("UserSim-Replay-v0", scenarios=scenarios, judge=Vowels(), max_turns=2)
    with pytest.raises(ConfigurationError, match="refuses the roles"):
        longer([[{"role": "user", "content": "s0"}]], trainer)
    assert Conversation().messages == ()


THINKING = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


@pytest.mark.parametrize("thinks", [True, False])
def test_variables_of_the_chat_template_are_those_of_the_trainer(tiny_model, scenarios, tmp_path, watched, thinks):
    """Source: trl#4350, which added `chat_template_kwargs` to switch thinking off."""
    rollouts = make_rollout_func("UserSim-Replay-v0", scenarios=scenarios, judge=Vowels(), max_turns=2)
    trainer = make_trainer(
        tiny_model, scenarios, tmp_path, rollouts=rollouts, chat_template_kwargs={"enable_thinking": thinks}
    )
    trainer.processing_class.chat_template = THINKING
    rollouts([[{"role": "user", "content": scenarios[0].id}]] * 4, trainer)
    prompts = [trainer.processing_class.decode(ids) for asked, _ in watched for ids in asked]
    assert len(prompts) == 8
    assert all(prompt.endswith("<|assistant|>" if thinks else "</think>\n\n") for prompt in prompts)


def test_the_user_and_the_judge_do_not_hear_what_the_policy_thinks(tiny_model, scenarios, tmp_path, monkeypatch):
    rollouts = make_rollout_func("UserSim-Replay-v0", scenarios=scenarios, judge=Vowels(), max_turns=2)
    trainer = make_trainer(tiny_model, scenarios, tmp_path, rollouts=rollouts)
    written = iter(["<think>secret</think>\nHello", "<think>secret again"])

    def generate(self, prompt_ids, *more):
        ids = self.processing_class(next(written), add_special_tokens=False)["input_ids"]
        return [ids] * len(prompt_ids), None

    monkeypatch.setattr(trl.GRPOTrainer, "_generate_single_turn", generate)
    output = rollouts([[{"role": "user", "content": scenarios[0].id}]] * 4, trainer)
    (dialogue, *_) = rollouts.latest
    assert dialogue.conversation.said_by("assistant") == ["Hello"]
    assert str(dialogue.fault).startswith("cut_while_thinking: ")
    trained = [token for token, ours in zip(output["completion_ids"][0], output["env_mask"][0], strict=True) if ours]
    assert trainer.processing_class.decode(trained) == "<think>secret</think>\nHello<think>secret again"
