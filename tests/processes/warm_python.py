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
import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
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
)
"""What exists of these is imported before the first program."""


def run_warm(
    arguments: Sequence[str], *, cwd: str | Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What `python ARGUMENTS` returns and writes; the first argument is a script, or `-c` with code behind it."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        job = {
            "arguments": list(arguments),
            "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            "out": str(out),
            "err": str(err),
        }
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        status = server.stdout.readline()
        assert status, "the server of warm processes has ended"
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in (out, err)]
    return subprocess.CompletedProcess([sys.executable, *arguments], int(status), *texts)


def run_forked(
    command: Sequence[str], *, stdout: IO[str], cwd: str | Path, **_: object
) -> subprocess.CompletedProcess[str]:
    """In a warm program, for its `subprocess.run([sys.executable, ...], stdout=file)`: in a fork of the program."""
    sys.stdout.flush()
    if (child := os.fork()) == 0:
        _run(
            {"arguments": command[1:], "cwd": str(cwd), "env": dict(os.environ), "out": stdout.name, "err": stdout.name}
        )
    return subprocess.CompletedProcess(command, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


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
        if (child := os.fork()) == 0:
            _run(job)
        _, status = os.waitpid(child, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
        answers.flush()


def _run(job: Mapping[str, object]) -> NoReturn:
    """Be a program from its start to its exit."""
    status = 0
    try:
        _become(job)
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


def _become(job: Mapping[str, object]) -> None:
    """Run a program in this process."""
    for descriptor, (path, flags) in enumerate(
        (
            (os.devnull, os.O_RDONLY),
            (str(job["out"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND),
            (str(job["err"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        )
    ):
        os.dup2(os.open(path, flags), descriptor)
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
