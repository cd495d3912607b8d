from __future__ import annotations

import json
import math
import subprocess
import sys

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import simgym  # noqa: F401  # registers the environments
from simgym.errors import ConfigurationError, EpisodeError, InvalidAction, SimgymError, UnknownName
from simgym.judges import Judgement
from simgym.language_models import ScriptedLM
from simgym.registration import ENVIRONMENTS
from simgym.simulators import UserTurn

SCRIPTED = {"judge": "relevance", "judge_model": "scripted:echo"}


def make(env_id, scenarios, model, **options):
    return gym.make(env_id, **{"scenarios": scenarios, "model": model, **SCRIPTED, **options})


class FailingJudge:
    def judge(self, scenarios, conversations, *, seeds):
        return [Judgement(None, fault="unparsable: for the test") for _ in scenarios]

    def fingerprint(self):
        return {"judge": "failing"}


class Scripted:
    """A simulator that says what it is told to, turn by turn."""

    def __init__(self, opening, *replies):
        self.turns = [opening, *replies]

    def open(self, scenarios, *, seeds):
        return [self.turns[0]] * len(scenarios)

    def reply(self, scenarios, conversations, *, seeds):
        return [self.turns[len(conversation.said_by("assistant"))] for conversation in conversations]

    def fingerprint(self):
        return {"simulator": "scripted"}


@pytest.mark.parametrize("env_id", [row.env_id for row in ENVIRONMENTS])
@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version.*")
def test_gymnasiums_own_checker_passes_for_every_id(env_id, scenarios, tiny_model, tmp_path, monkeypatch, capsys):
    path = tmp_path / "scenarios.jsonl"
    path.write_text("\n".join(json.dumps(scenario.to_json()) for scenario in scenarios))
    options = {"scenarios": str(path), "judge": "relevance", "judge_model": "scripted:echo", "max_turns": 2}
    if env_id == "UserSim-Human-v0":
        monkeypatch.setattr("builtins.input", lambda prompt: "hello there")
    elif env_id == "UserSim-FineTuned-v0":
        options |= {"model": tiny_model, "simulator_options": {"max_new_tokens": 8}}
    elif env_id != "UserSim-Replay-v0":
        options["model"] = "scripted:seed"
    env = gym.make(env_id, **options)
    restored = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert restored.spec == env.spec
    check_env(env.unwrapped)


def test_the_environment_can_be_made_without_importing_simgym():
    code = (
        "import gymnasium, sys; env = gymnasium.make('simgym:UserSim-RolePlay-v0');"
        "print('torch' in sys.modules, env.spec.id)"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout.split() == ["False", "UserSim-RolePlay-v0"]


def test_a_conversation_runs_to_the_turn_limit_and_is_judged_once(scenarios):
    env = make("UserSim-RolePlay-v0", scenarios, "scripted:tell me more", max_turns=2)
    observation, info = env.reset(seed=1)
    assert observation["user_reply"] == "tell me more"
    assert (observation["judge_reward"], observation["turn"], info["end_reason"]) == (0, 0, None)
    # The scripted user repeats itself, which is a fault: a different model is needed for a second turn.
    observation, reward, terminated, truncated, info = env.step("Gladly.")
    assert (terminated, truncated, info["end_reason"]) == (False, True, "simulator_fault")
    assert info["fault"] == "repeated"
    assert math.isnan(reward)

    env = make("UserSim-Replay-v0", scenarios, None, max_turns=2)
    env.reset(seed=1)
    _, reward, terminated, truncated, _ = env.step("Gladly.")
    assert (reward, terminated, truncated) == (0.0, False, False)
    observation, reward, terminated, truncated, info = env.step("And more.")
    assert (terminated, truncated, info["end_reason"], observation["turn"]) == (True, False, "turn_limit", 2)
    assert reward == pytest.approx(float(observation["judge_reward"]))
    assert 0 < reward < 1


def test_a_user_who_leaves_with_a_word_is_answered_once_more_if_the_settings_say_so(scenarios):
    simulator = Scripted(UserTurn("hi"), UserTurn("thanks, bye", ended=True))
    env = make("UserSim-RolePlay-v0", scenarios, None, simulator=simulator)
    env.reset(seed=1)
    observation, _, terminated, truncated, info = env.step("Here you are.")
    assert (terminated, truncated, info["end_reason"], observation["user_reply"]) == (False, False, None, "thanks, bye")
    _, reward, terminated, _, info = env.step("Goodbye.")
    assert (terminated, info["end_reason"]) == (True, "user_end")
    assert not math.isnan(reward)
    silent = make("UserSim-RolePlay-v0", scenarios, None, simulator=simulator, answer_last_words=False)
    silent.reset(seed=1)
    observation, _, terminated, _, info = silent.step("Here you are.")
    assert (terminated, info["end_reason"], observation["user_reply"]) == (True, "user_end", "thanks, bye")
    assert silent.unwrapped.dialogue.conversation.messages[-1].content == "thanks, bye"


def test_a_failed_judge_is_nan_and_marked_never_zero(scenarios):
    env = make("UserSim-Replay-v0", scenarios, None, judge=FailingJudge(), max_turns=1)
    env.reset(seed=1)
    observation, reward, terminated, truncated, info = env.step("Hello.")
    assert math.isnan(reward)
    assert (terminated, truncated, info["judge_failed"], info["end_reason"]) == (False, True, True, "judge_fault")
    assert observation in env.observation_space


def test_a_failed_opening_truncates_on_the_first_step(scenarios):
    env = make("UserSim-RolePlay-v0", scenarios, None, simulator=Scripted(UserTurn("", fault="empty")))
    _, info = env.reset(seed=1)
    assert info["fault"] == "empty"
    _, reward, terminated, truncated, info = env.step("Anyone there?")
    assert (terminated, truncated, info["end_reason"]) == (False, True, "simulator_fault")
    assert math.isnan(reward)


def test_a_full_context_is_its_own_end_reason(scenarios, tmp_path):
    from simgym.testing import save_tiny_model

    small = str(save_tiny_model(tmp_path, context_length=300))
    env = make("UserSim-RolePlay-v0", scenarios, small, simulator_options={"max_new_tokens": 100})
    env.reset(seed=1)
    *_, truncated, info = env.step("Hello.")
    assert (truncated, info["end_reason"]) == (True, "context_overflow")


def test_the_intent_is_nowhere_in_observation_info_or_what_the_assistant_sees(scenarios):
    env = make("UserSim-RolePlayOpening-v0", scenarios, "scripted:ok then", max_turns=2)
    seen = [env.reset(seed=3), env.step("Hello."), env.unwrapped.dialogue.conversation.to_json()]
    assert env.unwrapped.scenario.goal not in repr(seen)
    assert env.unwrapped.scenario.intent.startswith("You are a user")


def test_the_same_seed_gives_the_same_conversation_and_other_seeds_differ(scenarios, tiny_model):
    def play(seed):
        env = make("UserSim-FineTuned-v0", scenarios, tiny_model, simulator_options={"max_new_tokens": 8})
        first, _ = env.reset(seed=seed)
        second, *_ = env.step("What is it about?")
        return first["user_reply"], second["user_reply"], env.unwrapped.scenario.id

    assert play(11) == play(11)
    assert len({play(seed) for seed in range(11, 15)}) == 4


def test_a_state_is_json_and_forks_the_conversation(scenarios, tiny_model):
    options = {"simulator_options": {"max_new_tokens": 8}}
    env = make("UserSim-FineTuned-v0", scenarios, tiny_model, **options)
    env.reset(seed=5)
    env.step("Where were we?")
    state = json.loads(json.dumps(env.unwrapped.get_state()))
    straight = env.step("Go on.")[0]["user_reply"]
    fork = make("UserSim-FineTuned-v0", scenarios, tiny_model, **options)
    fork.reset(seed=99)
    fork.unwrapped.set_state(state)
    assert fork.step("Go on.")[0]["user_reply"] == straight
    with pytest.raises(ConfigurationError, match="get_state"):
        fork.unwrapped.set_state({"state_version": 99})


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(user=st.text(max_size=60), assistant=st.text(max_size=60))
def test_arbitrary_unicode_goes_through_a_whole_episode(scenarios, user, assistant):
    env = make("UserSim-RolePlay-v0", scenarios, ScriptedLM(lambda request: user), max_turns=2, render_mode="ansi")
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    for _ in range(2):
        if assistant not in env.action_space or not assistant.strip():
            with pytest.raises(InvalidAction):
                env.step(assistant)
            return
        observation, _, terminated, truncated, _ = env.step(assistant)
        assert observation in env.observation_space
        env.render().encode("utf-8")
        if terminated or truncated:
            return
    pytest.fail("the episode did not end at its turn limit")


@pytest.mark.parametrize(
    ("action", "words"),
    [("", "empty"), ("  \n", "empty"), ("x" * 50, "at most 40"), (7, "int"), ("\ud83d", "surrogate")],
)
def test_a_wrong_action_is_refused_and_changes_nothing(scenarios, action, words):
    env = make("UserSim-Replay-v0", scenarios, None, max_length=40, max_turns=2).unwrapped
    env.reset(seed=1)
    before = env.get_state()
    with pytest.raises(InvalidAction, match=words):
        env.step(action)
    assert env.get_state() == before


def test_calls_out_of_order_are_refused_in_a_sentence(scenarios):
    env = make("UserSim-Replay-v0", scenarios, None, max_turns=1).unwrapped
    with pytest.raises(EpisodeError, match=r"reset\(\) first"):
        env.step("Hello?")
    env.reset(seed=1)
    env.step("Hello.")
    with pytest.raises(EpisodeError, match="has ended"):
        env.step("Hello again.")


def test_wrong_names_are_refused_with_a_hint(scenarios):
    with pytest.raises(UnknownName, match="Did you mean 'role_play'"):
        gym.make("UserSim-RolePlay-v0", simulator="roleplay")
    with pytest.raises(UnknownName, match="relevance"):
        gym.make("UserSim-RolePlay-v0", judge="nobody")
    with pytest.raises(ConfigurationError, match="Known arguments"):
        gym.make("UserSim-RolePlay-v0", max_turn=3)
    env = gym.make("UserSim-RolePlay-v0", scenarios=scenarios, model="no-such-model")
    with pytest.raises(SimgymError, match="smollm2-135m-instruct"):
        env.reset(seed=1)
    env = make("UserSim-Replay-v0", scenarios, None)
    with pytest.raises(ConfigurationError, match="Did you mean 's3'"):
        env.reset(seed=1, options={"scenario_id": "s33"})


@pytest.mark.slow
def test_the_fine_tuned_user_works_out_of_the_box(smollm):
    env = gym.make("UserSim-FineTuned-v0", max_turns=2, simulator_options={"max_new_tokens": 24})
    replies = []
    for _ in range(2):
        env.reset(seed=3)
        observation, _, terminated, truncated, info = env.step("That sounds fun. What do you like most about it?")
        replies.append(observation["user_reply"])
        assert not truncated, info
        assert observation["user_reply"].strip() or terminated
    assert replies[0] == replies[1]


def test_human_rendering_prints_turns_without_control_characters(scenarios, capsys):
    simulator = Scripted(UserTurn("clear \x1b[2J me"), UserTurn("", ended=True))
    env = make("UserSim-RolePlay-v0", scenarios, None, simulator=simulator, render_mode="human")
    env.reset(seed=1)
    env.step("No.")
    assert capsys.readouterr().out.splitlines()[:2] == ["user: clear \\x1b[2J me", "assistant: No."]


class EveryThird:
    """Fails on every third conversation that it is asked about."""

    def __init__(self):
        self.asked = 0

    def judge(self, scenarios, conversations, *, seeds):
        judgements = []
        for _ in conversations:
            self.asked += 1
            failed = self.asked % 3 == 0
            judgements.append(Judgement(None, fault="unparsable: for the test") if failed else Judgement(0.25))
        return judgements

    def fingerprint(self):
        return {"judge": "every_third"}


@pytest.mark.parametrize("failed", ["nan", "running_mean", 0.0])
@pytest.mark.parametrize("num_envs", [None, 3])
def test_one_failed_judge_does_not_poison_normalized_rewards(scenarios, failed, num_envs):
    """Gymnasium's own wrappers keep a running variance, in which a NaN would stay for ever."""
    options = {
        "scenarios": scenarios, "simulator_options": {}, "max_turns": 1, "judge": EveryThird(),
        "failed_judge_reward": failed,
    }  # fmt: skip
    if num_envs is None:
        env = gym.wrappers.NormalizeReward(gym.make("UserSim-Replay-v0", **options))
    else:
        vector = gym.make_vec(
            "UserSim-Replay-v0", num_envs=num_envs, vectorization_mode="vector_entry_point", **options
        )
        env = gym.wrappers.vector.NormalizeReward(vector)
    rewards, marked = [], 0
    env.reset(seed=0)
    for _ in range(12):
        _, reward, terminated, truncated, info = env.step("Hello!" if num_envs is None else ["Hello!"] * num_envs)
        rewards += [reward] if num_envs is None else list(reward)
        marked += int(sum([info["unjudged"]] if num_envs is None else info["unjudged"]))
        if num_envs is None and (terminated or truncated):
            env.reset()
    assert marked >= 4
    assert any(map(math.isnan, rewards)) == (failed == "nan")
    if failed == "nan":
        assert math.isnan(rewards[-1])  # what the setting is for
    env.close()


@pytest.mark.parametrize("failed", ["mean", True, 1.5, -0.1, None])
def test_another_reward_for_failed_judges_is_refused(scenarios, failed):
    with pytest.raises(ConfigurationError, match="failed_judge_reward"):
        gym.make("UserSim-Replay-v0", scenarios=scenarios, failed_judge_reward=failed)
