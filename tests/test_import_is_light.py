from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {
    *(
        "torch",
        "transformers",
        "datasets",
        "scipy",
        "statsmodels",
        "pandas",
        "sklearn",
        "matplotlib",
        "peft",
        "xgrammar",
    ),
    *("openai", "ray", "trl", "stable_baselines3", "fastapi", "sqlalchemy"),
}
PACKAGES = sorted(f"simgym.{path.parent.name}" for path in (ROOT / "simgym").glob("*/__init__.py"))


def modules_after(code: str) -> list[str]:
    """What a fresh interpreter has imported after the code."""
    code = f"{code}; import json, sys; print(json.dumps(list(sys.modules)))"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(outcome.stdout)


def test_importing_simgym_registers_the_ids_and_loads_next_to_nothing_of_its_own():
    loaded = modules_after("import simgym, gymnasium; assert 'UserSim-RolePlay-v0' in gymnasium.registry")
    assert not HEAVY & set(loaded)
    own = {name for name in loaded if name.partition(".")[0] == "simgym"}
    assert own == {"simgym", "simgym._exports", "simgym.registration", "simgym.errors"}


def test_importing_every_sub_package_loads_nothing_heavy():
    assert len(PACKAGES) > 10
    assert not HEAVY & set(modules_after(f"import {', '.join(PACKAGES)}"))
