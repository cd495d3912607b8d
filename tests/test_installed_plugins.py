"""Another package's simulators, assistants, scenario sets and environments, installed as pip would have left them."""

from __future__ import annotations

import json
import sys

import gymnasium
import pytest
from typer.testing import CliRunner

import simgym
from simgym import plugins, registration
from simgym.assistants import LanguageModelAssistant, load_assistant
from simgym.cli.main import app
from simgym.errors import ConfigurationError, UnknownName
from simgym.language_models import SamplingParams
from simgym.testing import check_assistant, check_env, check_scenarios

MODULE = '''
from simgym.assistants import AssistantTurn
from simgym.conversation import INTENT_PREFIX, Scenario
from simgym.registration import SimulatorEnv
from simgym.simulators import UserTurn

class Gruff:
    """Answers gruffly."""
    def __init__(self, *, words: int = 1, sampling=None):
        """Args:
            words: How many.
        """
        self.words, self.sampling = words, sampling
    def respond(self, conversations, *, seeds):
        return [AssistantTurn("no " * self.words) for _ in zip(conversations, seeds, strict=True)]
    def fingerprint(self):
        return {"assistant": "gruff", "words": self.words}

class Brief:
    def open(self, scenarios, *, seeds):
        return [UserTurn(f"{scenario.opening} ({seed % 97})") for scenario, seed in zip(scenarios, seeds, strict=True)]
    def reply(self, scenarios, conversations, *, seeds):
        return [UserTurn(f"more {seed % 97}", ended=seed % 3 == 0) for seed in seeds]
    def fingerprint(self):
        return {"simulator": "brief"}

def chores(*, limit=None):
    """Chores about the house, made up."""
    wishes = ("sweep the stairs", "water the plants", "air the rooms")
    return [
        Scenario(
            id=f"chore-{number}",
            intent=f"{INTENT_PREFIX}{wish} before noon",
            opening=f"what about the {wish.split()[-1]}?",
        )
        for number, wish in enumerate(wishes)
    ][:limit]

ENVIRONMENTS = [SimulatorEnv("UserSim-Brief-v0", "py:brief_people:Brief", "says little", {"scenarios": "chores"})]
'''
ENTRY_POINTS = """
[simgym.assistants]
gruff = brief_people:Gruff
[simgym.scenario_sets]
chores = brief_people:chores
[simgym.environments]
brief = brief_people:ENVIRONMENTS
broken = brief_people:NOT_THERE
[simgym.judges]
moved = simgym.judges.where_it_was:Judge
"""
SCRIPTED = {"judge": "relevance", "judge_model": "scripted:echo"}


def forget():
    plugins.available.cache_clear()
    registration.environments.cache_clear()
    gymnasium.registry.pop("UserSim-Brief-v0", None)
    sys.modules.pop("brief_people", None)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package `brief_people` with a simulator, an assistant, a scenario set and two tables of environments."""
    (tmp_path / "brief_people.py").write_text(MODULE)
    metadata = tmp_path / "brief_people-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: brief-people\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    forget()
    yield
    forget()


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.filterwarnings("ignore:The environments of the plug-in 'broken'")
def test_they_keep_the_rules_and_are_listed_and_used_by_name(installed, run, tmp_path):
    check_scenarios("chores")
    check_env("UserSim-Brief-v0", **SCRIPTED)
    check_assistant(load_assistant("gruff", SamplingParams()).assistant)
    assert "Chores about the house" in run("scenarios").stdout
    assert "UserSim-Brief-v0" in run("envs").stdout
    (gruff,) = [row for row in json.loads(run("assistants", "--json").stdout) if row["name"] == "gruff"]
    assert (gruff["summary"], [option["name"] for option in gruff["options"]]) == (
        "Answers gruffly.",
        ["words", "sampling"],
    )
    result = run(
        "rollout", "--assistant", "gruff", "--env", "UserSim-Brief-v0", "--judge", "relevance",
        "--judge-model", "scripted:echo", "-n", 2, "-o", "runs.jsonl",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    transcripts = list(simgym.read_transcripts(tmp_path / "runs.jsonl"))
    assert [transcript.scenario.id for transcript in transcripts] == ["chore-0", "chore-1"]
    assert {said for transcript in transcripts for said in transcript.conversation.said_by("assistant")} == {"no "}


def test_a_table_that_cannot_be_imported_is_left_out_with_a_warning(installed):
    with pytest.warns(UserWarning, match="environments of the plug-in 'broken' are left out: .*NOT_THERE"):
        known = registration.environments()
    assert {"UserSim-Brief-v0", "UserSim-RolePlay-v0"} <= set(known)


def test_built_ins_are_found_in_the_same_way():
    assert set(plugins.available("assistants")) == {"language_model", "policy"}
    assert set(plugins.available("scenario_sets")) == {"everyday", "chitchat", "wildchat"}
    named = load_assistant("language_model+clarify", SamplingParams(max_new_tokens=7))
    assert isinstance(named.assistant, LanguageModelAssistant)
    assert (named.name, named.assistant.sampling.max_new_tokens) == ("language_model+clarify", 7)
    assert "clarifying question" in str(named.assistant.system_prompt)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"assistant": "grufff"}', "Unknown assistant 'grufff'. Did you mean 'gruff'?"),
        ('{"assistant": "gruff", "word": 2}', "has no option 'word'. Did you mean 'words'?"),
        ("gruff+clarify", "takes no prompt"),
    ],
)
def test_a_wrong_assistant_is_a_sentence(installed, text, sentence):
    with pytest.raises(ConfigurationError, match=sentence.replace("?", r"\?")):
        load_assistant(text, SamplingParams())


def test_options_of_an_assistant_are_json(installed):
    named = load_assistant('{"assistant": "gruff", "words": 3}', SamplingParams(temperature=0.5))
    assert (named.name, named.assistant.words, named.assistant.sampling.temperature) == ("gruff", 3, 0.5)


def test_what_is_asked_of_a_set_that_has_it_not_is_a_sentence(installed):
    assert len(simgym.load_scenarios("chores", limit=2)) == 2
    with pytest.raises(ConfigurationError, match="'chores' has no split 'test'"):
        simgym.load_scenarios("chores", split="test")
    with pytest.raises(ConfigurationError, match="'chores' has no location 'attic'"):
        simgym.load_scenarios("chores:attic")
    with pytest.raises(UnknownName, match="Did you mean 'chores'"):
        simgym.load_scenarios("chore")
    with pytest.raises(ConfigurationError, match="is a list, expected a ScenarioSet or a function"):
        simgym.load_scenarios("py:brief_people:ENVIRONMENTS")


def test_metadata_that_are_older_than_the_code_say_what_to_do(installed):
    for look_up in (lambda: plugins.available("a_kind_of_later"), lambda: plugins.find("judges", "moved")):
        with pytest.raises(ConfigurationError, match="Install it again"):
            look_up()
