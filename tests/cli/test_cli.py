from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from simgym.cli.main import app
from simgym.cli.terminal import plain
from simgym.conversation import INTENT_PREFIX, Conversation, Scenario
from simgym.registration import ENVIRONMENTS
from simgym.transcripts import Transcript, TranscriptWriter, read_transcripts

SCRIPTED = ["--model", "scripted:seed", "--judge", "relevance", "--judge-model", "scripted:echo", "--max-turns", "2"]


@pytest.fixture
def run(monkeypatch):
    """Run the command line as in a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("SIMGYM_TRACEBACK", raising=False)

    def invoke(*words, typed=None):
        return CliRunner().invoke(app, [str(word) for word in words], input=typed)

    return invoke


def rollout_words(path, n=3):
    env = "UserSim-RolePlayOpening-v0"
    return ["rollout", "--assistant", "scripted:echo", "--env", env, *SCRIPTED, "-n", n, "-o", path]


def test_help_is_light():
    code = (
        "import sys; from typer.testing import CliRunner; from simgym.cli.main import app; "
        "shown = [CliRunner().invoke(app, [*verb, '--help']).exit_code for verb in ([], ['matrix'], ['chat'])]; "
        "print(shown, [name for name in ('torch', 'transformers', 'scipy', 'matplotlib') if name in sys.modules])"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == "[0, 0, 0] []"


def test_envs_lists_every_id(run):
    listed = json.loads(run("envs", "--json").stdout)
    assert [row["env_id"] for row in listed] == [row.env_id for row in ENVIRONMENTS]
    assert all(row.env_id in run("envs").stdout for row in ENVIRONMENTS)


def test_a_rollout_is_kept_and_a_second_one_adds_nothing(run, tmp_path):
    path = tmp_path / "r.jsonl"
    first = run(*rollout_words(path), "--json")
    assert first.exit_code == 0, first.output
    summary, written = json.loads(first.stdout), path.read_bytes()
    assert summary["counted"] == summary["conversations"] == len(list(read_transcripts(path))) == 3
    again = run(*rollout_words(path))
    assert again.exit_code == 0
    assert path.read_bytes() == written
    assert "3 held, 3 counted" in again.stdout
    assert "not helpfulness" in again.stdout


def test_a_rollout_in_which_nothing_counts_says_so(run, tmp_path):
    words = rollout_words(tmp_path / "r.jsonl")
    words[words.index("scripted:seed")] = "scripted:How can I help you today?"
    result = run(*words)
    assert result.exit_code == 1
    assert "3 x simulator_fault: role_flip" in result.stdout


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (["--env", "UserSim-RolPlay-v0"], "Unknown environment"),
        (["--env", "CartPole-v1"], "Unknown environment 'CartPole-v1'. Known: UserSim-RolePlay-v0"),
        (["--model", "no-such-model"], "Unknown model"),
        (["--scenarios", "everyda"], "Did you mean 'everyday'?"),
        (["--judge", "nobody"], "Unknown judge"),
        (["--simulator-option", "temperature"], "expected KEY=VALUE"),
        (["--simulator-option", "temperature=-1"], "expected >= 0"),
        (["--assistant", "scripted:echo+nothing"], "Unknown system prompt"),
    ],
)
def test_what_cannot_be_used_gives_one_sentence_and_exit_code_2(run, tmp_path, wrong, sentence):
    result = run(*rollout_words(tmp_path / "r.jsonl"), *wrong)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.output
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_matrix_over_an_environment_without_users_is_a_sentence(run, tmp_path):
    result = run("matrix", "--assistant", "scripted:hi", "--env", "CartPole-v1", "-o", tmp_path / "matrix")
    assert (result.exit_code, len(result.stderr.strip().splitlines())) == (2, 1)
    assert "Unknown environment 'CartPole-v1'. Known: UserSim-RolePlay-v0" in result.stderr
    assert not (tmp_path / "matrix").exists()


def test_the_traceback_is_there_for_who_asks(run, tmp_path, monkeypatch):
    monkeypatch.setenv("SIMGYM_TRACEBACK", "1")
    result = run(*rollout_words(tmp_path / "r.jsonl"), "--judge", "nobody")
    assert "Unknown judge" in str(result.exception)


def test_an_interrupted_run_says_that_it_can_be_continued(run, tmp_path, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("simgym.rollout.collect_jobs", interrupt)
    result = run(*rollout_words(tmp_path / "r.jsonl"))
    assert result.exit_code == 130
    assert "run the same command again" in result.stderr


def test_a_matrix_leaves_results_and_a_report_and_fits_the_terminal(run, tmp_path):
    result = run(
        "matrix", "--assistant", "plain=scripted:seed", "--assistant", "asking=scripted:echo+clarify",
        "--env", "UserSim-RolePlay-v0", "--env", "UserSim-Persona-v0", "--model", "scripted:seed",
        "--model", "UserSim-Persona-v0=scripted:echo", "--simulator-option", "UserSim-Persona-v0:temperature=0.5",
        "--judge", "relevance", "--judge-model", "scripted:echo", "--max-turns", 2, "-n", 2,
        "-o", tmp_path / "m", "--no-show-conversation",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "m" / "results.json").read_text())
    assert len(results["cells"]) == 4
    users = results["fingerprints"]["simulators"]
    assert users["UserSim-RolePlay-v0"]["model"]["model"] == "seed"
    assert users["UserSim-Persona-v0"]["model"]["model"] == "echo"
    assert users["UserSim-Persona-v0"]["temperature"] == 0.5
    assert "asking" in (tmp_path / "m" / "report.html").read_text()
    table = result.stdout.partition("Excluded")[0]
    assert max(map(len, table.splitlines())) <= 80
    assert "(2)" in table


def test_a_dry_run_says_what_a_matrix_will_take_and_a_budget_ends_it(run, tmp_path):
    words = ["matrix", "--assistant", "plain=scripted:seed", "--env", "UserSim-RolePlayOpening-v0", *SCRIPTED, "-n", 4,
             "--batch-size", 1, "--price", "user=1,2", "-o", tmp_path / "m", "--no-show-conversation"]  # fmt: skip
    bare = run(*words, "--dry-run")
    assert bare.exit_code == 0, bare.output
    assert "4 planned, 0 held, 4 to go" in bare.stdout
    assert "--pilot" in bare.stderr
    assert not (tmp_path / "m").exists()
    piloted = run(*words, "--dry-run", "--pilot", 2)
    assert "4 planned, 2 held, 2 to go" in piloted.stdout
    assert "cost" in piloted.stdout
    stopped = run(*words, "--max-tokens", 1)
    assert stopped.exit_code == 2
    assert "its limit is 1" in stopped.stderr
    assert run(*words).exit_code == 0
    assert len((tmp_path / "m" / "transcripts" / "plain--UserSim-RolePlayOpening-v0.jsonl").read_text().split()) > 4
    assert run(*words, "--price", "user=dear").exit_code == 2


def test_options_of_a_cluster_are_checked(run, tmp_path):
    words = ["matrix", "--assistant", "scripted:seed", "--env", "UserSim-RolePlayOpening-v0", *SCRIPTED, "-n", 1,
             "-o", tmp_path / "m"]  # fmt: skip
    assert "Give --ray" in run(*words, "--ray-resources", "{}").stderr
    assert "Leave out" in run(*words, "--ray", "local", "--free-running").stderr
    pytest.importorskip("ray", reason="the extra simgym[ray] is not installed")
    wrong = run(*words, "--ray", "local", "--ray-resources", "two")
    assert wrong.exit_code == 2
    assert "JSON object of numbers" in wrong.stderr


def test_a_matrix_works_with_a_real_model(run, tmp_path, tiny_model):
    result = run(
        "matrix", "--assistant", f"tiny={tiny_model}", "--env", "UserSim-RolePlayOpening-v0", "--model", tiny_model,
        "--judge", "relevance", "--judge-model", tiny_model, "--max-turns", 1,
        "--max-new-tokens", 4, "-n", 2, "-o", tmp_path / "m",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "RolePlayOpening" in result.stdout


def test_view_shows_hostile_text_as_text(run, tmp_path):
    hostile = "[red]not red[/red] \x1b[2Jgone \x9b31m \u202etxet\u202c \ud7ff[link=x]"
    path = tmp_path / "t.jsonl"
    with TranscriptWriter(path) as writer:
        writer.append(
            Transcript(
                env_id="UserSim-Replay-v0",
                scenario=Scenario("[bold]id\x07", f"{INTENT_PREFIX}see [blue]this"),
                seed=1,
                conversation=Conversation().add("user", hostile).add("assistant", "[/]"),
                end_reason="turn_limit",
                reward=0.5,
                reasons=("[oops]",),
            )
        )
    result = run("view", path)
    assert result.exit_code == 0, result.output
    for literal in ("[red]not red[/red] \\x1b[2Jgone", "[bold]id", "[blue]this", "[/]", "[oops]", "[link=x]"):
        assert literal in result.stdout
    assert not set(result.stdout) & {"\x1b", "\x07", "\x9b", "\u202e"}


def test_plain_keeps_what_people_write():
    assert plain("née 👩‍👩‍👧 שלום\r\n\ttab") == "née 👩‍👩‍👧 שלום\n\ttab"
    assert plain("a\ud800b") == "a\ufffdb"


def test_view_finds_one_transcript_and_its_calls(run, tmp_path):
    path = tmp_path / "r.jsonl"
    run(*rollout_words(path))
    wanted = list(read_transcripts(path))[2]
    by_index, by_id = run("view", path, "--index", 2), run("view", path, "--scenario-id", wanted.scenario.id, "--calls")
    assert wanted.scenario.id in by_index.stdout
    assert "prompt" in by_id.stdout
    assert "You are the USER in this chat" not in by_index.stdout
    missing = run("view", path, "--index", 7)
    assert missing.exit_code == 2
    assert "It holds 3" in missing.stderr


def test_chat_as_assistant_reveals_the_intent_at_the_end(run):
    result = run("chat", "UserSim-RolePlayOpening-v0", *SCRIPTED, "--seed", 3, typed="hello\n\n[red]more\n")
    assert result.exit_code == 0, result.output
    before, _, after = result.stdout.rpartition("intent")
    assert "intent" not in before
    assert "turn_limit" in after
    assert "reward" in after


def test_chat_as_user_shows_every_answer(run):
    words = [
        "chat",
        "--as",
        "user",
        "--assistant",
        "scripted:seed",
        "--judge",
        "relevance",
        "--judge-model",
        "scripted:echo",
        "--max-turns",
        "2",
    ]
    result = run(*words, "--seed", 3, typed="hello\nand then\n")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("number ") == 2
    assert "turn_limit" in result.stdout
    left = run(*words, typed="hello\n/end\n")
    assert "user_end" in left.stdout


def test_leaving_a_chat_is_not_an_error(run):
    result = run("chat", *SCRIPTED, typed="")
    assert result.exit_code == 0
    assert "You left before the end" in result.stdout


def test_doctor_finds_the_core_and_runs_a_model(run, tiny_model):
    result = run("doctor", "--json", "--check-model", "--model", tiny_model)
    report = json.loads(result.stdout)
    assert result.exit_code == 0, report["problems"]
    assert report["ok"]
    assert report["model"]["tokens"] == 8
    assert {"torch", "gymnasium"} <= {package["name"] for package in report["packages"]}
    tested = {row["name"]: (row["tested"], row["refused"], row["installed"]) for row in report["contracts"]}
    assert tested["verl"] == (["0.9.1"], ["0.9.0"], None)  # tested beside installed
    broken = run("doctor", "--check-model", "--model", "no-such-model")
    assert broken.exit_code == 1
    assert "Unknown model" in broken.stdout


def test_a_judge_is_asked_once_and_its_answers_are_replayed(run, tmp_path):
    talks, cache = tmp_path / "r.jsonl", tmp_path / "answers.sqlite"
    assert run(*rollout_words(talks)).exit_code == 0

    def rejudge(name, model, *words):
        asked = ("--judge", "relevance", "--judge-model", model, "--response-cache", cache, *words)
        return run("rejudge", talks, "-o", tmp_path / name, *asked)

    assert rejudge("first.jsonl", "scripted:clarify").exit_code == 0
    assert rejudge("second.jsonl", "scripted:clarify", "--cache-mode", "replay").exit_code == 0
    rewards = [
        [transcript.reward for transcript in read_transcripts(tmp_path / name)]
        for name in ("first.jsonl", "second.jsonl")
    ]
    assert rewards[0] == rewards[1] != []
    other = rejudge("third.jsonl", "scripted:seed", "--cache-mode", "replay")
    assert other.exit_code == 2
    assert "does not hold" in other.stderr


def test_a_missing_optional_package_is_a_sentence(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "krippendorff", None)
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(f'{{"instruction": "{n}", "chosen": "yes {n}", "rejected": "no"}}\n' for n in range(4)))
    words = ["judge", "validate", pairs, "--judge", "relevance", "--judge-model", "scripted:x", "--retest", 4]
    outcome = run(*words)
    assert outcome.exit_code == 2
    assert "pip install 'simgym[stats]'" in outcome.stderr
