from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from simgym.assistants.language_model_assistant import LanguageModelAssistant
from simgym.assistants.loading import load_assistant
from simgym.assistants.training_record import RECORD_NAME, TrainingRecord, read_training_record
from simgym.cli.main import app
from simgym.conversation import Conversation
from simgym.errors import ConfigurationError, MalformedFile
from simgym.language_models.base import SamplingParams

SHORT = SamplingParams(max_new_tokens=6)
TALKS = [Conversation().add("user", text) for text in ("hello", "and now?")]
RECORD = TrainingRecord(
    method="grpo",
    env_id="UserSim-Replay-v0",
    base_model="none",
    seed=7,
    steps=40,
    max_turns=2,
    simulator={"simulator": "replay"},
    judge={"judge": "rubric"},
)


@pytest.fixture
def adapter(tiny_model, tiny_adapter, tmp_path):
    """A folder as `agents/grpo.py` leaves it: an adapter with its record."""
    folder = tmp_path / "run" / "final"
    shutil.copytree(tiny_adapter, folder)
    replace(RECORD, base_model=tiny_model, system_prompt="Be kind.").save(folder)
    return folder


def test_a_record_is_read_as_it_was_written_and_a_broken_one_is_a_sentence(tmp_path):
    assert read_training_record(tmp_path) is None
    RECORD.save(tmp_path)
    assert read_training_record(tmp_path) == RECORD
    path = tmp_path / RECORD_NAME
    later = {**json.loads(path.read_text()), "schema_version": 2}
    for value, sentence in ((later, "schema_version is 2"), ({"schema_version": 1}, "lacks the key"), ([1], "null")):
        path.write_text(json.dumps(value))
        with pytest.raises(MalformedFile, match=sentence):
            read_training_record(tmp_path)


def test_an_adapter_answers_on_its_base_model_with_the_prompt_of_its_training(adapter, tiny_model, tiny_adapter):
    named = load_assistant(str(adapter), SHORT)
    assert named.name == "grpo-Replay-seed7-step40"
    plain = LanguageModelAssistant(tiny_model, system_prompt="Be kind.", adapter=tiny_adapter, sampling=SHORT)
    texts = [turn.text for turn in named.assistant.respond(TALKS, seeds=[1, 2])]
    assert texts == [turn.text for turn in plain.respond(TALKS, seeds=[1, 2])]
    base = LanguageModelAssistant(tiny_model, system_prompt="Be kind.", sampling=SHORT)
    assert texts != [turn.text for turn in base.respond(TALKS, seeds=[1, 2])]
    assert named.assistant.fingerprint() == plain.fingerprint()  # by its weights, wherever the folder lies
    assert named.assistant.fingerprint()["adapter"].startswith("sha256:")


def test_a_name_and_a_prompt_that_are_given_win(adapter):
    assert load_assistant(f"mine={adapter}", SHORT).name == "mine"
    clarify = load_assistant(f"{adapter}+clarify", SHORT)
    assert clarify.name == "grpo-Replay-seed7-step40+clarify"
    assert clarify.assistant.assistant.system_prompt != "Be kind."


def test_a_text_that_no_path_can_be_has_no_record():
    assert read_training_record("scripted:" + "long" * 200) is None
    assert load_assistant("scripted:" + "long" * 200, SHORT).assistant.respond(TALKS[:1], seeds=[1])


def test_an_adapter_on_a_server_is_refused(adapter):
    replace(RECORD, base_model="scripted:x").save(adapter)
    with pytest.raises(ConfigurationError, match="a base model in this process"):
        load_assistant(str(adapter), SHORT)


def test_a_whole_model_is_its_own_base(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "final")
    RECORD.save(tmp_path / "final")
    named = load_assistant(str(tmp_path / "final"), SHORT)
    assert named.assistant.assistant.adapter is None
    assert all(turn.calls for turn in named.assistant.respond(TALKS, seeds=[1, 2]))


@pytest.mark.parametrize(("flags", "simulator"), [((), "UserSim-Replay-v0"), (("--trained-on",), "UserSim-Persona-v0")])
def test_a_matrix_knows_name_and_training_simulator_of_a_trained_assistant(
    adapter, tiny_model, scenarios, tmp_path, flags, simulator
):
    path = tmp_path / "scenarios.jsonl"
    path.write_text("".join(json.dumps(scenario.to_json()) + "\n" for scenario in scenarios))
    words = ["matrix", "-o", str(tmp_path / "matrix"), "--assistant", f"base={tiny_model}", "--assistant", str(adapter),
             "--env", "UserSim-Replay-v0", "--env", "UserSim-Persona-v0", "--model", "scripted:fine",
             "--judge", "rubric", "--judge-model", "scripted:x", "--scenarios", str(path), "-n", "2",
             "--max-turns", "1", "--max-new-tokens", "4"]  # fmt: skip
    outcome = CliRunner().invoke(app, [*words, *(word for flag in flags for word in (flag, f"{NAME}={simulator}"))])
    assert outcome.exit_code == 0, outcome.output
    results = json.loads((tmp_path / "matrix" / "results.json").read_text())
    assert results["assistants"] == ["base", NAME]
    assert results["comparisons"]["trained_on"] == {NAME: simulator}


NAME = "grpo-Replay-seed7-step40"
