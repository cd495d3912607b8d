"""How near does an asynchronous collection against servers come to the shortest time in which it could be done?

    python benchmarks/server_collection.py

Conversations with a role-playing user, a model as the assistant and a rubric judge, 512 at a time from one process, all
behind a simulated server: lognormal latencies, 1 % of the requests answered with 503 (`simulated_server.py`). Perfect
packing is what a scheduler without any cost would take that begins the next conversation in the moment in which one has
ended: the latencies that the server has drawn, failed requests and their repetitions included, but no pause before a
repetition and no work of the client. The aim is 90 % of it. Beside it, the same latencies in step: batches of 512 that
wait for the slowest at each turn, computed, not run. Prints and writes `benchmarks/results/server_collection.json`.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import platform
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import gymnasium as gym
from simulated_server import Latency, Served, ServerConfig, simulated_server

import simgym
from simgym.conversation import INTENT_PREFIX, Scenario

RESULTS = Path(__file__).parent / "results" / "server_collection.json"
LATENCIES = {"assistant": Latency(12.0, 0.6), "user": Latency(6.0, 0.5), "judge": Latency(6.0, 0.5)}
"""Seconds of a large model that writes some hundred tokens to each of hundreds of requests at a time."""
FAILURES = 0.01
TURNS = 2


def scenario(number: int) -> Scenario:
    """A scenario whose number stands in its intent and its opening."""
    wish = f"finish conversation {number} about a garden that has a river and a window"
    return Scenario(
        id=f"c{number}", intent=INTENT_PREFIX + wish, opening=f"hello, this is conversation {number}", source="made"
    )


def collect(url: str, count: int, at_once: int, path: Path) -> tuple[float, int, list[simgym.Transcript]]:
    """Seconds, the most threads, and the transcripts of a collection."""
    model = {"kind": "openai", "model": "m", "base_url": url, "max_concurrency": at_once}
    env = gym.make(
        "UserSim-RolePlayOpening-v0",
        model=model,
        judge="rubric",
        judge_model=model,
        scenarios=[scenario(number) for number in range(count)],
        max_turns=TURNS,
    )
    assistant = simgym.LanguageModelAssistant(model)
    most, ended = 0, threading.Event()

    def count_threads() -> None:
        nonlocal most
        while not ended.wait(0.5):
            most = max(most, threading.active_count())

    watch = threading.Thread(target=count_threads)
    watch.start()
    began = time.perf_counter()
    try:
        transcripts = simgym.collect(assistant, env, batch_size=at_once, asynchronous=True, path=path)
    finally:
        ended.set()
        watch.join()
    return time.perf_counter() - began, most - 1, transcripts


def perfect(served: list[Served], at_once: int) -> float:
    """Seconds that the conversations take if one begins in the moment in which another has ended."""
    chains: dict[int, float] = defaultdict(float)
    for request in served:
        chains[request.conversation] += request.seconds
    ends = [0.0] * at_once
    for number in sorted(chains):
        heapq.heappush(ends, heapq.heappop(ends) + chains[number])
    return max(ends)


def in_step(served: list[Served], at_once: int) -> float:
    """Seconds of batches in which everybody waits for the slowest of each step."""
    chains: dict[int, list[float]] = defaultdict(list)
    for request in sorted(served, key=lambda request: request.began):
        chains[request.conversation].append(request.seconds)
    total, numbers = 0.0, sorted(chains)
    for start in range(0, len(numbers), at_once):
        batch = [chains[number] for number in numbers[start : start + at_once]]
        steps = max(len(chain) for chain in batch)
        total += sum(max(chain[step] for chain in batch if step < len(chain)) for step in range(steps))
    return total


def measure(count: int, at_once: int) -> dict[str, Any]:
    """One run and what it is compared with."""
    with tempfile.TemporaryDirectory() as folder:
        config = ServerConfig(LATENCIES, failures=FAILURES)
        with simulated_server(config) as (url, log):
            before = time.process_time()
            seconds, threads, transcripts = collect(url, count, at_once, Path(folder) / "transcripts.jsonl")
            cpu = time.process_time() - before
    shortest, stepwise = perfect(log.served, at_once), in_step(log.served, at_once)
    return {
        "conversations": count,
        "at_once": at_once,
        "requests": len(log.served),
        "answered_503": sum(request.status == 503 for request in log.served),
        "end_reasons": dict(Counter(transcript.end_reason for transcript in transcripts)),
        "threads": threads,
        "seconds": round(seconds, 2),
        "client_cpu_ms_per_request": round(1000 * cpu / len(log.served), 2),
        "perfect_seconds": round(shortest, 2),
        "in_step_seconds": round(stepwise, 2),
        "share_of_perfect": round(shortest / seconds, 3),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=1536)
    parser.add_argument("--at-once", type=int, default=512)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    row = measure(args.conversations, args.at_once)
    print(
        f"{row['conversations']} conversations, {row['at_once']} at once in {row['threads']} threads: "
        f"{row['seconds']:.1f} s for {row['requests']} requests ({row['answered_503']} answered with 503).\n"
        f"Perfect packing takes {row['perfect_seconds']:.1f} s: {row['share_of_perfect']:.1%} of it is reached. "
        f"In step it would be {row['in_step_seconds']:.1f} s. A request costs this process "
        f"{row['client_cpu_ms_per_request']:.1f} ms of processor time."
    )
    latencies = {role: {"median": kind.median, "sigma": kind.sigma} for role, kind in LATENCIES.items()}
    machine = {"processors": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()}
    result = {"machine": machine, "latencies": latencies, "failures": FAILURES, "turns": TURNS, "run": row}
    args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
