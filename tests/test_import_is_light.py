from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "transformers", "datasets", "scipy", "matplotlib", "peft", "xgrammar")


def test_importing_simgym_registers_the_ids_and_loads_nothing_heavy():
    code = (
        "import sys, simgym, gymnasium; "
        f"print([name for name in {HEAVY} if name in sys.modules], 'UserSim-RolePlay-v0' in gymnasium.registry)"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == "[] True"
