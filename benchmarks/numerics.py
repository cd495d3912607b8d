"""Which numbers (dtype) the default model is fastest with on this machine, and how far each is from float32.

    python benchmarks/numerics.py

The same as `simgym doctor --bench`, with five interleaved repeats, kept as JSON. Tried and not kept: torch's own
dynamic quantization (`torch.ao.nn.quantized.dynamic`), faster still on single layers, but with one scale for the whole
batch, so that a row's reply would depend on its neighbours.
"""

from __future__ import annotations

import platform
from dataclasses import asdict
from pathlib import Path

from simgym.evaluation.numerics import compare_numerics
from simgym.transcripts import write_json

RESULTS = Path(__file__).with_name("results") / "numerics.json"


def main() -> None:
    """Measure and keep."""
    rows = compare_numerics(repeats=5)
    write_json(RESULTS, {"machine": platform.machine(), "repeats": 5, "dtypes": [asdict(row) for row in rows]})
    for row in rows:
        print(f"{row.dtype:15} {row.speed:5.2f} times float32's speed, KL {row.kl:.1e} nats a token")


if __name__ == "__main__":
    main()
