"""What the contracts share: a simulated user and a judge that are rules, so that no contract needs a model.

Each test module needs the package that it is about and runs in an environment of its own; elsewhere it is skipped.
"""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))  # length_judge, seat_contract
sys.path.append(str(Path(__file__).parents[2] / "docs" / "tools"))
from integration_pages import block_of

pytest.register_assert_rewrite("seat_contract")


@pytest.fixture
def settings() -> dict[str, Any]:
    """Arguments of an environment whose user says a number that the seed decides."""
    return {"model": "scripted:seed", "judge": "py:length_judge:LengthJudge", "max_turns": 3}


@pytest.fixture
def env_id() -> str:
    """The user writes an opening of its own, so that even the first turn depends on the seed."""
    return "UserSim-RolePlay-v0"


@dataclass(frozen=True)
class Tutorial:
    """A page of docs/tutorials, whose blocks are run one behind the other in one folder."""

    text: str
    folder: Path

    def blocks(self, language: str) -> list[str]:
        return re.findall(rf"^```{language}\n(.*?)^```", self.text, re.M | re.S)

    def command(self) -> list[str]:
        """The words of its one console block."""
        (block,) = self.blocks("console")
        return shlex.split(block.removeprefix("$ ").replace("\\\n", " "))

    def run(self, block: str) -> str:
        """What a Python block prints."""
        return _run(block, self.folder)


@pytest.fixture
def tutorial(tmp_path: Path) -> Callable[[str], Tutorial]:
    """A tutorial by the name of its file."""
    folder = Path(__file__).parents[2] / "docs" / "tutorials"
    return lambda name: Tutorial((folder / name).read_text(encoding="utf-8"), tmp_path)


@pytest.fixture
def documented(tmp_path: Path) -> Callable[[str], str]:
    """A function that runs the Python block of a section of docs/integrations.md and returns the last line printed."""

    def run(section: str) -> str:
        return _run(block_of(section), tmp_path).strip().splitlines()[-1]

    return run


def _run(block: str, folder: Path) -> str:
    outcome = subprocess.run([sys.executable, "-c", block], cwd=folder, capture_output=True, text=True)
    assert outcome.returncode == 0, f"{block}\n{outcome.stderr[-3000:]}"
    return outcome.stdout


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """A function that runs such a block in this process, without a network, and returns its names.

    What a shell does at the end of a conversation is seen with another model: the names that the block has are called
    again after `simgym.user` was replaced.
    """
    connect = socket.socket.connect

    def only_here(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise ConnectionRefusedError("Contracts use no network.")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_here)
    monkeypatch.chdir(tmp_path)

    def run(section: str) -> dict[str, Any]:
        names: dict[str, Any] = {}
        exec(compile(block_of(section), section, "exec"), names)
        return names

    return run


@pytest.fixture
def played_by(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function after which `simgym.user` seats users of this model and seed, whatever a shell asks for."""
    import simgym

    seat = simgym.user

    def replace(model: Any = "scripted:seed", **options: Any) -> None:
        def user(simulator: Any, scenario: Any, **given: Any) -> Any:
            return seat(simulator, scenario, **{**given, **options, "model": model})

        monkeypatch.setattr(simgym, "user", user)

    return replace


@pytest.fixture
def leaving(played_by: Callable[..., None]) -> Callable[[], None]:
    """A function that makes users write a first message and then leave."""
    from simgym.language_models import ScriptedLM

    def rule(request: Any) -> str:
        answered = any("Sure." in message.content for message in request.messages)
        return "Thanks, bye!<|endconversation|>" if answered else f"number {request.seed}"

    return lambda: played_by(ScriptedLM(rule))


@pytest.fixture
def broken(played_by: Callable[..., None]) -> Callable[[], None]:
    """A function that makes users fail."""
    from simgym.language_models import ScriptedLM

    return lambda: played_by(ScriptedLM(lambda request: ""))
