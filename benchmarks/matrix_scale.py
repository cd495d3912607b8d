"""What the analysis of a large matrix costs, and whether it grows linearly with the number of cells.

    python benchmarks/matrix_scale.py

Instant echo assistants: rewards are drawn, not judged, for the statistics do not care. 100 x 100 cells of 100
conversations, 10,000 resamples, every cell's mean and every cell against the initial row, Holm-corrected, with gaps.
Smaller matrices in the same run give the growth: the exponent of time in cells, 1 being linear. Target: 100 x 100 in
less than 60 s and 4 GB.
"""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path

import numpy as np

from simgym.statistics import MatrixLayout, compare_matrix
from simgym.transcripts import write_json

RESULTS = Path(__file__).with_name("results") / "matrix_scale.json"
SIDES, CONVERSATIONS, RESAMPLES = (25, 50, 100), 100, 10_000


def main() -> None:
    """Measure, smallest first, so that the peak of memory is the largest's."""
    rng = np.random.default_rng(0)
    compare_matrix(rng.random((2, 2, 9)), range(9), seed=0)  # what is imported on the first call is no growth
    rows = []
    for side in SIDES:
        rewards = rng.random((side, side, CONVERSATIONS), dtype=np.float64)
        began = time.perf_counter()
        compared = compare_matrix(
            rewards,
            range(CONVERSATIONS),
            seed=0,
            layout=MatrixLayout(trained_on={row: row for row in range(1, side)}),
            resamples=RESAMPLES,
        )
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        tested = int(np.isfinite(compared.differences.p_value).sum())
        rows.append({"cells": side * side, "tests": tested, "seconds": round(seconds, 2), "peak_gib": round(peak, 2)})
        print(rows[-1], flush=True)
    cells, seconds_ = np.log([row["cells"] for row in rows]), np.log([row["seconds"] for row in rows])
    result = {
        "conversations_per_cell": CONVERSATIONS,
        "resamples": RESAMPLES,
        "matrices": rows,
        "growth_exponent": round(float(np.polyfit(cells, seconds_, 1)[0]), 2),
    }
    write_json(RESULTS, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
