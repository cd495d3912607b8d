"""Ctrl-C while a model's server hangs: every command and recipe ends at once, and what was written can be read."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from urllib.request import Request, urlopen

import gymnasium
import httpx2
import pytest
import yaml
from people import Person, small_study

from simgym import LanguageModelAssistant, collect
from simgym.conversation import INTENT_PREFIX, Conversation
from simgym.data.logged import LoggedConversation
from simgym.data.wildbench import GROUPS
from simgym.study.serving import free_port

pytestmark = pytest.mark.slow
USER = ["--simulator", "role_play", "--model"]
JUDGE = ["--judge", "rubric", "--judge-model"]
SCRIPTED = [*USER, "scripted:hello", *JUDGE, "scripted:x", "-n", "2", "-o"]
COMMANDS = {
    "rollout": ["rollout", "--assistant", "openai:m", *SCRIPTED, "t.jsonl"],
    "matrix": ["matrix", "--assistant", "openai:m", *SCRIPTED, "run"],
    "chat": ["chat", *USER, "openai:m", *JUDGE, "scripted:x"],
    "judge": ["judge", "validate", "pairs.jsonl", *JUDGE, "openai:m"],
    "data intents": ["data", "intents", "logged.jsonl", "--model", "openai:m", "-o", "intents.jsonl"],
    "serve": ["serve", "--openai", *USER[:2], "--model", "openai:m", "--port"],
    "study serve": ["study", "serve", "study.yaml", "--port"],
}
RARELY = {
    "rollout --async": ["rollout", "--async", "--assistant", "openai:m", *SCRIPTED, "t.jsonl"],
    "chat as a user": ["chat", "--as", "user", "--assistant", "openai:m", *JUDGE, "scripted:x"],
    "play": ["play", "--model", "m", "--env", "UserSim-RolePlay-v0", "--setting", "model=scripted:hello",
             "--setting", "judge=rubric", "--setting", "judge_model=scripted:x", "--transcript", "t.jsonl"],
    "rescore": ["rescore", "talked.jsonl", *JUDGE, "openai:m", "-o", "again.jsonl"],
    "agree": ["agree", "rated.jsonl", *JUDGE, "openai:m", "--scores", "scores"],
    "realism": ["realism", "UserSim-RolePlay-v0", "--reference", "known.jsonl", "--model", "openai:m", "-o", "r"],
    "wildbench run": ["wildbench", "run", "--assistant", "openai:m", "--tasks", "tasks.jsonl", "-o", "wildbench"],
    "doctor": ["doctor", "--check-model", "--model", "openai:m"],
    "recipe": ["--model_name_or_path", "MODEL", "--dtype", "float32", "--env_id", "UserSim-RolePlay-v0",
               "--user_model", "openai:m", "--judge", "relevance", "--judge_model", "scripted:x", "--validation", "2",
               "--per_device_train_batch_size", "2", "--num_generations", "2", "--max_steps", "1",
               "--report_to", "none", "--output_dir", "training"],
}  # fmt: skip
"""Once a day."""
LEFT = {"chat": 0, "chat as a user": 0, "study serve": 0}
"""Exit codes where Ctrl-C is the way to leave; 130 everywhere else."""
RECIPE = Path(__file__).parents[2] / "agents" / "grpo.py"
PROGRAM = [sys.executable, "-c", "from simgym.cli.main import main; main()"]


@pytest.fixture
def hanging():
    """The address of a server that takes requests and never answers, and what says that one has come."""
    asked, open_connections = threading.Event(), []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    open_connections.append(connection)
                    connection.recv(65536)
                    asked.set()

        threading.Thread(target=listen, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", asked
        for connection in open_connections:
            connection.close()


@pytest.fixture(scope="module")
def patience():
    """Seconds: 2, or three times what a command takes that does nothing, where the machine is busy."""
    started = time.monotonic()
    subprocess.run([*PROGRAM, "judges"], check=True, stdout=subprocess.DEVNULL)
    return max(2.0, 3 * (time.monotonic() - started))


@pytest.mark.parametrize("command", [*COMMANDS, *(pytest.param(name, marks=pytest.mark.daily) for name in RARELY)])
def test_a_command_whose_model_hangs_ends_within_two_seconds(command, hanging, patience, tmp_path, tiny_model, tried):
    address, asked = hanging
    write_files(tmp_path, address)
    arguments, port = [*PROGRAM, *(COMMANDS | RARELY)[command]], free_port()
    if command == "recipe":
        pytest.importorskip("trl", reason="the extra simgym[train] is not installed")
        arguments[: len(PROGRAM)] = sys.executable, str(RECIPE)
        arguments[arguments.index("MODEL")] = tiny_model
    if arguments[-1] == "--port":
        arguments.append(str(port))
    environment = {**os.environ, "OPENAI_BASE_URL": address, "OPENAI_API_KEY": "none", "NO_PROXY": "127.0.0.1"}
    process = subprocess.Popen(
        arguments,
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # nothing else is interrupted
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's background ignores it
    )
    try:
        if command == "chat as a user":
            process.stdin.write(b"What now?\n")
            process.stdin.flush()
        if command in ASK:
            threading.Thread(target=ASK[command], args=(port, asked), daemon=True).start()
        while not asked.wait(0.5):
            assert process.poll() is None, process.communicate(timeout=1)[0].decode()
        time.sleep(0.2)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=60)[0].decode()
        seconds = time.monotonic() - started
    finally:
        process.kill()
        process.wait()
    assert seconds < patience, output
    assert "Traceback" not in output
    assert process.returncode == LEFT.get(command, 130), output
    for path in tmp_path.rglob("*.jsonl"):  # what was written can be read, and gone on from
        assert all(json.loads(line) for line in path.read_bytes().splitlines()), path
    tried(f"Ctrl-C in `simgym {command}` while a server hangs", 1, f"ended after {seconds:.1f} s")


def write_files(folder, address):
    """What the commands read."""
    (folder / "pairs.jsonl").write_text(json.dumps({"instruction": "a", "chosen": "b", "rejected": "c"}) + "\n")
    talk = Conversation().add("user", "hi").add("assistant", "ho").add("user", "and now").add("assistant", "hm")
    asked_and_told = Conversation().add("user", "What is new in the town today?").add("assistant", "A market opens.")
    asked_and_told = asked_and_told.add("user", "And when does it close?").add("assistant", "It closes at noon.")
    logged = LoggedConversation(id="h", user_key="k", country="c", language="English", conversation=talk, intent=None)
    (folder / "logged.jsonl").write_text(json.dumps(logged.to_json()) + "\n")
    known = replace(logged, intent=f"{INTENT_PREFIX} find out what is new in the town.", conversation=asked_and_told)
    (folder / "known.jsonl").write_text(json.dumps(known.to_json()) + "\n")
    rated = {"conversation": talk.to_json(), "annotations": {"model": "a", "rating": 5}}
    (folder / "rated.jsonl").write_text(json.dumps(rated) + "\n")
    task = {"id": 1, "session_id": "t", "conversation_input": [{"role": "user", "content": "write"}],
            "checklist": ["Is it written?"], "intent": "get a text", "primary_tag": next(iter(GROUPS)),
            "secondary_tags": [], "references": {}}  # fmt: skip
    (folder / "tasks.jsonl").write_text(json.dumps(task) + "\n")
    env = gymnasium.make(
        "UserSim-RolePlay-v0", model="scripted:hello", judge="rubric", judge_model="scripted:x", max_turns=1
    )
    collect(LanguageModelAssistant("scripted:hm"), env, n=1, path=folder / "talked.jsonl")
    study = small_study().model_dump(mode="json")
    study["assistants"] = {name: {"model": f"openai:m@{address}"} for name in study["assistants"]}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))


def take_part(port, asked):
    """Write to a study's assistants, and wait for them as its page does."""
    while not asked.is_set():
        with (
            contextlib.suppress(httpx2.HTTPError, KeyError),
            httpx2.Client(base_url=f"http://127.0.0.1:{port}", follow_redirects=True, timeout=60) as client,
        ):
            person = Person(client)
            person.begin()
            person.do("message", message="What now?")
            client.get("/state")
        time.sleep(0.1)


def ask(port, asked):
    """Ask a server for a user's turn until it has asked its model."""
    content = {"model": "simgym/role_play", "messages": []}
    while not asked.is_set():
        with contextlib.suppress(OSError):
            request = Request(
                f"http://127.0.0.1:{port}/v1/chat/completions",
                json.dumps(content).encode(),
                {"Content-Type": "application/json"},
            )
            urlopen(request, timeout=60)
        time.sleep(0.1)


ASK = {"serve": ask, "study serve": take_part}
"""What makes a server ask its model."""
