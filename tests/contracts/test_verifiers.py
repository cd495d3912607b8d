from __future__ import annotations

import importlib.metadata
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("verifiers", reason="verifiers has an environment of its own")
IS_OLDER = importlib.metadata.version("verifiers") == "0.3.1"
newest = pytest.mark.skipif(IS_OLDER, reason="refused by simgym")

VF_EVAL = Path(sys.executable).with_name("vf-eval")
TASKSET = """import verifiers.v1 as vf

class Errands(vf.Taskset[vf.Task, vf.TasksetConfig]):
    def load(self):
        rows = [vf.TaskData(idx=i, prompt=f"plan a party for {i + 3} people") for i in range(2)]
        return [vf.Task(row, self.config.task) for row in rows]

__all__ = ["Errands"]
"""


class Policy(BaseHTTPRequestHandler):
    """A policy that says its texts in turn, as server-sent events."""

    texts = itertools.repeat("Sure.")

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "mock"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        message = {"role": "assistant", "content": next(self.texts)}
        events = [
            {**chunk, "choices": [{"index": 0, "delta": message, "finish_reason": None}]},
            {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {**chunk, "choices": [], "usage": usage},
        ]
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for event in [*map(json.dumps, events), "[DONE]"]:
            self.wfile.write(f"data: {event}\n\n".encode())

    def log_message(self, *_):
        pass


def serve(says):
    """The server of a policy that says these texts in turn."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Says", (Policy,), {"texts": itertools.cycle(says)}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture
def evaluate(tmp_path):
    def run(says, *arguments, path=""):
        server = serve([says])
        client = ["--client.base-url", f"http://127.0.0.1:{server.server_port}/v1", "--client.api-key-var", "NONE"]
        fixed = ["--no-push", "-o", "out", "--model", "mock", "--env.assistant.runtime.type", "subprocess"]
        here = os.pathsep.join([str(Path(__file__).parent), str(tmp_path)])
        try:
            outcome = subprocess.run(
                [VF_EVAL, *arguments, *fixed, *client],
                cwd=tmp_path, env={**os.environ, "PYTHONPATH": here}, capture_output=True, text=True, timeout=240,
            )  # fmt: skip
        finally:
            server.shutdown()
        assert outcome.returncode == 0, outcome.stdout[-3000:] + outcome.stderr[-3000:]
        (path,) = (tmp_path / "out").rglob("traces.jsonl")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.unlink()
        return [trace for line in lines for trace in line.get("traces", [line])]

    return run


def spoken(trace):
    return [(node["message"]["role"], node["message"]["content"]) for node in trace["nodes"]]


@newest
def test_rollouts_of_a_task_meet_the_same_user_in_the_user_role_and_reward_and_end_reason_are_on_the_trace(
    evaluate, settings
):
    traces = evaluate(
        "Sure.", "simgym_verifiers", "-n", "2", "-r", "2", "--env.taskset.settings", json.dumps(settings),
    )  # fmt: skip
    talks = {}
    for trace in traces:
        talks.setdefault(trace["info"]["simgym"]["scenario_id"], []).append(spoken(trace))
        assert trace["rewards"]["simgym"]["score"] == pytest.approx(0.6)
        assert trace["info"]["simgym"]["end_reason"] == "turn_limit"
    assert [len(same) for same in talks.values()] == [2, 2]
    first, second = (same for same in talks.values())
    assert first[0] == first[1] != second[0] == second[1]
    assert [role for role, _ in first[0]] == ["user", "assistant"] * 3


@newest
def test_an_unjudged_conversation_has_no_reward(evaluate, settings):
    (trace,) = evaluate("unjudgeable", "simgym_verifiers", "-n", "1", "--env.taskset.settings", json.dumps(settings))
    assert trace["rewards"] == {}
    assert trace["info"]["simgym"]["end_reason"] == "judge_fault"


@newest
def test_verifiers_own_user_sim_plays_against_simgym_serve(evaluate, tmp_path):
    (tmp_path / "errands.py").write_text(TASKSET)
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from simgym.cli.main import main; main()", "serve", "--openai"]
    server = subprocess.Popen([*command, "--model", "scripted:seed", "--port", str(port)], stderr=subprocess.PIPE)
    try:
        assert b"http" in server.stderr.readline()
        traces = evaluate(
            "Sure.", "errands", "--env.id", "user-sim", "-n", "2", "--env.assistant.harness.id", "null",
            "--env.user.runtime.type", "subprocess", "--env.user.model", "simgym/role_play",
            "--env.user.client.type", "eval", "--env.user.client.base-url", f"http://127.0.0.1:{port}/v1",
            "--env.user.client.api-key-var", "NONE", "--env.user.max-turns", "2",
        )  # fmt: skip
    finally:
        server.terminate()
        server.wait(10)
    assert [trace["errors"] for trace in traces] == [[]] * 4
    heard = {text for trace in traces for role, text in spoken(trace) if text.startswith("number ")}
    assert len(heard) >= 4  # the two errands have users of their own


@newest
def test_the_tutorial_runs(tutorial, tmp_path):
    page, server = tutorial("train-verifiers.md"), serve(["Sure.", "What is the occasion?", "No."])
    words = [word.replace("http://127.0.0.1:9000", f"http://127.0.0.1:{server.server_port}") for word in page.command()]
    try:
        outcome = subprocess.run([VF_EVAL, *words[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    finally:
        server.shutdown()
    assert outcome.returncode == 0, outcome.stdout[-3000:] + outcome.stderr[-3000:]
    read, keep = page.blocks("python")
    assert [line.count("0.") for line in page.run(read).splitlines()] == [2, 2]
    assert page.run(keep) == "kept 0\n"  # the scripted judge finds all equal
    groups = json.loads((tmp_path / "groups.json").read_text())
    rollouts = next(iter(groups.values()))
    rollouts[1][0] += 0.1
    (tmp_path / "groups.json").write_text(json.dumps(groups))
    assert page.run(keep) == "kept 1\n"
    (best,) = [json.loads(line)["messages"] for line in (tmp_path / "best.jsonl").read_text().splitlines()]
    assert best == rollouts[1][2]
    assert [message["role"] for message in best] == ["user", "assistant"] * 2


@pytest.mark.skipif(not IS_OLDER, reason="not refused")
def test_an_older_verifiers_is_refused_in_a_sentence_that_names_the_range():
    from simgym.errors import MissingDependency
    from simgym.integrations.verifiers import Scenarios, ScenariosConfig

    with pytest.raises(MissingDependency, match=r"verifiers 0\.3\.1 is installed, simgym works with <0\.5,>=0\.4"):
        list(Scenarios.load(SimpleNamespace(config=ScenariosConfig())))
