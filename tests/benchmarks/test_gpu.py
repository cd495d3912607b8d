"""The GPU benchmark runs in small on a CPU, so that a machine lent for minutes is not spent on its mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra simgym[local] is not installed")

from warm_python import run_warm

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"
QUICK = ["machine", "same_text", "seeds", "speed_135m", "speed_random", "kernels", "next_turn", "judging"]


def measure(*arguments):
    return run_warm([str(SCRIPT), "--small", *arguments])


def test_every_section_runs_in_small_and_is_written_down(tiny_model, tmp_path):
    out = tmp_path / "gpu.json"
    outcome = measure("--weights", tiny_model, "--only", ",".join(QUICK), "--out", str(out))
    assert outcome.returncode == 0, outcome.stderr
    report = json.loads(out.read_text())
    assert {name: section.get("error") for name, section in report["sections"].items()} == dict.fromkeys(QUICK)
    assert report["left_out"] == []
    assert report["environment"]["device"] == "cpu"
    assert report["environment"]["versions"]["torch"]
    results = {name: section["result"] for name, section in report["sections"].items()}
    assert results["same_text"]["float32"]["alike"] == 1
    assert all(way["alike"] == 1 for way in results["seeds"]["float32"].values())
    for name in ("speed_135m", "speed_random"):
        assert [row["sequences"] for row in results[name]["rows"]] == [1, 3]
        assert all(row["drawn"]["tokens_per_s"] > 0 for row in results[name]["rows"])
    assert results["next_turn"]["8 GiB"]["cached_tokens"] > results["next_turn"]["0 GiB"]["cached_tokens"] == 0


def test_what_exceeds_the_budget_is_left_out_and_a_failure_does_not_end_the_run(tiny_model, tmp_path):
    out = tmp_path / "gpu.json"
    assert measure("--weights", tiny_model, "--budget", "0", "--only", "seeds", "--out", str(out)).returncode == 0
    assert json.loads(out.read_text())["left_out"] == ["seeds"]
    broken = "judging,machine"
    code = (
        "import sys, runpy; sys.path.insert(0, sys.argv[1]); import gpu_engine\n"
        "gpu_engine.measure_judging = lambda setup: 1 / 0\n"
        "sys.argv = ['gpu.py', *sys.argv[2:]]\n"
        "runpy.run_path(sys.path[0] + '/gpu.py', run_name='__main__')"
    )
    command = ["-c", code, str(SCRIPT.parent), "--small", "--weights", tiny_model]
    assert run_warm([*command, "--only", broken, "--out", str(out)]).returncode == 0
    sections = json.loads(out.read_text())["sections"]
    assert "ZeroDivisionError" in sections["judging"]["error"]
    assert "lambda" in sections["judging"]["traceback"]
    assert "result" in sections["machine"]
