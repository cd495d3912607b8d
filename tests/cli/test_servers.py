"""Commands against a server that dies: real sockets, a real process, nothing stored that an outage did."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from warm_python import run_warm

from simgym.transcripts import read_transcripts

SIMGYM = ["-c", "from simgym.cli.main import main; main()"]


class Server:
    """Answers chat completions, and dies for good after so many; can be started again at the same port."""

    def __init__(self) -> None:
        self.port = 0
        self.left = 10**9
        self.quotes_key = False
        self.start()

    def start(self, left: int = 10**9) -> None:
        server, self.left = self, left

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.left -= 1
                if server.left < 0:
                    self.close_connection = True
                    self.connection.close()
                    if server.left == -1:
                        threading.Thread(target=server.stop).start()
                    return
                text = f"Answer {asked.get('seed', 0) % 1000}."
                if server.quotes_key:
                    text += f" Your key: {self.headers['Authorization']}"
                    if asked.get("seed", 0) % 3 == 0:
                        self.send_error(400, f"refused, {self.headers['Authorization']}")
                        return
                choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
                usage = {"prompt_tokens": 7, "completion_tokens": 3}
                body = json.dumps({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage})
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()


Completed = subprocess.CompletedProcess[str]


@pytest.fixture
def server():
    server = Server()
    yield server
    server.stop()


def matrix(server: Server, folder: Path, *words: str, key: str = "none", login: str = "") -> Completed:
    base_url = f"http://{login}127.0.0.1:{server.port}/v1"
    address = {"max_retries": 0, "timeout": 5} | ({} if login else {"base_url": base_url})
    assistant = json.dumps({"kind": "openai", "model": "m", **address})
    command = ["matrix", "--assistant", f"served={assistant}", "--env", "UserSim-RolePlayOpening-v0"]
    command += ["--model", "scripted:seed", "--judge", "relevance", "--judge-model", "scripted:x"]
    command += ["--max-turns", "2", "-n", "8", "--batch-size", "2", "-o", str(folder), *words]
    environment = {**os.environ, "SIMGYM_OUTAGE_WAITS": "0.1", "OPENAI_API_KEY": key, "OPENAI_BASE_URL": base_url}
    return run_warm([*SIMGYM, *command], env=environment)


@pytest.mark.parametrize("words", [(), ("--free-running",)])
def test_a_server_that_dies_in_a_matrix_pauses_it_and_the_same_command_ends_it(server, tmp_path, words):
    server.stop()
    server.start(left=9)
    first = matrix(server, tmp_path / "m", *words)
    assert first.returncode == 3, first.stderr
    assert "Traceback" not in first.stderr
    assert "of 8 conversations are finished and kept" in first.stderr
    (file,) = (tmp_path / "m" / "transcripts").glob("*.jsonl")
    kept = list(read_transcripts(file))
    assert 0 < len(kept) < 8
    assert all(transcript.fault is None for transcript in kept)
    server.start()
    again = matrix(server, tmp_path / "m", *words)
    assert again.returncode == 0, again.stderr
    finished = list(read_transcripts(file))
    assert len(finished) == len(file.read_text().splitlines()) == 8
    assert all(transcript.counts for transcript in finished)
    assert {transcript.content_hash() for transcript in kept} <= {transcript.content_hash() for transcript in finished}


def test_a_dead_server_at_the_start_is_one_sentence_and_nothing_is_written(server, tmp_path):
    server.stop()
    outcome = matrix(server, tmp_path / "m")
    server.start()
    assert outcome.returncode == 3, outcome.stderr
    assert "No connection to 127.0.0.1" in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("login", ["", "somebody:pass-word%21@"])
def test_a_key_is_in_no_file_of_a_run_and_in_no_message_even_if_the_server_quotes_it(server, tmp_path, login):
    key = "sk-do-not-write-me-down"
    server.quotes_key = True
    cache = "--response-cache", str(tmp_path / "cache.sqlite")
    outcome = matrix(server, tmp_path / "m", *cache, key=key, login=login)
    assert outcome.returncode == 0, outcome.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    transcripts = b"".join(path.read_bytes() for path in files if path.suffix == ".jsonl")
    assert (b"Your key: [key]" if login else b"Your key: Bearer [key]") in transcripts
    assert b"refused: " in transcripts
    assert {path.suffix for path in files} >= {".json", ".jsonl", ".html", ".sqlite"}
    secrets = [key, "pass-word", b64encode(b"somebody:pass-word!").decode()]
    written = outcome.stdout.encode() + outcome.stderr.encode() + b"".join(path.read_bytes() for path in files)
    assert not [secret for secret in secrets if secret.encode() in written]
