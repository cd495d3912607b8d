"""`simgym study` from the outside: a study file, a simulated study, its analysis, plans, and wrong input."""

import json
import re

import pytest
from typer.testing import CliRunner

from simgym.cli.main import app


def simgym(*arguments):
    return CliRunner().invoke(app, ["study", *map(str, arguments)])


@pytest.fixture
def study_file(tmp_path):
    path = tmp_path / "study.yaml"
    assert simgym("init", path).exit_code == 0
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("minimum: 5, maximum: 15", "minimum: 2, maximum: 2"), encoding="utf-8")
    return path


def test_a_simulated_study_loses_nothing_and_says_that_it_is_synthetic(study_file, tmp_path):
    result = simgym("simulate", study_file, "-o", tmp_path / "run", "-n", 8, "--doubled", 0.5)
    assert result.exit_code == 0, result.output
    assert "0 disagreements" in result.output
    assert "NOT FROM PEOPLE" in result.output
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert results["flow"]["completed"] == 8
    assert results["kind"] == "synthetic"
    assert "Synthetic" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert simgym("simulate", study_file, "-o", tmp_path / "run").exit_code == 2
    database = f"sqlite:///{tmp_path}/run/study.db"
    assert '"completed": 8' in simgym("status", study_file, "--database", database, "--json").output
    assert "recruits: 8 deleted" in simgym("purge", study_file, "--database", database, "--recruitment", "--yes").output


def test_power_prints_participants_and_what_the_test_itself_would_find():
    result = simgym(
        "power", "--win-rate", ".58", "--turns", "5", "--tie-rate", ".15", "--icc", ".1", "--simulations", 200
    )
    assert result.output.startswith("71 participants per pair")
    assert "simulated power 0." in result.output


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["status", "nowhere.yaml"], "simgym study init"),
        (["power", "--win-rate", "0.5"], "other than 0.5"),
        (["power", "--tie-rate", "0.95"], "rules out"),
    ],
)
def test_wrong_input_is_a_sentence(arguments, match):
    result = simgym(*arguments)
    assert result.exit_code == 2
    assert match in result.output


@pytest.mark.parametrize(
    ("before", "after", "match"),
    [
        ("minimum_words:", "minimum_wrds:", "minimum_wrds: Extra inputs are not permitted"),
        ("- [clarify, initial]", "- [clarify, nobody]", "should name two of the assistants"),
        ("seed: 20260101", "seed: [", "is not YAML"),
        ("model: smollm2-135m-instruct", "revision_of: x", "expected|permitted|needs either"),
    ],
)
def test_a_study_file_that_is_wrong_says_where(study_file, before, after, match):
    text = study_file.read_text(encoding="utf-8")
    study_file.write_text(text.replace(before, after, 1), encoding="utf-8")
    result = simgym("serve", study_file)
    assert result.exit_code == 2

    assert re.search(match, " ".join(result.output.split()))


def test_init_never_overwrites(study_file):
    assert simgym("init", study_file).exit_code == 2
