"""The published JSON schemas say what files hold."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

import simgym
from simgym.conversation import Conversation
from simgym.data.logged import LoggedConversation
from simgym.evaluation.judge_validation import read_pairs
from simgym.evaluation.labels import append_label

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "docs" / "tools"))
from schemas import FORMATS, schema_of  # noqa: E402

SCHEMAS = {form.title: schema_of(form) for form in FORMATS}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    simgym.evaluate(
        simgym.ExperimentConfig(
            assistants={"first": "scripted:clarify", "second": "scripted:seed"},
            envs=("UserSim-Persona-v0",),
            models=("scripted:seed",),
            judge="relevance",
            judge_model="scripted:echo",
            n=2,
            max_turns=2,
            output=str(folder),
        )
    )
    return folder


@pytest.mark.parametrize(("title", "file"), [("Plan", "plan.json"), ("Results", "results.json")])
def test_a_file_of_a_run_is_what_its_schema_says(title, file, run):
    jsonschema.validate(json.loads((run / file).read_text()), SCHEMAS[title])


def test_transcripts_and_their_scenarios_are_what_their_schemas_say(run):
    lines = [json.loads(line) for path in run.glob("transcripts/*.jsonl") for line in path.read_text().splitlines()]
    assert len(lines) == 4
    for line in lines:
        jsonschema.validate(line, SCHEMAS["Transcript"])
        jsonschema.validate(line["scenario"], SCHEMAS["Scenario"])


def test_a_label_is_what_its_schema_says(tmp_path):
    from conversations import label, labelled, talked

    append_label(tmp_path / "labels.jsonl", label("better", labelled(talked()), labelled(talked(answer="no"), "other")))
    append_label(tmp_path / "labels.jsonl", label(None, labelled(talked())))
    for line in (tmp_path / "labels.jsonl").read_text().splitlines():
        jsonschema.validate(json.loads(line), SCHEMAS["Label"])


def test_written_experiments_and_the_example_study_are_what_their_schemas_say(run):
    jsonschema.validate(yaml.safe_load((run / "experiment.yaml").read_text()), SCHEMAS["Experiment"])
    by_name = {"assistants": ["plain=smollm2-135m-instruct"], "output": "runs/x", "models": {"persona": "openai:m"}}
    assert simgym.ExperimentConfig.from_mapping(by_name).models == ("persona=openai:m",)
    jsonschema.validate(by_name, SCHEMAS["Experiment"])
    jsonschema.validate(yaml.safe_load((ROOT / "simgym/study/study.yaml").read_text()), SCHEMAS["Study"])


def test_what_is_read_line_by_line_is_what_its_schema_says(tmp_path):
    pair = {"instruction": "Name a river.", "chosen": "The Rhine.", "rejected": "Paris.", "rejected_model": "m"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair))
    assert read_pairs(tmp_path / "pairs.jsonl")[0].subset == "m"
    logged = LoggedConversation(
        id="1", user_key="0" * 16, country="", language="English", conversation=Conversation().add("user", "Hello")
    )
    jsonschema.validate(pair, SCHEMAS["Pair of answers"])
    jsonschema.validate(logged.to_json(), SCHEMAS["Logged conversation"])
    for path in (ROOT / "simgym" / "judges" / "heads").glob("*/people.json"):
        jsonschema.validate(json.loads(path.read_text()), SCHEMAS["Judge's record"])


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.title)
def test_a_schema_is_one_and_explains_its_fields(form):
    schema = SCHEMAS[form.title]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({}, schema)
