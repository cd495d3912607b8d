from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from safetensors.numpy import load_file

pytest.importorskip("trl", reason="the extra simgym[train] is not installed")

from warm_python import run_warm

from simgym.assistants.loading import load_assistant
from simgym.assistants.training_record import read_training_record
from simgym.conversation import Conversation
from simgym.language_models.base import SamplingParams

RECIPE = Path(__file__).resolve().parents[2] / "agents" / "grpo.py"


def run(folder, scenarios_file, model, steps, *, fails=False, **more):
    options = {
        "model_name_or_path": model,
        "dtype": "float32",
        "env_id": "UserSim-FineTuned-v0",
        "user_model": model,
        "simulator_options": '{"max_new_tokens": 6}',
        "scenarios": scenarios_file,
        "validation": 2,
        "max_turns": 2,
        "judge": "relevance",
        "judge_model": model,
        "output_dir": folder,
        "max_steps": steps,
        "per_device_train_batch_size": 4,
        "num_generations": 4,
        "max_completion_length": 6,
        "learning_rate": 0.01,
        "lr_scheduler_type": "constant",
        "beta": 0.01,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "num_generations_eval": 1,
        "per_device_eval_batch_size": 2,
        "save_steps": 3,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": "true",
        "use_peft": "true",
        **more,
    }
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    outcome = run_warm(
        [str(RECIPE), *flags, "--lora_target_modules", "q_proj", "v_proj"], env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert (outcome.returncode != 0) == fails, outcome.stderr[-3000:]
    return outcome


class DyingJudge(ThreadingHTTPServer):
    """Grades so many conversations, then refuses connections."""

    daemon_threads = True

    def __init__(self, lives):
        self.lives = lives
        super().__init__(("127.0.0.1", 0), _Grade)


class _Grade(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.lives -= 1
        alive = self.server.lives >= 0
        message = {"role": "assistant", "content": '{"reasons": "fine", "score": 7}'}
        answer = {"id": "x", "object": "chat.completion", "created": 0, "model": "judge",
                  "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}  # fmt: skip
        body = json.dumps(answer if alive else {"error": {"message": "gone"}}).encode()
        self.send_response(200 if alive else 503)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def test_a_judge_that_dies_stops_the_run_with_a_checkpoint_to_go_on_from(tiny_model, scenarios, tmp_path):
    path = tmp_path / "scenarios.jsonl"
    rows = [{**scenario.to_json(), "id": f"{around}{scenario.id}"} for around in "ab" for scenario in scenarios]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    server = DyingJudge(lives=2 + 2 * 4 + 1)  # validation, two steps, and it dies in the middle of the third
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/v1"
    judge = {"kind": "openai", "model": "judge", "base_url": address, "api_key": "none", "max_retries": 0}
    # four steps a pass over the scenarios, so that nothing is validated before the third
    options = {"judge": "rubric", "judge_model": json.dumps(judge), "eval_steps": 4, "save_steps": 100,
               "num_generations": 4, "outage_waits": 0.01}  # fmt: skip
    stopped = run(tmp_path / "run", path, tiny_model, 4, fails=True, **options)
    assert "conversations failed, for want of a server: server: " in stopped.stderr
    assert "stops after step 3" in stopped.stderr  # a batch of which some could be judged was trained on
    assert "Trying again in 0.01 s" in stopped.stderr
    assert (tmp_path / "run" / "checkpoint-3" / "trainer_state.json").is_file()
    server.lives = 10**6
    run(tmp_path / "run", path, tiny_model, 4, **options)
    server.shutdown()
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert sorted(set(steps)) == [0, 1, 2, 3, 4]


def test_a_run_in_two_parts_is_a_run_in_one(tiny_model, scenarios, tmp_path):
    path = tmp_path / "scenarios.jsonl"
    rows = [{**scenario.to_json(), "id": f"{around}{scenario.id}"} for around in "ab" for scenario in scenarios]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(tmp_path / "straight", path, tiny_model, 6)
    run(tmp_path / "parts", path, tiny_model, 3)
    run(tmp_path / "parts", path, tiny_model, 6)
    whole, other = (
        load_file(tmp_path / name / "final" / "adapter_model.safetensors") for name in ("straight", "parts")
    )
    assert all((whole[name] == other[name]).all() for name in whole)
    first, second = (json.loads((tmp_path / name / "checkpoint.json").read_text()) for name in ("straight", "parts"))
    assert list(first["validation_reward"]) == ["0", "3", "6"]
    assert first["validation_reward"] == second["validation_reward"]
    assert first["plateau_onset"] in (0, 3, 6)
    talks = [json.loads(line) for line in (tmp_path / "straight" / "conversations.jsonl").read_text().splitlines()]
    assert {talk["step"] for talk in talks} == {0, 1, 2, 3, 4, 5, 6}
    assert talks[0]["messages"][0]["role"] == "user"
    records = [read_training_record(tmp_path / "parts" / name) for name in ("checkpoint-3", "final")]
    assert [record.name for record in records] == ["grpo-FineTuned-seed42-step3", "grpo-FineTuned-seed42-step6"]
    trained = load_assistant(str(tmp_path / "parts" / "final"), SamplingParams(max_new_tokens=4))
    assert trained.name == records[1].name
    (turn,) = trained.assistant.respond([Conversation().add("user", "hello")], seeds=[1])
    assert turn.calls[0].completion_tokens > 0
