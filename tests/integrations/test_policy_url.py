"""`simgym play` and rLLM's flow against a policy that really listens."""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from typer.testing import CliRunner

from simgym.cli.main import app
from simgym.errors import ConfigurationError
from simgym.integrations.policy_url import PolicyUrl, play
from simgym.integrations.rllm import SimulatedUserFlow
from simgym.transcripts import read_transcripts

pytest.importorskip("openai")
sys.path.append(str(Path(__file__).resolve().parents[2] / "docs" / "tools"))
from integration_pages import block_of

SETTINGS = {"model": "scripted:seed", "judge": "relevance", "judge_model": "scripted:echo", "max_turns": 3}
FLAGS = [part for name, value in SETTINGS.items() for part in ("--setting", f"{name}={value}")]


@pytest.fixture
def policy(monkeypatch):
    """The URL of a policy that says one thing, or nothing as `mute`; and the requests it was sent."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((dict(self.headers), body))
            says = "" if body["model"] == "mute" else "Sure."
            choice = {"message": {"role": "assistant", "content": says}, "finish_reason": "stop"}
            data = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}/v1", asked=asked)
    server.shutdown()
    server.server_close()


def test_a_policy_hears_the_user_in_the_user_role_and_the_same_seed_gives_the_same_user(policy):
    talks = [
        play(PolicyUrl(base_url=policy.url, model="p", system="Be brief.", headers={"X-Session-Id": "s1"}),
             "UserSim-RolePlay-v0", scenario_id="everyday-creative-010", seed=seed, settings=SETTINGS)
        for seed in (7, 7, 8)
    ]  # fmt: skip
    assert talks[0].conversation == talks[1].conversation != talks[2].conversation
    assert (talks[0].end_reason, talks[0].scenario.id) == ("turn_limit", "everyday-creative-010")
    headers, body = policy.asked[1]
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "user"]
    assert {name.lower(): value for name, value in headers.items()}["x-session-id"] == "s1"


def test_the_documented_block_runs(policy, capsys):
    block = block_of("A program for a trainer's URL").replace("http://127.0.0.1:9000/v1", policy.url)
    exec(compile(block, "docs/integrations.md", "exec"), {})
    reward, *end = capsys.readouterr().out.split()
    assert 0 <= float(reward) <= 1
    assert end == ["turn_limit", "None"]


def test_play_leaves_no_thread_and_no_client_behind(policy):
    before, others = threading.active_count(), set(threading.enumerate())  # of tests before this one
    for number in range(3):
        play(PolicyUrl(base_url=policy.url, model=f"p{number}"), "UserSim-RolePlay-v0", settings=SETTINGS)
    assert not [thread for thread in set(threading.enumerate()) - others if thread.name == "simgym-openai"]
    assert threading.active_count() <= before + 3  # the policy's own


def test_the_command_writes_reward_and_transcript(policy, tmp_path):
    reward, talk = tmp_path / "reward.json", tmp_path / "talk.jsonl"
    command = ["play", "--base-url", policy.url, "--model", "p", "--env", "UserSim-RolePlay-v0", *FLAGS, "--seed", "7",
               "--scenario", "everyday-creative-010", "--header", "X-Session-Id=s1",
               "--reward-file", str(reward), "--transcript", str(talk)]  # fmt: skip
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    (transcript,) = read_transcripts(talk)
    written = json.loads(reward.read_text())
    assert written["reward"] == transcript.reward is not None
    assert (written["turns"], written["end_reason"], written["fault"]) == (3, "turn_limit", None)


def test_a_policy_that_is_away_has_no_reward_and_exit_code_3(tmp_path):
    reward = tmp_path / "reward.json"
    command = ["play", "--base-url", "http://127.0.0.1:9/v1", "--model", "p", "--env", "UserSim-RolePlay-v0", *FLAGS]
    result = CliRunner().invoke(app, [*command, "--reward-file", str(reward)])
    assert result.exit_code == 3, result.output
    assert json.loads(reward.read_text())["reward"] is None


def test_rllms_flow_plays_the_tasks_user_and_explains_a_missing_reward(policy, monkeypatch):
    types = ModuleType("rllm.types")  # rllm is on no package index: these are the shapes that its types have
    types.Trajectory = types.Episode = SimpleNamespace
    monkeypatch.setitem(sys.modules, "rllm", ModuleType("rllm"))
    monkeypatch.setitem(sys.modules, "rllm.types", types)
    config = SimpleNamespace(base_url=policy.url, model="p", session_uid="s")
    row = {"env_id": "UserSim-RolePlay-v0", "scenario_id": "everyday-creative-010", "settings": SETTINGS}
    task = SimpleNamespace(id="1", metadata=row)
    first, second = (SimulatedUserFlow().run(task, config) for _ in range(2))
    (trajectory,) = first.trajectories
    assert trajectory.reward == trajectory.metadata["reward"] is not None
    assert first.metadata == second.metadata  # rollouts of a task meet the same user
    mute = SimpleNamespace(base_url=policy.url, model="mute", session_uid="s")
    (trajectory,) = SimulatedUserFlow().run(task, mute).trajectories
    assert trajectory.reward is None
    assert trajectory.metadata["fault"]


def test_a_scenario_that_does_not_exist_is_refused_before_the_policy_is_asked(policy):
    with pytest.raises(ConfigurationError, match="scenario"):
        play(PolicyUrl(base_url=policy.url, model="p"), "UserSim-RolePlay-v0", scenario_id="nobody", settings=SETTINGS)
    assert policy.asked == []
