from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from simgym.cli.main import app
from simgym.errors import ConfigurationError, MalformedFile
from simgym.evaluation import ExperimentConfig
from simgym.experiment import Results, evaluate
from simgym.report.figures import matrix_heatmap_svg
from simgym.report.people import read_people


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMGYM_CACHE", str(tmp_path / "cache"))


def rated(number, assistant, rating):
    return {"participant": f"p{number}", "conversations": [], "arm": [assistant], "rating": {"rating": rating}}


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def records():
    return [rated(number, ("first", "second")[number % 2], 3 + number % 2 * 5 + number % 3 - 1) for number in range(24)]


def config(folder, **changes):
    settings = {"assistants": {"first": "scripted:clarify", "second": "scripted:seed"}, "n": 8, "max_turns": 1,
                "envs": ["UserSim-RolePlay-v0"], "models": ["scripted:seed"], "judge": "relevance",
                "judge_model": "scripted:echo", "output": str(folder)}  # fmt: skip
    return ExperimentConfig.from_mapping({**settings, **changes})


def test_people_are_another_column_of_table_picture_and_file(tmp_path, no_cache):
    path = write(tmp_path / "records.jsonl", [*records(), records()[0], {"participant": "q", "conversations": []}])
    evaluate(config(tmp_path / "run", people=str(path)))
    column = Results.load(tmp_path / "run").matrix.people
    assert column.kind == "ratings"
    assert column.left_out == {"repeated": 1, "without rating or choice": 1}
    assert column.estimates["second"].value > column.estimates["first"].value + 40
    assert column.estimates["first"].n == 12
    agreement = column.agreement["UserSim-RolePlay-v0"]
    assert not agreement.systems.spearman.reliable  # of two assistants
    assert agreement.n_people == 24
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Do they rank assistants as people do?" in page
    assert "people" in matrix_heatmap_svg(Results.load(tmp_path / "run").matrix)
    words = ["--assistant", "first=scripted:clarify", "--assistant", "second=scripted:seed", "-n", "8", "--max-turns",
             "1", "--env", "UserSim-RolePlay-v0", "--model", "scripted:seed", "--judge", "relevance", "--judge-model",
             "scripted:echo", "-o", str(tmp_path / "run"), "--people", str(path)]  # fmt: skip
    outcome = CliRunner().invoke(app, ["matrix", *words])
    assert outcome.exit_code == 0
    assert "RolePlay and people" in outcome.output
    assert "not used: 1 repeated" in outcome.output
    assert "Nobody knows whether this judge prefers what people prefer" in outcome.output
    outcome = CliRunner().invoke(app, ["agree", str(path), "--results", str(tmp_path / "run"), "--json"])
    assert json.loads(outcome.output)["agreement"]["UserSim-RolePlay-v0"]["n_people"] == 24


def test_what_people_said_of_others_is_refused_before_anything_is_run(tmp_path):
    path = write(tmp_path / "records.jsonl", [rated(number, "stranger", 5) for number in range(9)])
    with pytest.raises(ConfigurationError, match="People saw stranger, the matrix has first, second"):
        evaluate(config(tmp_path / "run", people=str(path)))
    assert not (tmp_path / "run" / "transcripts").exists()
    with pytest.raises(MalformedFile, match="A rating is 11"):
        read_people(write(tmp_path / "bad.jsonl", [rated(0, "first", 11)]))
    with pytest.raises(ConfigurationError, match="nobody rated or chose"):
        read_people(write(tmp_path / "none.jsonl", [{"participant": "q", "conversations": []}]))


def test_choices_become_win_rates(tmp_path):
    turns = [{"preference": "model1"}, {"preference": "tie"}]
    talk = {"model1_name": "first", "model2_name": "second", "turns": turns}
    people = read_people(write(tmp_path / "r.jsonl", [{"participant": "p", "conversations": [talk]}]))
    assert people.kind == "choices"
    assert [(rating.system, rating.value) for rating in people.ratings] == [
        ("first", 100), ("second", 0), ("first", 50), ("second", 50)]  # fmt: skip
