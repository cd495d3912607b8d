"""What `throughput.py` makes of its measurements: ratios within a repeat, tokens a second, growth, overhead, memory."""

from __future__ import annotations

import itertools
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from throughput_systems import NEW_TOKENS

from simgym.machine import describe_machine

PHASES = (
    "simgym float32",
    "simgym bfloat16-mixed",
    "simgym int8",
    "simgym OpenVINO",
    "simgym int8 OpenVINO",
    "vLLM",
    "vLLM compiled",
    "llama.cpp float32",
    "llama.cpp Q8_0",
    "OpenVINO float32",
    "OpenVINO Q8_0",
)
ON_SERVER = {
    "threads": (),
    "threads, continuous batching": ("--continuous-batching", "--cb-block-size", "32", "--cb-num-blocks", "1024"),
    "skyrl-gym": (),
}
"""Options of the server. Its own size of a page, 256 tokens, would share next to nothing of these prefixes."""
GROWTH = {"simgym": (8, 32), "generate": (1, 16)}
"""Conversations whose growth is measured, and most turns of them."""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    conversations: int = 16
    turns: int = 5
    growth: tuple[int, ...] = (2, 4, 8, 16, 32)
    """Turns of the conversations whose time is compared."""
    environments: tuple[int, ...] = (1, 64, 1024)
    length: int = 256
    """Tokens of a prompt in `phases`."""
    written: int = 64
    """Tokens that are written there."""


def complete(measurements: dict[str, Any], names: Sequence[str]) -> int:
    """Repeats that hold all of these."""
    return next(repeat for repeat in itertools.count() if not all(f"{name} {repeat}" in measurements for name in names))


def put_together(measurements: dict[str, Any], size: Size, systems: Sequence[str]) -> dict[str, Any]:
    """Ratios, tokens, growth, overhead, memory, and what they were measured on: of all complete repeats."""
    result: dict[str, Any] = {}
    repeats = complete(measurements, systems)
    if repeats:
        runs = {name: [measurements[f"{name} {repeat}"] for repeat in range(repeats)] for name in systems}
        reference = runs[systems[0]]
        least = reference[0].get("distinct")
        result["work"] = {
            "conversations": size.conversations,
            "assistant_turns": size.turns,
            "user_turns": size.turns - 1,
            "max_new_tokens": NEW_TOKENS,
            "tokens_read_by_requests": reference[0].get("asked", {}).get("read"),
            "tokens_written": reference[0]["written"],
            "distinct_tokens": least,
            "repeats": repeats,
        }
        result["systems"] = {name: row(repetitions, reference, least) for name, repetitions in runs.items()}
    measured = [f"phases {name}" for name in PHASES if f"phases {name} 0" in measurements]
    if repeats := complete(measurements, ["limits", *measured]):
        result |= phases(measurements, repeats)
    if "memory shared" in measurements:
        alone, shared = (measurements[f"memory {what}"]["peak_mb"] for what in ("alone", "shared"))
        result |= {
            "growth": {system: growth(measurements, system, size) for system in GROWTH},
            "microseconds_a_turn": {
                name.removeprefix("overhead "): round(statistics.median(measurement["microseconds"]), 1)
                for name, measurement in measurements.items()
                if name.startswith("overhead ")
            },
            "process_with_all_roles_over_model_alone": round(shared / alone, 2),
        }
    return result | {
        "environment": {
            **describe_machine(),
            "platform": platform.platform(),
            "server_options": {name: list(options) for name, options in ON_SERVER.items()},
            "versions": {
                name: measurement["version"]
                for measurement in measurements.values()
                if (name := measurement.get("package"))
            }
            | {name: version(name) for name in ("torch", "transformers", "gymnasium", "numpy", "openai")},
        },
    }


def row(
    repetitions: Sequence[dict[str, Any]], reference: Sequence[dict[str, Any]], least: int | None
) -> dict[str, Any]:
    """One system in all repeats."""
    ratios = [run["seconds"] / mine["seconds"] for run, mine in zip(repetitions, reference, strict=True)]
    differ = [
        sum(own != other for own, other in zip(run["said"], mine["said"], strict=True))
        for run, mine in zip(repetitions, reference, strict=True)
    ]
    distinct = repetitions[0].get("distinct") or least  # of its own texts, where they are others
    processed = None if repetitions[0]["processed"] is None else max(run["processed"] for run in repetitions)
    return {
        "seconds": [round(run["seconds"], 1) for run in repetitions],
        "tokens_written": repetitions[0]["written"],
        "written_a_second": round(statistics.median(run["written"] / run["seconds"] for run in repetitions), 1),
        "times_as_long_as_simgym": {
            "median": round(statistics.median(ratios), 2),
            "lowest": round(min(ratios), 2),
            "highest": round(max(ratios), 2),
        },
        "hashes": sorted({run["hash"] for run in repetitions}),
        "conversations_that_differ": max(differ),
        "tokens_processed": processed,
        "padding": max(run.get("padding", 0) for run in repetitions),
        "processed_per_distinct": None if processed is None or distinct is None else round(processed / distinct, 3),
        "faults": max(run.get("faults", 0) for run in repetitions),
        "peak_mb": max(run["peak_mb"] for run in repetitions),
    }


def phases(measurements: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Tokens a second of each system by sequences at a time, and what share they are of what the machine's products in
    float32 of 256 tokens (reading) and as many as there are sequences (writing) allow in the same minute; medians."""

    def median(kind: str, name: str) -> float:
        return statistics.median(measurements[f"{kind} {repeat}"][name] for repeat in range(repeats))

    limits = {name: median("limits", name) for name in measurements["limits 0"]}
    rows = {}
    for system in (system for system in PHASES if f"phases {system} 0" in measurements):
        names = [name for name in measurements[f"phases {system} 0"] if name != "rounds"]
        rows[system] = {name: round(median(f"phases {system}", name), 2) for name in names}
    return {
        "phases": rows,
        "repeats_of_phases": repeats,
        "machine_float32": {name: round(value, 1) for name, value in limits.items()},
    }


def growth(measurements: dict[str, Any], system: str, size: Size) -> dict[str, Any]:
    """Seconds by number of turns, of each further turn, and the exponent of a power law through them."""
    lengths = [turns for turns in size.growth if turns <= GROWTH[system][1]]
    runs = [measurements[f"growth {system} {turns}"] for turns in lengths]
    seconds = [run["seconds"] for run in runs]
    further = np.diff(seconds) / np.diff(lengths)
    return {
        "turns": lengths,
        "seconds": [round(value, 2) for value in seconds],
        "seconds_a_further_turn": [round(float(value), 2) for value in further],
        "exponent": round(float(np.polyfit(np.log(lengths), np.log(seconds), 1)[0]), 2),
        "tokens_written": [run.get("written") for run in runs],
        "faults": max(run.get("faults", 0) for run in runs),
    }
