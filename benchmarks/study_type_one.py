"""Does the study's test keep its level? 2,000 simulated studies in which neither assistant is better.

    python benchmarks/study_type_one.py

60 participants with five choices each, true win rate one half, 15 % ties, intraclass correlation 0.2. A test at level
0.05 should reject 5 % of them. The analysis' test (binomial GLM, cluster-robust errors, t quantiles) is set beside the
z-test that takes choices for independent: with a design effect of 1.8 that one should reject about 14 %, which is
P(|Z| > 1.96 / sqrt 1.8). Power at a true 58 % is printed for the sample sizes that `simgym study power` plans. Written
to `benchmarks/results/study_type_one.json`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from simgym.statistics import Estimate, plan_tied_win_rate, rejection_rate
from simgym.statistics.votes import VoteDistribution

RESULTS = Path(__file__).parent / "results" / "study_type_one.json"


def main() -> None:
    """Simulate, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--participants", type=int, default=60)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    truth = VoteDistribution(win_rate=0.5, tie_rate=0.15, icc=0.2)
    rejections = rejection_rate(args.participants, 5, truth, studies=args.studies, seed=1)
    print(f"type-I error at {args.participants} participants x 5 choices, ICC 0.2, {args.studies:,} studies:")
    print(f"  cluster-robust (the analysis)  {format_estimate(rejections.robust)}")
    print(f"  choices taken for independent  {format_estimate(rejections.naive)}")
    result = {
        "studies": args.studies,
        "participants": args.participants,
        "choices": 5,
        "truth": asdict(truth),
        "type_one_error": {"robust": rejections.robust.to_json(), "naive": rejections.naive.to_json()},
        "power": [],
    }
    print("power at a true win rate of 0.58, aimed at 0.8:")
    for icc in (0.0, 0.1, 0.2, 0.3):
        people = plan_tied_win_rate(0.58, per_cluster=5, tie_rate=0.15, icc=icc).clusters
        power = rejection_rate(people, 5, VoteDistribution(icc=icc), studies=args.studies, seed=2).robust
        result["power"].append({"icc": icc, "participants": people, "power": power.to_json()})
        print(f"  ICC {icc}: {people} participants, power {format_estimate(power)}")
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def format_estimate(estimate: Estimate) -> str:
    """A share with its interval, percent."""
    return f"{100 * estimate.value:.1f} % [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


if __name__ == "__main__":
    main()
