"""What each extra weighs: megabytes of a new environment with it, as pinned by constraints.txt.

    python benchmarks/install_size.py            # needs uv

Prints a Markdown table and writes `benchmarks/results/install_size.json`. torch is the build that the pins find: a CPU
build where `PIP_FIND_LINKS` or the index has one, else CUDA's, which brings several GB of its own.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "install_size.json"
EXTRAS = {
    "": "models behind servers; environments, matrix, report",
    "local": "models in this process, the default one included",
    "data": "Parquet files and the Hugging Face Hub",
    "chitchat": "conversations of real people, for scenarios",
    "stats": "realism scorecard, agreement of judges",
    "study": "the study with people",
    "train": "TRL, stable-baselines3 (with `local` and `data`)",
    "ray": "a Ray cluster",
    "all": "everything",
}


def megabytes(extra: str, folder: Path) -> int:
    """Size of an environment with simgym and one extra."""
    venv = folder / (extra or "core")
    uv = [sys.executable, "-m", "uv"] if not _on_path() else ["uv"]
    subprocess.run([*uv, "venv", "-q", "--python", sys.executable, venv], check=True)
    target = f"{ROOT}[{extra}]" if extra else str(ROOT)
    environment = {**os.environ, "UV_FIND_LINKS": os.environ.get("PIP_FIND_LINKS", "")}
    command = [*uv, "pip", "install", "-q", "--python", venv / "bin/python", "-c", ROOT / "constraints.txt", target]
    subprocess.run(command, check=True, env=environment)
    files = (path for path in (venv / "lib").rglob("*") if path.is_file() and not path.is_symlink())
    return round(sum(path.stat().st_size for path in files) / 1e6)


def _on_path() -> bool:
    return any((Path(folder) / "uv").exists() for folder in os.environ["PATH"].split(os.pathsep))


def main() -> None:
    """Measure, print and write."""
    with tempfile.TemporaryDirectory() as place:
        sizes = {extra: megabytes(extra, Path(place)) for extra in EXTRAS}
    print("| install | MB | for |\n|---|---|---|")
    for extra, size in sizes.items():
        name = f"simgym[{extra}]" if extra else "simgym"
        print(f"| `{name}` | {size:,} | {EXTRAS[extra]} |")
    machine = {"python": platform.python_version(), "system": platform.platform()}
    RESULTS.write_text(
        json.dumps({"machine": machine, "megabytes": {name or "core": size for name, size in sizes.items()}}, indent=2)
        + "\n"
    )


if __name__ == "__main__":
    main()
