from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from simgym.errors import ConfigurationError
from simgym.judges import Judgement, RelevanceJudge, RubricJudge
from simgym.language_models import Generation, Likelihood, ScriptedLM, TransformersLM
from simgym.simulators import FineTuned, Mixture, Replay, RolePlay, UserTurn, persona
from simgym.testing import check_judge, check_language_model, check_simulator

BY_SEED = ScriptedLM("seed")


class Wrong:
    """A plug-in with one method replaced by a broken one."""

    def __init__(self, good, **broken):
        self._good = good
        for name, method in broken.items():
            setattr(self, name, method)

    def __getattr__(self, name):
        return getattr(self._good, name)


def altered(method, change):
    """The method with a change to the list it returns."""
    return lambda *arguments, **options: change(method(*arguments, **options))


@pytest.mark.parametrize("rule", ["echo", "seed", "a fixed text"])
def test_scripted_models_pass(rule):
    check_language_model(ScriptedLM(rule))


def test_a_real_model_passes(tiny_model):
    check_language_model(TransformersLM(tiny_model))


@pytest.mark.parametrize(
    "simulator",
    [RolePlay(BY_SEED), persona(BY_SEED), FineTuned(BY_SEED), Replay(), Mixture(BY_SEED)],
    ids=["role_play", "persona", "fine_tuned", "replay", "mixture"],
)
def test_built_in_simulators_pass(simulator):
    check_simulator(simulator)


def test_a_simulator_passes_on_a_real_model_and_own_scenarios(tiny_model, scenarios):
    check_simulator(FineTuned(tiny_model, max_new_tokens=8, max_attempts=2), scenarios[:2])


def test_built_in_judges_pass(tiny_model):
    check_judge(RelevanceJudge(tiny_model))
    check_judge(RelevanceJudge(BY_SEED))
    check_judge(RubricJudge(BY_SEED))


counter = itertools.count()
MODELS = {
    "a list of as many": Wrong(BY_SEED, generate=altered(BY_SEED.generate, lambda items: items[:2])),
    "an empty list": Wrong(BY_SEED, generate=lambda requests: BY_SEED.generate(requests) or [Generation("hm")]),
    "expected a Generation": Wrong(BY_SEED, generate=lambda requests: ["hello"] * len(requests)),
    "Draw everything random from the seed": ScriptedLM(lambda request: f"draw {next(counter)}"),
    "Keep the order": Wrong(
        BY_SEED, generate=altered(BY_SEED.generate, lambda items: sorted(items, key=lambda item: item.text))
    ),
    "alone than in a batch": Wrong(
        BY_SEED,
        generate=altered(
            BY_SEED.generate, lambda items: [replace(item, text=f"{item.text} {len(items)}") for item in items]
        ),
    ),
    "lone surrogate": ScriptedLM("\udc80"),
    "expected JSON of the schema": Wrong(
        BY_SEED, generate=lambda requests: BY_SEED.generate([replace(item, json_schema=None) for item in requests])
    ),
    "not strict JSON": Wrong(BY_SEED, fingerprint=lambda: {"temperature": float("nan")}),
    "not tuples": Wrong(BY_SEED, fingerprint=lambda: {"layers": (1, 2)}),
    "changes from call to call": Wrong(BY_SEED, fingerprint=lambda: {"started": next(counter)}),
    "finite logprob": Wrong(
        BY_SEED, loglikelihood=lambda prompts, continuations: [Likelihood(1.0, 1) for _ in prompts]
    ),
    "is no LanguageModel": object(),
}


@pytest.mark.parametrize("rule", MODELS)
def test_a_broken_model_is_told_which_rule_it_breaks(rule):
    with pytest.raises(ConfigurationError, match=rule):
        check_language_model(MODELS[rule])


def test_a_server_may_draw_without_a_seed():
    check_language_model(ScriptedLM(lambda request: f"draw {next(counter)}"), reproducible=False)


SIMULATORS = {
    "a list of as many": Wrong(Replay(), open=altered(Replay().open, lambda turns: turns[1:])),
    "before it began": Wrong(Replay(), open=lambda scenarios, seeds: [UserTurn("", ended=True) for _ in scenarios]),
    "empty text without a fault": Wrong(
        Replay(), reply=lambda scenarios, conversations, seeds: [UserTurn(" ") for _ in scenarios]
    ),
    "has no text": Wrong(
        Replay(), reply=lambda scenarios, conversations, seeds: [UserTurn("x", fault="bad") for _ in scenarios]
    ),
    "Keep the order": Wrong(
        Replay(), open=altered(Replay().open, lambda turns: sorted(turns, key=lambda turn: turn.text))
    ),
}


@pytest.mark.parametrize("rule", SIMULATORS)
def test_a_broken_simulator_is_told_which_rule_it_breaks(rule):
    with pytest.raises(ConfigurationError, match=rule):
        check_simulator(SIMULATORS[rule])


def fixed(value):
    return lambda scenarios, conversations, seeds: [
        Judgement(value) for _ in zip(scenarios, conversations, seeds, strict=True)
    ]


JUDGES = {
    "with 1 conversation": Wrong(
        RubricJudge(BY_SEED), judge=lambda scenarios, conversations, seeds: [Judgement(0.5) for _ in scenarios]
    ),
    "Draw everything random from the seed": Wrong(
        RubricJudge(BY_SEED),
        judge=lambda scenarios, conversations, seeds: fixed(1 / (2 + next(counter) % 7))(
            scenarios, conversations, seeds
        ),
    ),
    "expected a Judgement": Wrong(
        RubricJudge(BY_SEED), judge=lambda scenarios, conversations, seeds: [0.5 for _ in scenarios]
    ),
}


@pytest.mark.parametrize("rule", JUDGES)
def test_a_broken_judge_is_told_which_rule_it_breaks(rule):
    with pytest.raises(ConfigurationError, match=rule):
        check_judge(JUDGES[rule])
