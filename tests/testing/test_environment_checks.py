from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from simgym.assistants import AssistantTurn, LanguageModelAssistant
from simgym.data import load_scenarios
from simgym.errors import ConfigurationError, UnknownName
from simgym.language_models import ScriptedLM
from simgym.simulators import Replay, UserTurn
from simgym.testing import check_assistant, check_env, check_scenarios

counter = itertools.count()
JUDGED = {"judge": "relevance", "judge_model": "scripted:echo"}


@pytest.mark.parametrize("source", ["everyday", "chitchat"])
def test_built_in_sets_pass(source):
    check_scenarios(source)


SETS = {
    "again": lambda: load_scenarios("everyday")[next(counter) % 7 :],
    "twice": lambda: [*load_scenarios("everyday", limit=3), *load_scenarios("everyday", limit=1)],
    "hidden intent": lambda: [
        replace(scenario, opening=f"I want to {scenario.goal}") for scenario in load_scenarios("everyday", limit=2)
    ],
    "expected a sequence of scenarios": lambda: ["a wish"],
}


@pytest.mark.parametrize("rule", SETS)
def test_a_broken_set_is_told_which_rule_it_breaks(rule):
    with pytest.raises(ConfigurationError, match=rule):
        check_scenarios(SETS[rule])


@pytest.mark.parametrize(
    ("env_id", "settings"),
    [
        ("UserSim-RolePlay-v0", {"model": "scripted:seed"}),
        ("UserSim-Persona-v0", {"model": "scripted:seed"}),
        ("UserSim-Replay-v0", {}),
    ],
)
def test_built_in_environments_pass(env_id, settings):
    check_env(env_id, **settings, **JUDGED)


class Talking:
    """A user whose turns are made by a function of scenario and seed."""

    def __init__(self, say):
        self.say = say

    def open(self, scenarios, *, seeds):
        return [UserTurn(self.say(*pair)) for pair in zip(scenarios, seeds, strict=True)]

    def reply(self, scenarios, conversations, *, seeds):
        return self.open(scenarios, seeds=seeds)

    def fingerprint(self):
        return {"simulator": "talking"}


ENVS = {
    "Draw everything random from the seed": Talking(lambda scenario, seed: f"draw {next(counter)}"),
    "holds the hidden intent": Talking(lambda scenario, seed: scenario.intent),
}


@pytest.mark.parametrize("rule", ENVS)
def test_a_broken_environment_is_told_which_rule_it_breaks(rule):
    with pytest.raises(ConfigurationError, match=rule):
        check_env("UserSim-RolePlay-v0", simulator=ENVS[rule], **JUDGED)


def test_an_environment_that_does_not_exist_is_told_the_nearest():
    with pytest.raises(UnknownName, match="Did you mean 'UserSim-RolePlay-v0'"):
        check_env("UserSim-RolPlay-v0")


def test_a_language_model_passes_as_assistant():
    check_assistant(LanguageModelAssistant(ScriptedLM("seed")))


class Assisting:
    """An assistant that answers by a function of conversation and seed."""

    def __init__(self, say):
        self.say = say

    def respond(self, conversations, *, seeds):
        return [self.say(*pair) for pair in zip(conversations, seeds, strict=True)]

    def fingerprint(self):
        return {"assistant": "assisting"}


ASSISTANTS = {
    "expected a AssistantTurn": Assisting(lambda conversation, seed: "hello"),
    "empty text without a fault": Assisting(lambda conversation, seed: AssistantTurn(" ")),
    "has no text": Assisting(lambda conversation, seed: AssistantTurn("hi", fault="empty")),
    "Draw everything random from the seed": Assisting(lambda conversation, seed: AssistantTurn(f"{next(counter)}")),
    "is no Assistant": Replay(),
}


@pytest.mark.parametrize("rule", ASSISTANTS)
def test_a_broken_assistant_is_told_which_rule_it_breaks(rule):
    with pytest.raises(ConfigurationError, match=rule):
        check_assistant(ASSISTANTS[rule])


def test_an_assistant_may_draw_without_a_seed():
    check_assistant(ASSISTANTS["Draw everything random from the seed"], reproducible=False)
