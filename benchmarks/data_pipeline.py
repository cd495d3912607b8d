"""How preprocess, split and flip grow with the number of conversations: time and peak memory.

    python benchmarks/data_pipeline.py

Synthetic conversations in WildChat's schema: words drawn from a Zipf-like distribution, 40 % in other languages, one in
twenty openings from one of twenty scripts that repeat themselves, 2.5 conversations a user. Each size runs in a process
of its own, so that peak memory is its own; the memory of the same process before the first step is subtracted. Intents
are a fixed text, since writing them costs what the model costs. Prediction before the first run: time is linear (every
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


def measure(source: Path) -> dict[str, Any]:
    """Run the three steps in this process."""
    from transformers import AutoTokenizer

    from simgym.data.flipped import flip_conversations
    from simgym.data.logged import StepOutput, read_logged
    from simgym.data.preprocess import FrequentNgrams, preprocess
    from simgym.data.splits import split_conversations
    from simgym.flip import add_end_token
    from simgym.language_models.weights import EMBEDDED, resolve_weights

    tokenizer = AutoTokenizer.from_pretrained(resolve_weights(EMBEDDED).path)
    add_end_token(tokenizer)
    tokenizer("warm up")
    FrequentNgrams().add("one two three four five six seven eight")
    folder, before, seconds, peaks = source.parent, _peak_mib(), {}, {}

    def timed(step: str, run: Any) -> Any:
        started = time.perf_counter()
        outcome = run()
        seconds[step], peaks[step] = time.perf_counter() - started, _peak_mib() - before
        return outcome

    clean = folder / "clean.jsonl"
    summary = timed("preprocess", lambda: preprocess(str(source), clean))
    timed("split", lambda: split_conversations(read_logged(clean), read_logged(clean), folder))

    def flip_all() -> None:
        with StepOutput(folder / "flipped.jsonl") as output:
            named = (replace(logged, intent="You are a user.") for logged in read_logged(folder / "train.jsonl"))
            flip_conversations(named, tokenizer, output, max_tokens=2048)

    timed("flip", flip_all)
    return {"read": summary.read, "kept": summary.kept, "skipped": dict(summary.skipped),
            "seconds": seconds, "peak_mib": peaks, "base_mib": before}  # fmt: skip


def main() -> None:
    """Measure every size in a process of its own and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.source:
        print(json.dumps(measure(options.source)))
        return
    rows = []
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "wildchat.jsonl"
            write_synthetic(source, size)
            command = [sys.executable, __file__, "--source", str(source)]
            run = subprocess.run(command, check=True, capture_output=True, text=True)
            row = {"conversations": size, **json.loads(run.stdout.splitlines()[-1])}
        rows.append(row)
        total, peak = sum(row["seconds"].values()), max(row["peak_mib"].values())
        steps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in row["seconds"].items())
        print(
            f"{size:>7} conversations: {size / total:.0f}/s ({steps}), peak {peak:.0f} MiB above the start", flush=True
        )
    results: dict[str, Any] = {"rows": rows}
    if len(rows) > 1:
        small, large = rows[-2], rows[-1]
        ratio = large["conversations"] / small["conversations"]
        results["time_exponent"] = math.log(sum(large["seconds"].values()) / sum(small["seconds"].values()), ratio)
        grown = max(large["peak_mib"].values()) - max(small["peak_mib"].values())
        results["bytes_per_conversation"] = grown * 2**20 / (large["conversations"] - small["conversations"])
        results["hours_per_million"] = sum(large["seconds"].values()) * 1e6 / large["conversations"] / 3600
        print(
            f"time ~ n^{results['time_exponent']:.2f}; memory grows by {results['bytes_per_conversation']:.0f} bytes a "
            f"conversation; {results['hours_per_million']:.1f} hours per million"
        )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=1) + "\n")


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
