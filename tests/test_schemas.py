"""The published JSON schemas say what files hold."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jsonschema
import pytest

import simgym
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


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.title)
def test_a_schema_is_one_and_explains_its_fields(form):
    schema = SCHEMAS[form.title]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({}, schema)
