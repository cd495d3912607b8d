"""Is the batched engine worth it? Ratios measured in one run, with the same work on both sides.

    python benchmarks/throughput/run.py [--model smollm2-135m-instruct] [--repeats 2]

Three questions:

1. Batching: 8 conversations in one vector environment against the same 8 one after another (target: >= 2.5x). Equal
   transcript hashes prove that both did the same work; where rounding made them differ, the count is printed.
2. Memory: four simulators, judge and assistant on one base model against that model loaded alone (target: <= 1.5x peak
   resident memory), each in a process of its own.
3. Overhead: 64 environments with an instant echo model, microseconds per turn and environment (target: <= 200).

Writes `results.json` beside this file.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium

import simgym
from simgym.assistants.language_model_assistant import LanguageModelAssistant
from simgym.language_models.base import Sampling
from simgym.language_models.weights import EMBEDDED
from simgym.transcripts import write_json

CONVERSATIONS, TURNS, ENVIRONMENTS = 8, 2, 64
TRAINABLE = ("UserSim-RolePlay-v0", "UserSim-RolePlayOpening-v0", "UserSim-Persona-v0", "UserSim-Mixture-v0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=EMBEDDED)
    parser.add_argument("--repeats", type=int, default=2, help="interleaved repeats of question 1")
    parser.add_argument("--memory", choices=["alone", "shared"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        print(json.dumps(peak_memory(args.model, args.memory)))
        return
    results = {
        "batching": batching(args.model, args.repeats),
        "memory": memory(args.model),
        "overhead": overhead(),
    }
    print(json.dumps(results, indent=2))
    write_json(Path(__file__).parent / "results.json", results)


def batching(model: str, repeats: int) -> dict[str, Any]:
    """Conversations per minute, batched over one by one, medians of interleaved repeats."""
    assistant = LanguageModelAssistant(model, sampling=Sampling(temperature=0, max_new_tokens=32))
    options = {
        "model": model,
        "judge_model": model,
        "max_turns": TURNS,
        "simulator_options": {"max_new_tokens": 112, "max_attempts": 1},
    }
    env = gymnasium.make(
        "UserSim-Persona-v0", scenarios=simgym.load_scenarios("everyday", limit=CONVERSATIONS), **options
    )
    simgym.collect(assistant, env, n=1)  # loads the weights
    ratios, seconds, different = [], {"batched": [], "one by one": []}, 0
    for _ in range(repeats):
        started = time.perf_counter()
        batched = simgym.collect(assistant, env, batch_size=CONVERSATIONS)
        middle = time.perf_counter()
        single = simgym.collect(assistant, env, batch_size=1)
        ended = time.perf_counter()
        seconds["batched"].append(middle - started)
        seconds["one by one"].append(ended - middle)
        ratios.append((ended - middle) / (middle - started))
        different = sum(a.conversation != b.conversation for a, b in zip(batched, single, strict=True))
    return {
        "ratio_of_conversations_per_minute": round(statistics.median(ratios), 2),
        "all_ratios": [round(ratio, 2) for ratio in ratios],
        "conversations_that_differ_by_rounding": different,
        "conversations": CONVERSATIONS,
        "repeats": repeats,
    }


def memory(model: str) -> dict[str, Any]:
    """Peak resident memory of all roles over that of the model alone."""
    peaks = {}
    for what in ("alone", "shared"):
        command = [sys.executable, __file__, "--memory", what, "--model", model]
        peaks[what] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {"ratio": round(peaks["shared"] / peaks["alone"], 2), "peak_MB": peaks}


def peak_memory(model: str, what: str) -> int:
    """MB of this process after loading the model and answering (alone), or after one round of every role (shared)."""
    assistant = LanguageModelAssistant(model, sampling=Sampling(temperature=0, max_new_tokens=16))
    if what == "alone":
        assistant.respond([simgym.Conversation().add("user", "hello")], seeds=[0])
    else:
        for env_id in TRAINABLE:
            options = {"model": model, "judge_model": model, "max_turns": TURNS}
            bounded = {} if "Mixture" in env_id else {"simulator_options": {"max_new_tokens": 112}}
            scenarios = simgym.load_scenarios("everyday", limit=4)
            simgym.collect(assistant, gymnasium.make(env_id, scenarios=scenarios, **options, **bounded))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def overhead() -> dict[str, Any]:
    """Microseconds per turn and environment spent outside of models."""
    env = gymnasium.make_vec(
        "UserSim-RolePlay-v0",
        num_envs=ENVIRONMENTS,
        vectorization_mode="vector_entry_point",
        model="scripted:seed",
        judge_model="scripted:echo",
        max_turns=5,
    )
    actions = ("And what would you like?",) * ENVIRONMENTS
    env.reset(seed=0)
    samples = []
    for _ in range(20):
        started = time.perf_counter()
        for _ in range(6):
            env.step(actions)
        samples.append((time.perf_counter() - started) / (6 * ENVIRONMENTS) * 1e6)
    return {"microseconds_per_turn_and_environment": round(statistics.median(samples), 1), "environments": ENVIRONMENTS}


if __name__ == "__main__":
    main()
