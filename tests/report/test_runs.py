from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from simgym.cli.main import app
from simgym.errors import ConfigurationError, MalformedFile
from simgym.evaluation.curves import read_curve
from simgym.report import join_runs, read_runs, write_report
from simgym.transcripts import Transcript

COMMON = ["--env", "UserSim-Replay-v0", "--env", "UserSim-RolePlayOpening-v0", "--model", "scripted:seed",
          "--judge", "relevance", "--judge-model", "scripted:echo", "--max-turns", "2", "--scenarios", "chitchat",
          "--no-show-conversation"]  # fmt: skip


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    """Make a matrix run of some assistants."""
    base = tmp_path_factory.mktemp("runs")

    def make(name, *assistants, words=()):
        rows = [word for assistant in assistants for word in ("--assistant", assistant)]
        result = CliRunner().invoke(app, ["matrix", *rows, *COMMON, "-n", "4", "-o", str(base / name), *words])
        assert result.exit_code == 0, result.output
        return base / name

    return make


def test_runs_of_the_same_experiment_become_one_compared_matrix(matrix, tmp_path):
    first, second = matrix("first", "initial=scripted:seed"), matrix("second", "other=scripted:echo")
    merged = matrix("both", "initial=scripted:seed", "other=scripted:echo")
    joined = join_runs(read_runs([first, second])[0])
    (alone,) = read_runs([merged])[0]
    assert joined.results.assistants == ("initial", "other")
    assert [cell.estimate for cell in joined.results.cells] == [cell.estimate for cell in alone.results.cells]
    assert joined.results.comparisons == alone.results.comparisons
    output = tmp_path / "joined" / "report.html"
    result = CliRunner().invoke(app, ["report", str(first), str(second), "-o", str(output)])
    assert result.exit_code == 0, result.output
    assert "Difference from initial" in output.read_text(encoding="utf-8")
    assert json.loads((output.parent / "results.json").read_text())["assistants"] == ["initial", "other"]


def test_another_seed_is_shown_with_a_warning_and_not_compared(matrix):
    first, other = matrix("seed 0", "initial=scripted:seed"), matrix("seed 1", "x=scripted:echo", words=["--seed", "1"])
    joined = join_runs(read_runs([first, other])[0]).results
    assert joined.comparisons is None
    assert any("Not comparable: seed 1 and seed 0 differ in seed" in note for note in joined.notes)
    assert len(joined.cells) == 4


def test_conversations_that_are_not_in_the_numbers_are_left_out(matrix):
    matrix("cut", "a=scripted:seed", words=["-n", "6"])
    (run,) = read_runs([matrix("cut", "a=scripted:seed")])[0]
    assert {len(of_cell) for of_cell in run.transcripts.values()} == {4}


def test_two_assistants_of_one_name_are_told_apart(matrix):
    first, other = matrix("one", "a=scripted:seed"), matrix("two", "a=scripted:echo")
    assert join_runs(read_runs([first, other])[0]).results.assistants == ("a", "a (two)")


def test_a_report_reads_a_few_conversations_at_a_time(matrix, tmp_path, monkeypatch):
    folder = matrix("many", "a=scripted:seed", "b=scripted:echo", words=["-n", "40"])
    alive = [0]

    class Watched(Transcript):
        def __new__(cls, *args, **kwargs):
            alive.append(alive[-1] + 1)
            return super().__new__(cls)

        def __del__(self):
            alive.append(alive[-1] - 1)

    monkeypatch.setattr("simgym.transcripts.Transcript", Watched)
    joined = join_runs(read_runs([folder])[0])
    write_report(tmp_path / "report.html", joined.results, joined.transcripts, max_conversations=2)
    shown = 4 * 2 + 2 * 4 * 2  # two of each cell, and of each column up to four pairs
    assert len(alive) > 160
    assert max(alive) <= shown


def test_training_runs_bring_their_curves(matrix, tmp_path):
    (tmp_path / "log.jsonl").write_text('{"update": 1, "reward": 0.2}\n{"update": 2, "reward": null}\n')
    runs, curves = read_runs([matrix("with curve", "a=scripted:seed"), tmp_path])
    assert join_runs(runs, curves).results.curves[0].reward == (20.0,)
    (tmp_path / "log.jsonl").write_text('{"update": 1, "reward": 1.5}\n')
    with pytest.raises(MalformedFile, match=r"line 1: .* an update is 1\.5, expected a number in"):
        read_runs([tmp_path])
    (tmp_path / "log.jsonl").write_text('{"step": 1, "reward": -3.5}\n{"step": 2, "reward": 4.25}\n')
    assert read_curve(tmp_path).reward == (-350.0, 425.0)  # a trainer's return may be a sum
    (tmp_path / "log.jsonl").write_text("[1]\n")
    with pytest.raises(MalformedFile, match="log of a training run"):
        read_runs([tmp_path])


def test_what_is_no_run_is_refused_in_a_sentence(matrix, tmp_path):
    with pytest.raises(ConfigurationError, match="holds neither"):
        read_runs([tmp_path])
    run = matrix("hostile", "a=scripted:seed")
    value = json.loads((run / "results.json").read_text())
    value["cells"][0]["transcripts"] = "../../../etc/passwd"
    (run / "results.json").write_text(json.dumps(value))
    with pytest.raises(MalformedFile, match="outside its folder"):
        read_runs([run])


def test_a_run_that_lost_conversations_is_refused(matrix):
    run = matrix("torn", "a=scripted:seed")
    file = next((run / "transcripts").iterdir())
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(MalformedFile, match="holds 3 conversations"):
        read_runs([run])


def test_a_report_does_not_overwrite_the_numbers_of_a_run(matrix):
    first, second = matrix("keep 1", "a=scripted:seed"), matrix("keep 2", "b=scripted:echo")
    result = CliRunner().invoke(app, ["report", str(first), str(second), "-o", str(first / "report.html")])
    assert result.exit_code == 2
    assert json.loads((first / "results.json").read_text())["assistants"] == ["a"]
