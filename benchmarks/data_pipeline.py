"""How preprocess, split and flip grow with the number of conversations: time and peak memory.

    python benchmarks/data_pipeline.py

Synthetic conversations in WildChat's schema: words drawn from a Zipf-like distribution, 40 % in other languages, one
in twenty openings from one of twenty scripts that repeat themselves, 2.5 conversations a user. Each step of each size
runs in a process of its own, so that peak memory is its own; that of the process before it is subtracted. Intents are
a fixed text, since writing them costs what the model costs. Prediction before the first run: time is linear (every
step is one or a few passes), and memory grows by the index of ids and users, a few hundred bytes a conversation.

The exponent printed last is the slope of log(time) over log(conversations) between the two largest sizes: 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

SIZES = (1_000, 10_000, 100_000)
STEPS = ("preprocess", "split", "flip")
RESULTS = Path(__file__).parent / "results" / "data_pipeline.json"
_WORDS = 20_000


def write_synthetic(path: Path, count: int, seed: int = 0) -> None:
    """Write `count` rows in WildChat's schema."""
    rng = np.random.default_rng(seed)
    vocabulary = np.array([f"{'bcdfghklmnprst'[n % 14]}{'aeiou'[n % 5]}{n:x}" for n in range(_WORDS)])
    scripts = [" ".join(vocabulary[rng.integers(0, _WORDS, 40)]) for _ in range(20)]

    def text(words: int) -> str:
        ranks = np.minimum(_WORDS - 1, rng.zipf(1.3, max(1, words)) - 1)
        return " ".join(vocabulary[ranks])

    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            turns = []
            for turn in range(int(rng.geometric(0.4))):
                turns.append({"role": "user", "content": text(int(rng.geometric(1 / 30)))})
                turns.append({"role": "assistant", "content": text(int(rng.geometric(1 / 80)))})
                if turn == 0 and rng.random() < 0.05:
                    turns[0]["content"] = f"{scripts[int(rng.integers(20))]} {text(5)}"
            user = int(rng.integers(max(1, count * 2 // 5)))
            row = {
                "conversation_hash": f"{number:032x}",
                "conversation": turns,
                "language": "English" if rng.random() < 0.6 else "Russian",
                "hashed_ip": f"ip{user}",
                "country": f"country{user % 60}",
            }
            file.write(json.dumps(row) + "\n")


def measure(step: str, source: Path) -> dict[str, Any]:
    """Run one step in this process, whose peak memory is therefore that of the step."""
    from transformers import AutoTokenizer

    from simgym.chat_template import add_end_token
    from simgym.data import StepOutput, flip_conversations, preprocess, read_logged, split_conversations
    from simgym.language_models import DEFAULT_MODEL, resolve_weights

    folder, counts = source.parent, {}
    clean = folder / "clean.jsonl"
    if step == "flip":
        tokenizer = AutoTokenizer.from_pretrained(resolve_weights(DEFAULT_MODEL).path)
        add_end_token(tokenizer)
        tokenizer("warm up")
    before, started = _peak_mib(), time.perf_counter()
    if step == "preprocess":
        summary = preprocess(str(source), clean)
        counts = {"read": summary.read, "kept": summary.kept, "skipped": dict(summary.skipped)}
    elif step == "split":
        split_conversations(read_logged(clean), read_logged(clean), folder)
    else:
        with StepOutput(folder / "flipped.jsonl") as output:
            named = (replace(logged, intent="You are a user.") for logged in read_logged(folder / "train.jsonl"))
            flip_conversations(named, tokenizer, output, max_tokens=2048)
    return {**counts, "seconds": time.perf_counter() - started, "peak_mib": _peak_mib() - before, "base_mib": before}


def main() -> None:
    """Measure every size in a process of its own and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(measure(options.step, options.source)))
        return
    rows = []
    for size in options.sizes:
        row: dict[str, Any] = {"conversations": size}
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "wildchat.jsonl"
            write_synthetic(source, size)
            for step in STEPS:
                command = [sys.executable, __file__, "--source", str(source), "--step", step]
                run = subprocess.run(command, check=True, capture_output=True, text=True)
                row[step] = json.loads(run.stdout.splitlines()[-1])
        rows.append(row)
        words = [f"{step} {row[step]['seconds']:.1f} s, {row[step]['peak_mib']:.0f} MiB" for step in STEPS]
        print(f"{size:>7} conversations: {size / _seconds(row):.0f}/s ({'; '.join(words)})", flush=True)
    results: dict[str, Any] = {"rows": rows}
    if len(rows) > 1:
        small, large = rows[-2], rows[-1]
        more = large["conversations"] - small["conversations"]
        results["time_exponent"] = math.log(
            _seconds(large) / _seconds(small), large["conversations"] / small["conversations"]
        )
        results["hours_per_million"] = _seconds(large) * 1e6 / large["conversations"] / 3600
        results["bytes_per_conversation"] = {
            step: (large[step]["peak_mib"] - small[step]["peak_mib"]) * 2**20 / more for step in STEPS
        }
        grown = ", ".join(f"{step} {value:.0f}" for step, value in results["bytes_per_conversation"].items())
        print(f"time ~ n^{results['time_exponent']:.2f}; {results['hours_per_million']:.2f} hours per million")
        print(f"memory grows by so many bytes a conversation: {grown}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=1) + "\n")


def _seconds(row: dict[str, Any]) -> float:
    return float(sum(row[step]["seconds"] for step in STEPS))


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
