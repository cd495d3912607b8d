"""How much slower a generation becomes beside busy processes, with passive threads and with OpenMP's default.

    python benchmarks/under_load.py

A fresh process loads the default model and writes 8 replies of 24 tokens, three times; the fastest counts. Beside it
run 0, 2 or 8 processes that do nothing but count. `passive` is what simgym sets; `spinning` gives OpenMP the spin count
that it has when nobody sets one. Runs alternate. The fair share of P processors beside B busy processes is
P / (P + B): a run should take at most 1 / share of its time alone. Prints a table and writes
`benchmarks/results/under_load.json`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "under_load.json"
BUSY = (0, 2, 8)
REPEATS = 2
LONGEST = 90.0
"""Seconds after which a run is broken off and counted as that long."""
WAITING = {
    "passive": {},
    "spinning": {"GOMP_SPINCOUNT": "300000"},  # libgomp's own value where neither variable is set
}
WORK = """
import time
from simgym.conversation import Message
from simgym.language_models.base import Request, Sampling
from simgym.language_models.transformers_lm import TransformersLM

model = TransformersLM("smollm2-135m-instruct", kv_cache_gib=0)
few = Sampling(temperature=0, max_new_tokens=24)
requests = [Request((Message("user", f"Tell me about the number {n}."),), few) for n in range(8)]
model.generate(requests[:1])
times = []
for _ in range(3):
    started = time.perf_counter()
    model.generate(requests)
    times.append(time.perf_counter() - started)
print(min(times))
"""


def count_for_ever() -> None:
    """What a busy process does."""
    number = 0
    while True:
        number += 1


def seconds_of_work(waiting: str) -> float:
    """Seconds of the fastest of three generations in a fresh process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, "-c", WORK]
    try:
        outcome = subprocess.run(
            command,
            env={**environment, **WAITING[waiting]},
            capture_output=True,
            text=True,
            check=True,
            timeout=LONGEST,
        )
    except subprocess.TimeoutExpired:
        return LONGEST
    return float(outcome.stdout.split()[-1])


def measure() -> dict[str, dict[str, list[float]]]:
    """Seconds by kind of waiting and number of busy processes."""
    seconds: dict[str, dict[str, list[float]]] = {waiting: {str(busy): [] for busy in BUSY} for waiting in WAITING}
    for _ in range(REPEATS):
        for busy in BUSY:
            others = [multiprocessing.Process(target=count_for_ever, daemon=True) for _ in range(busy)]
            for process in others:
                process.start()
            time.sleep(0.5)
            for waiting in WAITING:
                seconds[waiting][str(busy)].append(round(seconds_of_work(waiting), 3))
            for process in others:
                process.kill()
                process.join()
    return seconds


def main() -> None:
    """Measure, print and write."""
    processors = len(os.sched_getaffinity(0))
    seconds = measure()
    rows: list[dict[str, Any]] = []
    for waiting, by_busy in seconds.items():
        alone = min(by_busy["0"])
        for busy in BUSY:
            slower = min(by_busy[str(busy)]) / alone
            fair = (processors + busy) / processors
            rows.append({"waiting": waiting, "busy": busy, "times_slower": round(slower, 2), "fair": round(fair, 2)})
            least = "at least " if min(by_busy[str(busy)]) == LONGEST else ""
            print(
                f"{waiting:9} beside {busy}: {least}{slower:5.2f} times as long as alone; its share allows {fair:.2f}"
            )
    machine = {"processors": processors, "python": platform.python_version(), "system": platform.platform()}
    RESULTS.write_text(json.dumps({"machine": machine, "seconds": seconds, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
