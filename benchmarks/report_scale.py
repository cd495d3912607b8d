"""What a report of many conversations costs: time, peak memory, and how both grow.

    python benchmarks/report_scale.py

Runs of 2 x 2 cells with 1,000 to 100,000 conversations of three turns in all, whose texts are drawn words (30 of a
user, 80 of an assistant on average) and whose rewards are drawn numbers, are written as `simgym matrix` writes them.
`simgym report` then makes a report of each, in a process of its own, whose peak of memory the kernel tells (`VmHWM`;
that of `getrusage` begins with the memory of whoever started it). Prediction before the first run: time and memory
are linear, for a report reads all conversations before it shows a few. Since a report keeps only what became of them:
time is linear, and memory grows by some 200 bytes a conversation.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from simgym.conversation import INTENT_PREFIX, Conversation, Scenario
from simgym.evaluation.matrix import Cell, summarise_cell
from simgym.report import MatrixResults
from simgym.transcripts import ModelCall, StoredTranscripts, Transcript, write_json

RESULTS = Path(__file__).with_name("results") / "report_scale.json"
SIZES = (1_000, 10_000, 100_000)
ASSISTANTS, SIMULATORS = ("plain", "clarify"), ("UserSim-RolePlay-v0", "UserSim-Persona-v0")
TURNS = 3
REPORT = """
import re, runpy, sys
from pathlib import Path
del sys.argv[0]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
"""
"""The command line, and the most memory that it took, KiB."""


def main() -> None:
    """Write, report, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    rows = []
    for size in sorted(given.sizes):
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            write_run(run, size)
            stored = sum(path.stat().st_size for path in run.rglob("*.jsonl"))
            began = time.perf_counter()
            page = Path(folder) / "report.html"
            program = str(Path(sys.executable).with_name("simgym"))
            command = [sys.executable, "-c", REPORT, program, "report", str(run), "--output", str(page)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            seconds = time.perf_counter() - began
            if done.returncode:
                raise SystemExit(done.stderr[-2000:])
            peak = int(done.stdout.split()[-1]) / 2**20
            page_bytes = page.stat().st_size
        rows.append(
            {
                "conversations": size,
                "stored_mib": round(stored / 2**20, 1),
                "seconds": round(seconds, 2),
                "peak_gib": round(peak, 3),
                "page_mib": round(page_bytes / 2**20, 2),
            }
        )
        print(rows[-1], flush=True)
    write_json(given.output, {"turns": TURNS, "reports": rows})


def write_run(folder: Path, conversations: int) -> None:
    """A finished run of a matrix."""
    (folder / "transcripts").mkdir(parents=True)
    cells = []
    for row, assistant in enumerate(ASSISTANTS):
        for column, simulator in enumerate(SIMULATORS):
            cells.append(_write_cell(folder, assistant, simulator, conversations // 4, seed=2 * row + column))
    results = MatrixResults(
        title="Many conversations",
        question="What does a report of them cost?",
        created="2026-01-01T00:00:00+00:00",
        simgym_version="0",
        seed=0,
        max_turns=TURNS,
        judge="drawn",
        measures="nothing",
        scenario_source="drawn",
        scenarios_n=conversations // 4,
        assistants=ASSISTANTS,
        simulators=SIMULATORS,
        cells=tuple(cells),
        seconds=1.0,
        fingerprints={"judge": {"judge": "drawn"}, "assistants": {}, "simulators": {}},
    )
    write_json(folder / "results.json", results.to_json())


def _write_cell(folder: Path, assistant: str, simulator: str, count: int, *, seed: int) -> Cell:
    path = f"transcripts/{assistant}-{simulator}.jsonl"
    transcripts = _drawn(simulator, count, np.random.default_rng(seed))
    with (folder / path).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(transcript.to_json()) + "\n" for transcript in transcripts)
    return summarise_cell(assistant, simulator, StoredTranscripts(folder / path), path=path, seed=0)


def _drawn(simulator: str, count: int, rng: np.random.Generator) -> Iterator[Transcript]:
    words = np.array([f"{'bcdfghklmnprst'[n % 14]}{'aeiou'[n % 5]}{n:x}" for n in range(20_000)])

    def text(length: int) -> str:
        return " ".join(words[rng.integers(0, len(words), 1 + rng.poisson(length - 1))])

    for number in range(count):
        conversation = Conversation()
        calls = []
        for turn in range(TURNS):
            conversation = conversation.add("user", text(30)).add("assistant", text(80))
            calls.append(
                ModelCall(
                    role="user",
                    turn=turn,
                    seed=0,
                    prompt=text(200),
                    output="o",
                    prompt_tokens=300,
                    completion_tokens=40,
                )
            )
        yield Transcript(
            env_id=simulator,
            scenario=Scenario(f"s{number}", f"{INTENT_PREFIX}{text(20)}", opening=conversation.messages[0].content),
            seed=number,
            conversation=conversation,
            end_reason="turn_limit",
            reward=float(rng.random()),
            calls=tuple(calls),
        )


if __name__ == "__main__":
    main()
