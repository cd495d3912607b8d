from __future__ import annotations

import json
import warnings

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env

import simgym  # noqa: F401  # registers the environments
from simgym.assistants.action_sets import STRATEGIES, SampledReplies, Strategies
from simgym.assistants.base import Assistant
from simgym.assistants.loading import load_assistant
from simgym.conversation import INTENT_PREFIX, Conversation, Message, Scenario
from simgym.envs.features import ConversationFeatures, DiscreteReplies, EmbeddingObservation
from simgym.errors import ConfigurationError, ServerUnavailable, WeightsError
from simgym.integrations.policy_assistant import SETTINGS, PolicyAssistant
from simgym.integrations.policy_files import load_policy
from simgym.integrations.stable_baselines3 import TextVecEnv
from simgym.judges.base import Judgement
from simgym.language_models.base import SamplingParams
from simgym.language_models.scripted_lm import ScriptedLM
from simgym.rollout import collect
from simgym.simulators.base import UserTurn

SHORT = SamplingParams(max_new_tokens=4)


class Fitting:
    """1 if the answer suits the question: brief where the user shouts, stepwise where they do not."""

    def __init__(self, failing: str = "never") -> None:
        self.failing = failing

    def judge(self, scenarios, conversations, *, seeds):
        return [
            Judgement(None, fault="unparsable: on purpose")
            if self.failing in scenario.id
            else Judgement(float(("A" in said.messages[0].content) == (said.messages[1].content == "brief")))
            for scenario, said in zip(scenarios, conversations, strict=True)
        ]

    def fingerprint(self):
        return {"judge": "fitting"}


def told(request):
    """What the system prompt asks for."""
    return "brief" if "one or two short" in request.messages[0].content else "steps"


WRITER = ScriptedLM(told)


def users(count=20):
    words = ["AAAA AAAA AAAA", "zzz zzz"]
    return [
        Scenario(
            id=f"s{number}",
            intent=f"{INTENT_PREFIX}be answered in the way that suits what is being said by the person here",
            opening=words[number % 2],
            source="made for a test",
            history=(Message("user", words[number % 2]), Message("assistant", "x")),
        )
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def features(tiny_model):
    raw = ConversationFeatures(tiny_model, layer=1, max_turns=1)
    texts = ["AAAA", "AA AA", "zzz", "z z z", "z", "A"]
    return raw.fitted([Conversation().add("user", text) for text in texts], size=3)


def vec_env(features, **options):
    strategies = Strategies(WRITER, names=("brief", "steps"))
    given = {"num_envs": 8, "max_turns": 1, "scenarios": users(), "judge": Fitting(), **options}
    return TextVecEnv("UserSim-Replay-v0", strategies, features, **given)


@pytest.mark.parametrize("kind", [Strategies, SampledReplies])
def test_the_numeric_environment_passes_the_checker_of_stable_baselines3(kind, tiny_model, scenarios):
    env = gym.make("UserSim-Replay-v0", scenarios=scenarios, max_turns=2, judge=Fitting())
    features = ConversationFeatures(tiny_model, layer=1, max_turns=2)
    writer = ScriptedLM("seed")  # the tiny model now and then writes nothing: a fault, whose NaN the checker refuses
    numeric = EmbeddingObservation(DiscreteReplies(env, kind(writer)), features)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        check_env(numeric)
    shown = 4 if kind is SampledReplies else 0
    assert numeric.observation_space.shape == (32 * (1 + shown) + 2,)


def test_a_conversation_is_the_same_alone_and_in_the_batched_vec_env(tiny_model, scenarios):
    features = ConversationFeatures(tiny_model, layer=1, max_turns=2)
    settings = {"scenarios": scenarios, "max_turns": 2, "judge": Fitting()}
    action_set = SampledReplies(tiny_model, num_candidates=2, sampling=SHORT)
    vector = TextVecEnv("UserSim-Replay-v0", action_set, features, num_envs=3, seed=5, **settings)
    seen, actions = [vector.reset()], []
    for number in range(2):
        actions.append([number % 2, 1, 0])
        vector.step_async(np.array(actions[-1]))
        after, rewards, dones, infos = vector.step_wait()
        seen.append(after)
    assert dones.all()
    alone = EmbeddingObservation(DiscreteReplies(gym.make("UserSim-Replay-v0", **settings), action_set), features)
    for row in range(3):
        observation, _ = alone.reset(seed=infos[row]["seed"])
        assert observation == pytest.approx(seen[0][row], abs=1e-4)
        for number in range(2):
            observation, reward, _, _, _ = alone.step(actions[number][row])
        assert reward == rewards[row]
        assert alone.unwrapped.dialogue.conversation == infos[row]["dialogue"].conversation


def test_ppo_learns_to_choose_by_what_the_user_says_and_the_policy_is_an_assistant(features):
    env = vec_env(features)
    model = PPO("MlpPolicy", env, n_steps=16, batch_size=64, learning_rate=3e-3, gamma=1.0, seed=0, device="cpu")
    model.learn(1500)
    assistant = PolicyAssistant(model.policy, env.action_set, env.features)
    assert isinstance(assistant, Assistant)
    world = gym.make("UserSim-Replay-v0", scenarios=users(), max_turns=1, judge=Fitting())
    learned = np.mean([transcript.reward for transcript in collect(assistant, world)])
    assert learned == 1.0  # always brief or always steps gets a half


def test_a_policy_that_was_saved_acts_as_before(tiny_model, features, tmp_path):
    action_set = Strategies(tiny_model, names=("brief", "steps"), sampling=SHORT)
    env = TextVecEnv(
        "UserSim-Replay-v0", action_set, features, num_envs=2, max_turns=1, scenarios=users(), judge=Fitting()
    )
    model = PPO("MlpPolicy", env, n_steps=4, batch_size=8, seed=0, device="cpu", policy_kwargs={"net_arch": [8]})
    for deterministic in (True, False):
        assistant = PolicyAssistant(model.policy, action_set, features, deterministic=deterministic)
        assistant.save(tmp_path / "policy")
        again = load_policy(tmp_path / "policy", tiny_model)
        talks = [Conversation().add("user", text) for text in ("AAAA", "zz z", "something else")]
        assert again.respond(talks, seeds=[1, 2, 3]) == assistant.respond(talks, seeds=[1, 2, 3])
        assert again.fingerprint() == assistant.fingerprint()


def test_a_trained_policy_says_what_it_was_trained_with_and_is_an_assistant_by_its_folder(
    tiny_model, features, tmp_path
):
    action_set = Strategies(tiny_model, names=("brief", "steps"), sampling=SHORT)
    env = TextVecEnv(
        "UserSim-Replay-v0", action_set, features, num_envs=2, seed=3, max_turns=1, scenarios=users(), judge=Fitting()
    )
    model = PPO("MlpPolicy", env, n_steps=4, batch_size=8, seed=3, device="cpu").learn(8)
    assistant = PolicyAssistant.from_model(model)
    assistant.save(tmp_path / "policy")
    named = load_assistant(str(tmp_path / "policy"), SHORT)
    assert named.name == "ppo-Replay-seed3-step8"
    assert named.assistant.training == assistant.training
    assert named.assistant.training.judge == {"judge": "fitting"}
    assert named.assistant.fingerprint() == assistant.fingerprint()
    talks = [Conversation().add("user", text) for text in ("AAAA", "zz z")]
    assert named.assistant.respond(talks, seeds=[1, 2]) == assistant.respond(talks, seeds=[1, 2])
    with pytest.raises(ConfigurationError, match=r"Leave \+PROMPT out"):
        load_assistant(f"{tmp_path / 'policy'}+clarify", SHORT)


def test_a_policy_whose_words_or_model_changed_is_refused(tiny_model, features, tmp_path):
    action_set = Strategies(tiny_model, names=("brief", "steps"), sampling=SHORT)
    env = TextVecEnv(
        "UserSim-Replay-v0", action_set, features, num_envs=2, max_turns=1, scenarios=users(), judge=Fitting()
    )
    model = PPO("MlpPolicy", env, n_steps=4, batch_size=8, device="cpu")
    PolicyAssistant(model.policy, action_set, features).save(tmp_path)
    with pytest.raises(ConfigurationError, match="trained on"):
        load_policy(tmp_path, {"kind": "transformers", "model": tiny_model, "dtype": "bfloat16"})
    settings = json.loads((tmp_path / SETTINGS).read_text())
    settings["activation"] = "Bilinear"
    (tmp_path / SETTINGS).write_text(json.dumps(settings))
    with pytest.raises(WeightsError, match="holds no policy"):
        load_policy(tmp_path, tiny_model)
    settings["choices"]["prompts"][1] = "0" * 64
    (tmp_path / SETTINGS).write_text(json.dumps(settings))
    with pytest.raises(ConfigurationError, match="another text for steps"):
        load_policy(tmp_path, tiny_model)
    (tmp_path / SETTINGS).write_text("{}")
    with pytest.raises(WeightsError, match="holds no policy"):
        load_policy(tmp_path, tiny_model)


def test_a_judge_that_fails_is_counted_and_moves_the_policy_in_no_direction(features):
    """Half of the conversations have no judgement; rewards and updates stay finite, and the other half is learned."""
    env = vec_env(features, judge=Fitting(failing="1"))
    model = PPO("MlpPolicy", env, n_steps=16, batch_size=64, learning_rate=3e-3, gamma=1.0, seed=0, device="cpu")
    model.learn(1500)
    (kind,) = env.faults
    assert kind == "judge_fault: unparsable"
    assert env.faults[kind] > 100
    assert np.isfinite(model.rollout_buffer.advantages).all()
    judged, imputed = [], []
    for _ in range(5):
        env.step_async(np.zeros(8))
        _, rewards, _, infos = env.step_wait()
        for reward, info in zip(rewards, infos, strict=True):
            (imputed if info["reward_imputed"] else judged).append(float(reward))
    assert set(judged) == {0.0, 1.0}
    assert all(0.3 < reward < 1 for reward in imputed)  # the mean of what was judged lately, not 0
    shouting = [Conversation().add("user", "AAAA AAAA AAAA")]
    assistant = PolicyAssistant(model.policy, env.action_set, env.features)
    assert assistant.respond(shouting, seeds=[0])[0].text == "brief"


class Silent:
    """A simulator that cannot open."""

    def open(self, scenarios, *, seeds):
        return [UserTurn("", fault="garbled: on purpose") for _ in scenarios]

    def reply(self, scenarios, conversations, *, seeds):
        raise AssertionError

    def fingerprint(self):
        return {"simulator": "silent"}


@pytest.mark.parametrize("kind", [Strategies, SampledReplies])
def test_an_opening_that_failed_is_told_by_the_first_step(kind, tiny_model):
    env = gym.make("UserSim-Replay-v0", simulator=Silent(), scenarios=users(), max_turns=1, judge=Fitting())
    numeric = EmbeddingObservation(
        DiscreteReplies(env, kind(tiny_model, sampling=SHORT)), ConversationFeatures(tiny_model, layer=1)
    )
    observation, _ = numeric.reset(seed=0)
    assert observation.shape == numeric.observation_space.shape
    _, reward, terminated, truncated, info = numeric.step(0)
    assert np.isnan(reward)
    assert (terminated, truncated) == (False, True)
    assert info["fault"]


def test_a_simulator_that_never_opens_stops_the_training(features):
    with pytest.raises(ConfigurationError, match="failed to open"):
        vec_env(features, simulator=Silent()).reset()


def test_servers_that_are_down_are_told_apart_from_a_simulator_that_fails(features):
    class Away(Silent):
        def open(self, scenarios, *, seeds):
            return [UserTurn("", fault="server: no connection") for _ in scenarios]

    with pytest.raises(ServerUnavailable, match="no connection"):
        vec_env(features, simulator=Away()).reset()


def test_a_seed_that_is_given_later_counts_from_the_next_reset(features):
    env, other = vec_env(features, seed=1), vec_env(features, seed=9)
    env.reset()
    env.seed(9)
    assert (env.reset() == other.reset()).all()
    assert [row.seed for row in env.dialogues] == [row.seed for row in other.dialogues]


def test_conversations_do_not_depend_on_what_the_policy_does(features):
    first, other = vec_env(features, seed=3), vec_env(features, seed=3)
    for env in (first, other):
        env.reset()
    ids = []
    for env, action in ((first, 0), (other, 1)):
        env.step_async(np.full(8, action))
        ids.append([info["scenario_id"] for info in env.step_wait()[3]])
        assert env.conversations_begun == [2] * 8
    assert ids[0] == ids[1]


def test_wrong_choices_are_sentences(tiny_model):
    with pytest.raises(ConfigurationError, match="Did you mean 'strategy_brief'"):
        Strategies(names=("strategy_brif",))
    with pytest.raises(ConfigurationError, match="list of names"):
        Strategies(names="brief")
    with pytest.raises(ConfigurationError, match="2 or more"):
        SampledReplies(num_candidates=1)
    with pytest.raises(ConfigurationError, match="in DiscreteReplies"):
        EmbeddingObservation(gym.make("UserSim-RolePlay-v0"))
    assert len(set(Strategies(names=STRATEGIES).prompts)) == len(STRATEGIES)
