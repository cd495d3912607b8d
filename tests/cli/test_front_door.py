"""What Python can do, from the command line: plug-ins by name or path, catalogues, checks before the first turn."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from simgym.cli.main import app
from simgym.data import find_scenario_set, load_scenarios
from simgym.environment import VARIABLES
from simgym.language_models.loading import clear_language_models
from simgym.transcripts import read_transcripts

JUDGED = ("--judge", "relevance", "--judge-model", "scripted:echo", "--max-turns", 1, "-n", 2)
PLUGINS = """
from simgym.assistants import AssistantTurn
from simgym.judges import Judgement
from simgym.simulators import UserTurn

class Stubborn:
    def __init__(self, *, mood: str = "calm"):
        self.mood = mood
    def open(self, scenarios, *, seeds):
        return [UserTurn(f"I am {self.mood}") for _ in scenarios]
    def reply(self, scenarios, conversations, *, seeds):
        return [UserTurn(f"more, {seed}") for seed in seeds]
    def fingerprint(self):
        return {"simulator": "stubborn", "mood": self.mood}

class Parrot:
    def respond(self, conversations, *, seeds):
        return [AssistantTurn(conversation.messages[-1].content) for conversation in conversations]
    def fingerprint(self):
        return {"assistant": "parrot"}

class Generous:
    def judge(self, scenarios, conversations, *, seeds):
        return [Judgement(1.0) for _ in scenarios]
    def fingerprint(self):
        return {"judge": "generous"}
"""


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("SIMGYM_TRACEBACK", raising=False)
    (tmp_path / "front_door_plugins.py").write_text(PLUGINS)
    monkeypatch.chdir(tmp_path)
    yield lambda *words: CliRunner().invoke(app, [str(word) for word in words])
    clear_language_models()  # connections to servers that are gone


@pytest.fixture
def silent_server():
    """An address at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return f"http://127.0.0.1:{port}/v1"


@pytest.fixture
def server():
    """A server that lists the model `known` and knows no other."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer(200, {"data": [{"id": "known"}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if body["model"] != "known":
                self.answer(404, {"error": {"message": "no such model"}})
            else:
                self.answer(200, {"choices": [{"message": {"content": "Fine."}, "finish_reason": "stop"}]})

        def answer(self, status, value):
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format, *arguments):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()


def test_simulator_assistant_and_judge_of_ones_own_need_no_registration(run, tmp_path):
    result = run(
        "matrix", "--assistant", "bird=py:front_door_plugins:Parrot", "--assistant", "scripted:seed",
        "--simulator", "py:front_door_plugins:Stubborn", "--simulator", "angry=py:front_door_plugins:Stubborn",
        "--simulator-option", "angry:mood=angry", "--simulator", "replay", "--scenarios", "chitchat",
        "--judge", "py:front_door_plugins:Generous", "--max-turns", 1, "-n", 2, "-o", "m", "--no-show-conversation",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    first = {
        path.stem: next(iter(read_transcripts(path)))
        for path in (tmp_path / "m" / "transcripts").iterdir()
        if path.stem.startswith("bird")
    }
    assert {transcript.env_id for transcript in first.values()} == {
        "UserSim-front_door_plugins.Stubborn-v0", "UserSim-angry-v0", "UserSim-Replay-v0",
    }  # fmt: skip
    assert len(first) == 3
    angry = first["bird--UserSim-angry-v0"]
    assert angry.conversation.said_by("assistant") == ["I am angry"]
    assert angry.reward == 1.0


def test_one_simulator_in_a_rollout(run, tmp_path):
    words = ("rollout", "--assistant", "scripted:seed", "--simulator", "py:front_door_plugins:Stubborn", *JUDGED)
    assert run(*words, "-o", "r.jsonl").exit_code == 0
    transcript = next(iter(read_transcripts(tmp_path / "r.jsonl")))
    assert transcript.env_id == "UserSim-front_door_plugins.Stubborn-v0"
    outcome = run(*words, "--env", "UserSim-RolePlay-v0", "-o", "s.jsonl")
    assert (outcome.exit_code, "Give one of them" in outcome.stderr) == (2, True)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (["--simulator", "rolplay"], "Did you mean 'role_play'?"),
        (["--simulator", "py:front_door_plugins:Stuborn"], "Did you mean 'Stubborn'?"),
        (["--simulator", "role_play", "--simulator-option", "temprature=1"], "Did you mean 'temperature'?"),
        (["--simulator", "role_play", "--judge-option", "modell=x"], "Did you mean 'model'?"),
        (["--simulator", "role_play", "--assistant", "openia:x"], "Did you mean 'openai'?"),
        (["--simulator", "fine_tuned", "--model", "openai:m@http://localhost:9/v1"], "needs the model's tokenizer"),
        (["--simulator", "replay", "--scenarios", "everyday"], "no recorded user turns"),
        ([], "Give --env ID or --simulator NAME"),
    ],
)
def test_a_wrong_name_or_a_missing_part_is_one_sentence_and_nothing_is_written(run, tmp_path, wrong, sentence):
    words = ["rollout", "--assistant", "scripted:seed", *JUDGED, "-o", "runs/r.jsonl", *wrong]
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert sentence in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("role", ["assistant", "user", "judge"])
@pytest.mark.parametrize("verb", ["rollout", "matrix"])
def test_a_silent_server_is_one_sentence_exit_code_3_and_no_file(run, tmp_path, silent_server, role, verb):
    dead = f"openai:m@{silent_server}"
    roles = {"assistant": "scripted:seed", "user": "scripted:seed", "judge": "scripted:echo", role: dead}
    result = run(
        verb, "--assistant", roles["assistant"], "--env", "UserSim-RolePlayOpening-v0", "--model", roles["user"],
        "--judge", "relevance" if role != "judge" else "rubric", "--judge-model", roles["judge"],
        "--max-turns", 1, "-n", 1, "--response-cache", "cache/answers.sqlite", "-o", "runs/r",
    )  # fmt: skip
    assert result.exit_code == 3, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    assert "No connection" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".py" and path.name[0] != "_") == []


def test_a_run_that_is_complete_needs_no_server(run, server, tmp_path):
    words = ("rollout", "--env", "UserSim-RolePlayOpening-v0", "--model", "scripted:seed", *JUDGED, "-o", "r.jsonl")
    url = f"http://127.0.0.1:{server.server_port}/v1"
    unknown = run(*words, "--assistant", f"openai:other@{url}", "-o", "other.jsonl")
    assert (unknown.exit_code, "Check the model name 'other'" in unknown.stderr) == (2, True)
    assert not (tmp_path / "other.jsonl").exists()
    first = run(*words, "--assistant", f"openai:known@{url}")
    assert first.exit_code == 0, first.output
    server.shutdown()
    server.server_close()
    assert run(*words, "--assistant", f"openai:known@{url}").exit_code == 0
    assert run(*words, "--assistant", f"openai:known@{url}", "-n", 3).exit_code == 3


def test_rejudge_and_realism_ask_before_they_write(run, silent_server, tmp_path):
    dead = f"openai:m@{silent_server}"
    talks = ("rollout", "--assistant", "scripted:seed", "--simulator", "replay", *JUDGED, "-o", "r.jsonl")
    assert run(*talks).exit_code == 0
    before = sorted(tmp_path.iterdir())
    for words in (
        ("rejudge", "r.jsonl", "-o", "again.jsonl", "--judge", "rubric", "--judge-model", dead),
        ("realism", "UserSim-RolePlay-v0", "--model", dead, "-n", 2, "-o", "realism"),
    ):
        result = run(*words)
        assert result.exit_code == 3, result.output
        assert sorted(tmp_path.iterdir()) == before


def test_the_old_spelling_of_async_still_works(run):
    words = ("rollout", "--assistant", "scripted:seed", "--env", "UserSim-RolePlay-v0", "--model", "scripted:seed")
    for spelling in ("--async", "--free-running"):
        assert run(*words, *JUDGED, spelling, "-o", f"{spelling}.jsonl").exit_code == 0
    assert "--free-running" not in run("rollout", "--help").stdout


def test_catalogues_list_options_and_sets(run):
    simulators = {row["name"]: row for row in json.loads(run("simulators", "--json").stdout)}
    assert simulators["role_play"]["environment"] == "UserSim-RolePlay-v0"
    temperature = next(
        simulator for simulator in simulators["persona"]["options"] if simulator["name"] == "temperature"
    )
    assert (temperature["default"], temperature["type"], temperature["help"] != "") == ("0.7", "float", True)
    assert "judges" in run("judges").stdout
    sizes = {row["name"]: row["size"] for row in json.loads(run("scenarios", "--json").stdout)}
    assert sizes == {
        name: None if find_scenario_set(name).size is None else len(load_scenarios(name))
        for name in ("chitchat", "everyday", "wildchat")
    }


def test_help_names_every_environment_variable(run):
    shown = run("--help").stdout
    assert all(name in shown for name in VARIABLES)


def test_completion_imports_no_torch():
    code = (
        "import sys; from simgym.cli import completion as c; "
        "print(c.complete_env('UserSim-Per'), c.complete_simulator('fine'), c.complete_judge('reward_h'), "
        "c.complete_scenarios('every'), c.complete_assistant('pol'), 'torch' in sys.modules)"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout.split() == [
        "['UserSim-Persona-v0']",
        "['fine_tuned']",
        "['reward_head']",
        "['everyday']",
        "['policy']",
        "False",
    ]
