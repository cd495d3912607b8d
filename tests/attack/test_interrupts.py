"""Ctrl-C while a model's server hangs: every command ends at once, and says what is kept."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from urllib.request import Request, urlopen

import httpx2
import pytest
import yaml
from people import Person, small_study

from simgym.conversation import Conversation
from simgym.data.logged import LoggedConversation
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


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_whose_model_hangs_ends_within_two_seconds(command, hanging, patience, tmp_path, tried):
    address, asked = hanging
    write_files(tmp_path, address)
    arguments, port = list(COMMANDS[command]), free_port()
    if arguments[-1] == "--port":
        arguments.append(str(port))
    environment = {**os.environ, "OPENAI_BASE_URL": address, "OPENAI_API_KEY": "none", "NO_PROXY": "127.0.0.1"}
    process = subprocess.Popen(
        [*PROGRAM, *arguments],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # nothing else is interrupted
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's background ignores it
    )
    try:
        if command in ASK:
            threading.Thread(target=ASK[command], args=(port, asked), daemon=True).start()
        assert asked.wait(120), process.communicate(timeout=1)[0] if process.poll() is not None else "no request"
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
    tried(f"Ctrl-C in `simgym {command}` while a server hangs", 1, f"ended after {seconds:.1f} s")


def write_files(folder, address):
    """What the commands read."""
    (folder / "pairs.jsonl").write_text(json.dumps({"instruction": "a", "chosen": "b", "rejected": "c"}) + "\n")
    talk = Conversation().add("user", "hi").add("assistant", "ho").add("user", "and now").add("assistant", "hm")
    logged = LoggedConversation(id="h", user_key="k", country="c", language="English", conversation=talk, intent=None)
    (folder / "logged.jsonl").write_text(json.dumps(logged.to_json()) + "\n")
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
