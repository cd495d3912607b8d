"""Contracts with other projects: simgym beside their real package, each in an environment of its own.

A contract test is one call of the fixture `contract`: it makes an environment with `uv` (kept, so that the next run
takes seconds), installs simgym and the other project there, and runs a script with that interpreter. The script asserts
and prints, as its last line, what it asserted. A test is skipped, with the reason, where there is no uv, no package
index or no interpreter; a script that fails is a failure.

    SIMGYM_CONTRACT_ENVIRONMENTS   folder of the environments; default: pytest's cache
    SIMGYM_RECORD_CONTRACTS=1      write what was tested to simgym/integrations/contracts.json, the source of the table
                                   in docs/integrations.md (docs/tools/contracts.py) and of `simgym doctor`
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "simgym" / "integrations" / "contracts.json"
_FRESH_SECONDS = 24 * 3600
"""After this long, an environment without exact versions is brought up to the newest ones."""
_UNREACHABLE = ("Failed to fetch", "error sending request", "Could not connect", "No interpreter found", "dns error")


def _uv() -> list[str]:
    if path := shutil.which("uv"):
        return [path]
    if subprocess.run([sys.executable, "-m", "uv", "--version"], capture_output=True, check=False).returncode == 0:
        return [sys.executable, "-m", "uv"]
    pytest.skip("There is no uv. Run: pip install uv")


def _uv_run(*arguments: str) -> None:
    outcome = subprocess.run([*_uv(), *arguments], capture_output=True, text=True, check=False)
    if outcome.returncode:
        reason = outcome.stderr.strip()[-1500:]
        if any(sign in reason for sign in _UNREACHABLE):
            pytest.skip(f"The environment cannot be made here: {reason}")
        pytest.fail(f"uv {' '.join(arguments)}: {reason}", pytrace=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.contract)
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def contract_environment(pytestconfig: pytest.Config) -> Callable[..., Path]:
    """A function (name, requirements, python=None) -> path of an interpreter that has simgym and the requirements."""
    chosen = os.environ.get("SIMGYM_CONTRACT_ENVIRONMENTS")
    folder = Path(chosen) if chosen else pytestconfig.cache.mkdir("contracts")

    def make(name: str, requirements: Sequence[str], python: str | None = None) -> Path:
        key = json.dumps([sorted(requirements), python, (ROOT / "pyproject.toml").read_text()])
        place = folder / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"
        interpreter, done = place / "bin" / "python", place / "installed"
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{place}.lock"):
            fresh = done.is_file() and time.time() - done.stat().st_mtime < _FRESH_SECONDS
            if not fresh and not (done.is_file() and all("==" in line for line in requirements)):
                if not interpreter.is_file():
                    _uv_run("venv", "--quiet", "--python", python or sys.executable, str(place))
                base = ["pip", "install", "--quiet", "--upgrade", "--python", str(interpreter)]
                _uv_run(*base, "--editable", str(ROOT), *requirements)
                done.write_text("\n".join(requirements))
        return interpreter

    return make


@pytest.fixture
def contract(contract_environment: Callable[..., Path], tmp_path: Path) -> Callable[..., dict[str, object]]:
    """A function that runs one contract and records it.

    Its arguments: `target`, the project's distribution name; `requirements`, an exact version (`verl==0.9.0`) or a
    range of which the newest is taken; `script`, a path beside the tests; `arguments` of the script; `python`, a
    version such as `3.12`; `timeout`, seconds. It returns what the script printed as its last line: a JSON object whose
    `asserted` says in words what was asserted.
    """

    def run(
        target: str,
        requirements: Sequence[str],
        script: Path,
        *,
        arguments: Sequence[str] = (),
        python: str | None = None,
        timeout: float = 300,
    ) -> dict[str, object]:
        interpreter = contract_environment(target, requirements, python)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{interpreter.parent}:{os.environ['PATH']}"}
        started = time.monotonic()
        outcome = subprocess.run(
            [str(interpreter), str(script), *arguments],
            capture_output=True, text=True, check=False, timeout=timeout, cwd=tmp_path, env=environment,
        )  # fmt: skip
        seconds = time.monotonic() - started
        if outcome.returncode:
            pytest.fail(f"{outcome.stdout[-3000:]}\n{outcome.stderr[-5000:]}", pytrace=False)
        printed = json.loads(outcome.stdout.strip().splitlines()[-1])
        if not printed.get("asserted"):
            pytest.fail(f"{script.name} printed no line that says what it asserted.", pytrace=False)
        if os.environ.get("SIMGYM_RECORD_CONTRACTS"):
            _record(target, _version(interpreter, target), printed["asserted"], seconds)
        return printed

    return run


def _version(interpreter: Path, distribution: str) -> str:
    code = "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))"
    return subprocess.check_output([str(interpreter), "-c", code, distribution], text=True).strip()


def _record(target: str, version: str, asserted: str | list[str], seconds: float) -> None:
    with FileLock(f"{RECORD}.lock"):
        rows = json.loads(RECORD.read_text()) if RECORD.is_file() else []
        rows = [row for row in rows if (row["target"], row["version"]) != (target, version)]
        row = {"target": target, "version": version, "asserted": asserted, "seconds": round(seconds, 1)}
        rows = sorted([*rows, row], key=lambda row: (row["target"], row["version"]))
        RECORD.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    Path(f"{RECORD}.lock").unlink(missing_ok=True)
