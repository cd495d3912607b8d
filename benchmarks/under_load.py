"""How much slower a generation becomes beside busy processes, with passive threads and with OpenMP's default.

    python benchmarks/under_load.py

A process loads the default model and then writes 8 replies of 24 tokens beside 0, 2 and 8 processes that do nothing
but count, which begin after the model was loaded. `passive` is what simgym sets; `spinning` gives OpenMP the spin count
that it has when nobody sets one. The fastest of the repeats counts. The fair share of P processors beside B busy
processes is P / (P + B): a run should take at most 1 / share of its time alone. Prints a table and writes
`benchmarks/results/under_load.json`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "under_load.json"
BUSY = (0, 2, 8)
REPEATS = 2
LONGEST = 60.0
"""Seconds after which a generation is broken off and counted as that long."""
WAITING = {
    "passive": {},
    "spinning": {"GOMP_SPINCOUNT": "300000"},  # libgomp's own value where neither variable is set
}
WORK = """
import time
from simgym.conversation import Message
from simgym.language_models import Request, SamplingParams
from simgym.language_models import TransformersLM

model = TransformersLM("smollm2-135m-instruct", kv_cache_gib=0)
greedy = SamplingParams(temperature=0, max_new_tokens=24)
requests = [Request((Message("user", f"Tell me about the number {n}."),), greedy) for n in range(8)]
model.generate(requests)
print("ready", flush=True)
while input():
    started = time.perf_counter()
    model.generate(requests)
    print(time.perf_counter() - started, flush=True)
"""


def count_for_ever() -> None:
    """What a busy process does."""
    number = 0
    while True:
        number += 1


class Worker:
    """A process with the model loaded, which generates when it is told to."""

    def __init__(self, waiting: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORK],
            env={**environment, **WAITING[waiting]},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._output = self._process.stdout
        if self._output is None or self._output.readline() != "ready\n":
            raise RuntimeError("The worker ended before its model was loaded; its error stands above.")

    def seconds(self) -> float:
        """Seconds of one generation; LONGEST if it takes longer, after which the worker has ended."""
        assert self._process.stdin is not None
        assert self._output is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._output], [], [], LONGEST)
        if not ready:
            self.end()
            return LONGEST
        return float(self._output.readline())

    def end(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many other processes that count for ever."""
    others = [multiprocessing.Process(target=count_for_ever, daemon=True) for _ in range(count)]
    for process in others:
        process.start()
    time.sleep(0.5)
    try:
        yield
    finally:
        for process in others:
            process.kill()
            process.join()


def measure() -> dict[str, dict[str, list[float]]]:
    """Seconds by kind of waiting and number of busy processes."""
    seconds: dict[str, dict[str, list[float]]] = {waiting: {str(busy): [] for busy in BUSY} for waiting in WAITING}
    for _ in range(REPEATS):
        for waiting in WAITING:
            for busy in BUSY:
                worker = Worker(waiting)
                with busy_processes(busy):
                    seconds[waiting][str(busy)].append(round(worker.seconds(), 3))
                worker.end()
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
