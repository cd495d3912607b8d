"""The command line and the files it is given: what cannot be written or read is a sentence, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from warm_python import run_warm

SIMGYM = [sys.executable, "-c", "from simgym.cli.main import main; main()"]
ROLLOUT = [
    *("rollout", "--assistant", "scripted:clarify", "--env", "UserSim-RolePlayOpening-v0", "--model", "scripted:seed"),
    *("--judge", "relevance", "--judge-model", "scripted:x", "--max-turns", "2", "-n", "2"),
]


def run(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_warm([*SIMGYM[1:], *map(str, words)], env={**os.environ, **environment})


@pytest.fixture(scope="module")
def talks(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("talks") / "talks.jsonl"
    outcome = run(*ROLLOUT, "-o", path)
    assert outcome.returncode == 0, outcome.stderr
    return path


def assert_sentence(outcome: subprocess.CompletedProcess[str], code: int = 2) -> None:
    assert outcome.returncode == code, outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert outcome.stderr.strip()


def test_a_full_disk_is_a_sentence(talks):
    assert_sentence(run(*ROLLOUT, "-o", "/dev/full"))
    with open("/dev/full", "w") as full:
        outcome = subprocess.run([*SIMGYM, "view", str(talks)], stdout=full, stderr=subprocess.PIPE, text=True)
    assert outcome.returncode == 2
    assert "No space left" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_devices_folders_and_what_lies_below_a_file(talks, tmp_path):
    assert run(*ROLLOUT, "-o", "/dev/null").returncode == 0
    assert_sentence(run(*ROLLOUT, "-o", tmp_path))
    assert_sentence(run(*ROLLOUT, "-o", talks / "below.jsonl"))


def test_a_reader_that_leaves_early_is_no_error_to_speak_of(talks):
    command = f"{sys.executable} -c 'from simgym.cli.main import main; main()' view {talks} | head -n 1"
    outcome = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert outcome.stdout.count("\n") == 1
    assert outcome.stderr == ""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "gbk"])
def test_a_terminal_of_few_characters_shows_the_others_as_question_marks(talks, encoding):
    outcome = subprocess.run(
        [*SIMGYM, "view", str(talks)], capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}
    )
    assert outcome.returncode == 0, outcome.stderr


def test_another_seed_does_not_go_into_the_same_file(talks):
    outcome = run(*ROLLOUT, "--seed", "5", "-o", talks)
    assert_sentence(outcome)
    assert "another seed" in outcome.stderr


def test_a_line_that_stands_twice_is_read_once_and_two_runs_are_not_mixed(talks, tmp_path):
    lines = talks.read_text().splitlines(keepends=True)
    double = tmp_path / "double.jsonl"
    double.write_text("".join([*lines, lines[0]]))
    assert run("view", double).stdout == run("view", talks).stdout
    other = json.loads(lines[0])
    other["reward"] = 0.123
    double.write_text("".join([*lines, json.dumps(other) + "\n"]))
    outcome = run("view", double)
    assert_sentence(outcome)
    assert "lines 1 and 3" in outcome.stderr


def test_a_run_that_fails_at_the_start_leaves_nothing(tmp_path):
    outcome = run(*ROLLOUT, "--judge", "nonsense", "-o", tmp_path / "new" / "talks.jsonl")
    assert_sentence(outcome)
    assert list(tmp_path.iterdir()) == []


def test_a_run_with_nothing_to_do_says_so(talks):
    outcome = run(*ROLLOUT, "-o", talks)
    assert outcome.returncode == 0, outcome.stderr
    assert f"All 2 conversations are already in {talks}; nothing to do." in outcome.stderr


def test_a_matrix_that_another_process_is_writing_is_left_alone(tmp_path):
    words = [word if word != "rollout" else "matrix" for word in ROLLOUT]
    hold = (
        "import sys; from simgym.output_files import lock_output\nwith lock_output(sys.argv[1], folder=True): input(1)"
    )
    command = [sys.executable, "-c", hold, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.read(1)
        outcome = run(*words, "-o", tmp_path / "run")
        other.kill()
    assert_sentence(outcome)
    assert f"is being written by process {other.pid}" in outcome.stderr
    assert run(*words, "-o", tmp_path / "run").returncode == 0
    assert "All 2 conversations are already in" in run(*words, "-o", tmp_path / "run").stderr
