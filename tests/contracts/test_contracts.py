"""Runs each contract in an environment of its own, against the newest and an older release of the real project.

A contract is a test module of this folder; elsewhere than beside its project it is skipped. The environments are made
with `uv` and kept, so that the next run takes seconds. A contract is skipped, with the reason, where there is no uv, no
package index or no interpreter; a test that fails in there fails here.

    SIMGYM_CONTRACT_ENVIRONMENTS   folder of the environments; default: pytest's cache
    SIMGYM_RECORD_CONTRACTS=1      write what was tested to simgym/integrations/contracts.json, the source of the table
                                   in docs/integrations.md (docs/tools/contracts.py) and of `simgym doctor`
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "simgym" / "integrations" / "contracts.json"
_RUNNER = ("pytest", "pytest-timeout", "hypothesis")
_FRESH_SECONDS = 24 * 3600
"""After this long, an environment without exact versions is brought up to the newest ones."""
_UNREACHABLE = ("Failed to fetch", "error sending request", "Could not connect", "No interpreter found", "dns error")

pytestmark = [pytest.mark.slow, pytest.mark.contract, pytest.mark.timeout(1800)]


@dataclass(frozen=True, kw_only=True)
class Contract:
    """One project, and the test module that is its contract."""

    target: str
    """Name on the package index."""
    module: str
    """Test module of this folder."""
    versions: tuple[str, str]
    """The range of which the newest is taken, and an older release."""
    beside: tuple[str, ...] = ()
    """What else the environment needs."""
    python: str | None = None
    """Version of Python; None: that of the tests."""
    quick: bool = False
    """Whether it takes seconds: then the newest release is tested at every change, the older one daily."""


LOCAL = ("torch", "transformers<5.40", "peft", "xgrammar", "gguf")
"""What a model in this process needs."""
CONTRACTS = (
    Contract(target="inspect-ai", module="test_inspect_ai.py", versions=(">=0.3.200,<0.4", "==0.3.200")),
    Contract(target="skyrl-gym", module="test_skyrl.py", versions=(">=0.3,<0.5", "==0.3.0")),
    Contract(
        target="verifiers",
        module="test_verifiers.py",
        versions=(">=0.4,<0.5", "==0.3.1"),
        beside=("fastapi", "uvicorn"),
    ),
    Contract(target="gem-llm", module="test_gem.py", versions=(">=0.0.4,<0.2", "==0.0.4")),
    Contract(
        target="openenv",
        module="test_openenv.py",
        versions=(">=0.10,<0.11", "==0.9.0"),
        beside=("fastapi", "uvicorn"),
    ),
    Contract(target="ray", module="test_rllib.py", versions=(">=2.60,<3", "==2.60.0"), beside=("ray[rllib]", *LOCAL)),
    Contract(
        target="verl",
        module="test_verl.py",
        versions=(">=0.9.1,<0.10", "==0.9.0"),
        beside=("torch", "cachetools", "fastapi", "uvicorn"),
    ),
    Contract(target="mlflow", module="test_mlflow.py", versions=(">=3.10,<4", "==3.10.0")),
    Contract(target="google-adk", module="test_google_adk.py", versions=(">=2.6,<3", "==2.6.0")),
    Contract(target="deepeval", module="test_deepeval.py", versions=(">=4.2,<5", "==4.2.0")),
    Contract(target="openevals", module="test_openevals.py", versions=(">=0.1,<0.3", "==0.1.0"), quick=True),
    Contract(target="langwatch-scenario", module="test_langwatch.py", versions=(">=1.0,<2", "==1.0.0")),
)


CASES = [
    pytest.param(
        contract,
        age,
        id=f"{contract.target}-{age}",
        marks=pytest.mark.quick if contract.quick and age == "newest" else (),
    )
    for contract in CONTRACTS
    for age in ("newest", "older")
]


@pytest.mark.parametrize(("contract", "version"), CASES)
def test_a_project_keeps_its_contract(contract, version, tmp_path, pytestconfig):
    wanted = contract.versions[version == "older"]
    chosen = os.environ.get("SIMGYM_CONTRACT_ENVIRONMENTS")
    folder = Path(chosen) if chosen else pytestconfig.cache.mkdir("contracts")
    interpreter = make_environment(
        folder, contract.target, [f"{contract.target}{wanted}", *contract.beside], contract.python
    )
    report = tmp_path / "report.xml"
    started = time.monotonic()
    command = [interpreter, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    outcome = subprocess.run(
        [*command, f"tests/contracts/{contract.module}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": f"{interpreter.parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert outcome.returncode == 0, f"{outcome.stdout[-6000:]}\n{outcome.stderr[-2000:]}"
    cases = ElementTree.parse(report).iter("testcase")
    passed = [str(case.get("name")) for case in cases if case.find("skipped") is None]
    assert passed, f"Every test of {contract.module} was skipped: {outcome.stdout[-2000:]}"
    if os.environ.get("SIMGYM_RECORD_CONTRACTS"):
        record(contract.target, installed_version(interpreter, contract.target), passed, time.monotonic() - started)


def make_environment(folder: Path, name: str, requirements: Sequence[str], python: str | None) -> Path:
    """The interpreter of an environment that has simgym and the requirements; made, or brought up to date."""
    key = json.dumps([sorted(requirements), python, (ROOT / "pyproject.toml").read_text()])
    place = folder / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"
    interpreter, done = place / "bin" / "python", place / "installed"
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock"):
        exact = done.is_file() and all("==" in line for line in requirements)
        if exact or (done.is_file() and time.time() - done.stat().st_mtime < _FRESH_SECONDS):
            return interpreter
        if not interpreter.is_file():
            run_uv("venv", "--quiet", "--python", python or sys.executable, str(place))
        install = ["pip", "install", "--quiet", "--upgrade", "--python", str(interpreter)]
        run_uv(*install, "--editable", str(ROOT), *_RUNNER, *requirements)
        done.write_text("\n".join(requirements))
    return interpreter


def run_uv(*arguments: str) -> None:
    outcome = subprocess.run([*uv(), *arguments], capture_output=True, text=True, check=False)
    if outcome.returncode:
        reason = outcome.stderr.strip()[-1500:]
        if any(sign in reason for sign in _UNREACHABLE):
            pytest.skip(f"The environment cannot be made here: {reason}")
        pytest.fail(f"uv {' '.join(arguments)}: {reason}", pytrace=False)


@functools.cache
def uv() -> tuple[str, ...]:
    if path := shutil.which("uv"):
        return (path,)
    module = (sys.executable, "-m", "uv")
    if subprocess.run([*module, "--version"], capture_output=True, check=False).returncode:
        pytest.skip("There is no uv. Run: pip install uv")
    return module


def installed_version(interpreter: Path, distribution: str) -> str:
    code = "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))"
    return subprocess.check_output([interpreter, "-c", code, distribution], text=True).strip()


def record(target: str, version: str, passed: Sequence[str], seconds: float) -> None:
    """Replace the row of this target and version."""
    asserted = [name.removeprefix("test_").replace("_", " ") for name in passed]
    row: dict[str, Any] = {"target": target, "version": version, "asserted": asserted, "seconds": round(seconds, 1)}
    if all(" is refused " in sentence for sentence in asserted):
        row["refused"] = True
    with FileLock(Path(tempfile.gettempdir()) / "simgym-contracts.lock"):
        rows = [old for old in json.loads(RECORD.read_text()) if (old["target"], old["version"]) != (target, version)]
        rows = sorted([*rows, row], key=lambda each: (each["target"], each["version"]))
        RECORD.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
