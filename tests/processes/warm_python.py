"""Programs in processes of their own that do not wait for imports.

Torch, transformers and trainers take ten seconds to import, and tests start dozens of programs that need them. A server
imports them once, and runs each program in a fork of itself, as `python SCRIPT ARGUMENTS` or `python -c CODE` would:
`__main__`, arguments, working folder, environment, output and exit status are the program's own. What a program imports
first, and in which order, has to be tested in a Python that is really new; so has what happens when Python takes its
modules apart, which a fork leaves out: it takes two seconds for all that was imported.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import io
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NoReturn

PRELOADED = (
    "simgym.evaluation",
    "simgym.report",
    "simgym.integrations",
    "scipy.stats",
    "pandas",
    "torch.distributed.tensor",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.generation.utils",
    "peft",
    "xgrammar",
    "gymnasium",
    "stable_baselines3",
    "trl",
    "trl.trainer.grpo_trainer",
    "matplotlib.figure",
    "simgym.cli.main",
    "simgym.study.app",
    "simgym.study.serving",
    "uvicorn",
)
"""What exists of these is imported before the first program."""


def run_warm(
    arguments: Sequence[str], *, cwd: str | Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What `python ARGUMENTS` returns and writes; the first argument is a script, or `-c` with code behind it."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        status = _ask({"wait": _begin(arguments, cwd, env, str(out), str(err))})
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in (out, err)]
    return subprocess.CompletedProcess([sys.executable, *arguments], status or 0, *texts)


class WarmProcess:
    """A program that goes on beside the test: what is used of `subprocess.Popen([python, ...], stderr=PIPE)`."""

    def __init__(self, command: Sequence[str], **_: object) -> None:
        with tempfile.TemporaryDirectory() as folder:
            err = Path(folder) / "err"
            os.mkfifo(err)
            self._stderr = os.open(err, os.O_RDONLY | os.O_NONBLOCK)
            self.pid = _begin(command[1:], None, None, os.devnull, str(err))
        self.returncode: int | None = None
        self._said = b""

    @property
    def stderr(self) -> IO[str]:
        return io.StringIO(self._said.decode(errors="replace"))

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _ask({"poll": self.pid})
            with suppress(BlockingIOError):
                while part := os.read(self._stderr, 65536):
                    self._said += part
            if self.returncode is not None:
                os.close(self._stderr)
        return self.returncode

    def wait(self, timeout: float = 600) -> int:
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a warm program", timeout)
            time.sleep(0.005)
        return status

    def communicate(self, timeout: float = 600) -> tuple[None, str]:
        self.wait(timeout)
        return None, self.stderr.read()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run_forked(
    command: Sequence[str], *, stdout: IO[str], cwd: str | Path, **_: object
) -> subprocess.CompletedProcess[str]:
    """In a warm program, for its `subprocess.run([sys.executable, ...], stdout=file)`: in a fork of the program."""
    sys.stdout.flush()
    if (child := os.fork()) == 0:
        job = {"arguments": command[1:], "cwd": str(cwd), "env": dict(os.environ)}
        job |= {"out": stdout.name, "err": stdout.name}
        _run(job, _open(job))
    return subprocess.CompletedProcess(command, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _begin(arguments: Sequence[str], cwd: str | Path | None, env: Mapping[str, str] | None, out: str, err: str) -> int:
    """Begin a program; returns the number of its process."""
    job = {"arguments": list(arguments), "cwd": str(cwd or Path.cwd()), "env": dict(os.environ if env is None else env)}
    process = _ask({**job, "out": out, "err": err})
    assert process is not None
    return process


def _ask(request: Mapping[str, object]) -> int | None:
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    answer = server.stdout.readline()
    assert answer, "the server of warm processes has ended"
    number: int | None = json.loads(answer)
    return number


@functools.cache
def _server() -> subprocess.Popen[str]:
    server = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None
    atexit.register(server.stdin.close)  # its end of input is its end
    return server


def _serve() -> None:
    for name in PRELOADED:
        with suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a program's collector does not go through what was imported, and copy its pages
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    while line := requests.readline():
        job = json.loads(line)
        if (known := job.get("wait") or job.get("poll")) is not None:
            process, status = os.waitpid(known, os.WNOHANG if "poll" in job else 0)
            answer = os.waitstatus_to_exitcode(status) if process else None
        else:
            streams = _open(job)  # before somebody removes what they are called
            if (answer := os.fork()) == 0:
                _run(job, streams)
            for stream in streams:
                os.close(stream)
        answers.write(f"{json.dumps(answer)}\n")
        answers.flush()


def _open(job: Mapping[str, object]) -> list[int]:
    """Standard input, output and errors of a program."""
    writes = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return [os.open(os.devnull, os.O_RDONLY), *(os.open(str(job[name]), writes) for name in ("out", "err"))]


def _run(job: Mapping[str, object], streams: Sequence[int]) -> NoReturn:
    """Be a program from its start to its exit."""
    status = 0
    try:
        _become(job, streams)
    except SystemExit as leaving:
        if leaving.code is not None and not isinstance(leaving.code, int):
            print(leaving.code, file=sys.stderr)
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]  # as Python does: waits for threads
    atexit._run_exitfuncs()
    if (main := sys.modules["__main__"].__dict__) is not globals():
        main.clear()  # closes what the program has left open
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _become(job: Mapping[str, object], streams: Sequence[int]) -> None:
    """Run a program in this process."""
    for descriptor, stream in enumerate(streams):
        os.dup2(stream, descriptor)
        os.close(stream)
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.chdir(str(job["cwd"]))
    os.environ.clear()
    os.environ.update(job["env"])  # type: ignore[call-overload]
    first, *others = job["arguments"]  # type: ignore[misc]
    if first != "-c":
        sys.argv = [first, *others]
        sys.path[0] = str(Path(first).resolve().parent)
        runpy.run_path(first, run_name="__main__")
        return
    code, *others = others
    sys.argv = ["-c", *others]
    sys.path[0] = ""
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(code, "<string>", "exec"), main.__dict__)


if __name__ == "__main__":
    _serve()
