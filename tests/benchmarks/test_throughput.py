"""`benchmarks/throughput.py --rehearse` measures all of its parts in small, and goes on where it stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "throughput.py"


@pytest.mark.slow
@pytest.mark.daily
@pytest.mark.timeout(900)
def test_the_rehearsal_writes_every_part_and_measures_nothing_twice(smollm, tmp_path):
    command = [sys.executable, str(BENCHMARK), "--rehearse", "--folder", str(tmp_path)]
    command += ["--only", "simgym", "--only", "generate, batched"]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "rehearsal.json").read_text())
    assert set(result["systems"]) == {"simgym", "generate, batched"}
    assert all(row["conversations_that_differ"] == 0 for row in result["systems"].values())
    assert {"simgym float32", "simgym int8"} <= set(result["phases"])
    assert result["machine_float32"]["tokens_a_second_at_16"] > 0
    assert result["growth"]["simgym"]["turns"] == [1, 2]
    names = [json.loads(line)[0] for path in tmp_path.glob("measurements-*.jsonl") for line in path.open()]
    assert len(names) == len(set(names))
