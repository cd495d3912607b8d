"""An experiment is the same whether it comes from a file, from flags or from Python, and earlier runs go on."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import simgym
from simgym.cli.experiment_flags import read_experiment
from simgym.cli.main import app
from simgym.errors import ConfigurationError
from simgym.evaluation import Experiment, ExperimentConfig, read_plan
from simgym.evaluation.config import FILE_NAME
from simgym.experiment import Results, evaluate

EARLIER = Path(__file__).parent / "earlier_files" / "matrix"
SETTINGS = {
    "assistants": {"first": "scripted:clarify", "second": "scripted:seed"},
    "envs": ["UserSim-RolePlay-v0"],
    "models": ["scripted:seed"],
    "judge": "relevance",
    "judge_model": "scripted:echo",
    "n": 2,
    "max_turns": 2,
}
FLAGS = [
    *("--assistant", "first=scripted:clarify", "--assistant", "second=scripted:seed"),
    *("--env", "UserSim-RolePlay-v0", "--model", "scripted:seed"),
    *("--judge", "relevance", "--judge-model", "scripted:echo", "-n", "2", "--max-turns", "2"),
]


def config(folder, **changes):
    return ExperimentConfig.from_mapping({**SETTINGS, "output": str(folder), **changes})


def run(*arguments):
    return CliRunner().invoke(app, ["matrix", *map(str, arguments)])


def test_a_file_flags_and_python_make_the_same_plan(tmp_path):
    evaluate(config(tmp_path / "python"))
    (tmp_path / "file.yaml").write_text(config(tmp_path / "file").to_yaml())
    assert run("--config", tmp_path / "file.yaml").exit_code == 0
    assert run(*FLAGS, "-o", tmp_path / "flags").exit_code == 0
    plans = [read_plan(tmp_path / name) for name in ("python", "file", "flags")]
    assert len({plan.hash for plan in plans}) == 1
    transcripts = [(tmp_path / name / "transcripts").glob("*.jsonl") for name in ("python", "file", "flags")]
    assert all(path.stat().st_size > 0 for paths in transcripts for path in paths)


def test_the_settings_are_kept_beside_the_results_and_run_again(tmp_path):
    evaluate(config(tmp_path / "run"))
    again = ExperimentConfig.from_yaml(tmp_path / "run" / FILE_NAME)
    assert again == config(tmp_path / "run")
    assert Experiment(again).complete


def test_an_interrupted_run_is_resumed_by_the_settings_in_its_folder(tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(config(tmp_path / "run"), progress=stop)
    assert run("--config", tmp_path / "run" / FILE_NAME).exit_code == 0
    assert Experiment(config(tmp_path / "run")).complete


def test_the_settings_of_another_experiment_are_not_overwritten(tmp_path):
    Experiment(config(tmp_path / "run")).run_pilot(1)
    before = (tmp_path / "run" / FILE_NAME).read_text()
    with pytest.raises(ConfigurationError, match="planned with another seed"):
        evaluate(config(tmp_path / "run", seed=3))
    assert (tmp_path / "run" / FILE_NAME).read_text() == before


def test_a_whole_number_is_the_same_temperature_as_a_decimal_one(tmp_path):
    plans = [Experiment(config(tmp_path / "run", temperature=zero)).run.plan for zero in (0, 0.0)]
    assert plans[0].hash == plans[1].hash


def test_models_are_asked_once_however_often_readiness_is_checked(tmp_path, monkeypatch):
    experiment, asked = Experiment(config(tmp_path / "run")), []
    monkeypatch.setattr(experiment.run, "check_ready", lambda: asked.append(1))
    experiment.check_ready()
    evaluate(experiment)
    assert len(asked) == 1


def test_a_flag_wins_over_the_file(tmp_path):
    (tmp_path / "file.yaml").write_text(config(tmp_path / "run").to_yaml())
    changed = read_experiment(tmp_path / "file.yaml", {"seed": 3, "n": None, "retry_faults": []})
    assert changed == config(tmp_path / "run", seed=3)


def test_no_async_wins_over_a_file_that_says_async(tmp_path):
    (tmp_path / "file.yaml").write_text(config(tmp_path / "run", asynchronous=True).to_yaml())
    assert run("--config", tmp_path / "file.yaml", "--no-async").exit_code == 0
    assert not ExperimentConfig.from_yaml(tmp_path / "run" / FILE_NAME).asynchronous


def test_a_run_of_an_earlier_version_is_complete_and_can_grow(tmp_path):
    shutil.copytree(EARLIER, tmp_path / "run")
    before = read_plan(tmp_path / "run").hash
    experiment = Experiment(config(tmp_path / "run"))
    assert experiment.complete
    assert experiment.run.plan.hash == before
    results = evaluate(config(tmp_path / "run", n=3))
    assert [cell.conversations for cell in results.matrix.cells] == [3, 3]
    kept = (EARLIER / "transcripts" / "first--UserSim-RolePlay-v0.jsonl").read_text()
    assert (tmp_path / "run" / "transcripts" / "first--UserSim-RolePlay-v0.jsonl").read_text().startswith(kept)


def test_python_takes_objects_which_no_file_can_name(tmp_path, scripted_assistant):
    experiment = config(tmp_path / "run", assistants={"mine": scripted_assistant})
    results = evaluate(experiment)
    assert results.matrix.assistants == ("mine",)
    assert not (tmp_path / "run" / FILE_NAME).exists()
    with pytest.raises(ConfigurationError, match=r"'mine' is an object.*py:module:Class"):
        experiment.to_yaml()


@pytest.fixture
def scripted_assistant():
    from simgym.assistants import LanguageModelAssistant
    from simgym.language_models import load_language_model

    return LanguageModelAssistant(load_language_model("scripted:seed"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"juge": "relevance"}, "Unknown setting 'juge'. Did you mean 'judge'"),
        ({"assistants": {}}, "There is no assistant"),
        ({"assistants": ["a=scripted:x", "a=scripted:y"]}, "Two assistants have the same name"),
        ({"n": 0}, "n is 0, expected a whole number of at least 1"),
        ({"n": "three"}, "n is 'three', expected a whole number"),
        ({"temperature": float("nan")}, "temperature is nan, expected a number of at least 0"),
        ({"cache_mode": "reccord"}, "Unknown cache_mode 'reccord'. Did you mean 'record'"),
        ({"asynchronous": "yes"}, "asynchronous is 'yes', expected true or false"),
        ({"envs": [7]}, "envs is .7., expected a list of texts"),
        ({"prices": {"judge": 1}}, "prices is .*expected a mapping of roles"),
        ({"output": None}, "The experiment has no output"),
    ],
)
def test_what_is_wrong_is_a_sentence(tmp_path, changes, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        config(tmp_path, **changes)


@pytest.mark.parametrize("content", ["- a\n- b\n", "7", "assistants: {", "\0", "a: !!python/object:os.system {}"])
def test_a_file_of_something_else_is_a_sentence_that_names_it(tmp_path, content):
    path = tmp_path / "file.yaml"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=r"file\.yaml"):
        ExperimentConfig.from_yaml(path)
    assert run("--config", path).exit_code == 2


NAMES = st.text("abcdefgh", min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    assistants=st.dictionaries(NAMES, NAMES.map(lambda name: f"scripted:{name}"), min_size=1, max_size=3),
    options=st.dictionaries(NAMES, st.one_of(st.integers(), st.text(max_size=5), st.booleans()), max_size=3),
    seed=st.integers(0, 2**40),
    temperature=st.floats(0, 2),
    limit=st.one_of(st.none(), st.integers(1, 99)),
)
def test_any_experiment_survives_its_file(tmp_path_factory, assistants, options, seed, temperature, limit):
    experiment = ExperimentConfig(
        assistants=assistants, output="run", simulator_options=options, seed=seed, temperature=temperature, n=limit
    )
    path = tmp_path_factory.mktemp("experiment") / "file.yaml"
    path.write_text(experiment.to_yaml(), encoding="utf-8")
    assert ExperimentConfig.from_yaml(path) == experiment


def test_results_are_tables_a_report_and_readable(tmp_path):
    evaluate(config(tmp_path / "run", assistants={"<b>": "scripted:clarify", "second": "scripted:seed"}))
    results = Results.load(tmp_path / "run")
    tables = results.to_pandas()
    assert list(tables.cells.conversations) == [2, 2]
    assert list(tables.comparisons.assistant) == ["second"]
    assert len(tables.conversations) == 4
    assert not math.isnan(tables.conversations.reward.iloc[0])
    written = json.loads((tmp_path / "run" / "results.json").read_text())
    assert tables.cells["mean"].tolist() == [cell["estimate"]["value"] for cell in written["cells"]]
    assert "<b>" not in results._repr_html_()
    assert "&lt;b&gt;" in results.matrix._repr_html_()
    assert "<td>UserSim-RolePlay-v0</td>" in results.matrix.comparisons._repr_html_()
    assert results.report(tmp_path / "elsewhere.html").read_text().startswith("<!doctype html>")
    assert repr(results).startswith("Results(<b>/UserSim-RolePlay-v0 ")


def test_it_is_among_the_main_names():
    assert simgym.evaluate is evaluate
    assert simgym.ExperimentConfig is ExperimentConfig
