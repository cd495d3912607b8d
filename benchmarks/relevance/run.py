"""How well the relevance judge tells on-topic from off-topic answers, and where its two constants come from.

    python benchmarks/relevance/run.py [--data arena_answers.jsonl] [--pairs 80] [--model smollm2-135m-instruct]

`arena_answers.jsonl` holds real openings with strong answers. For each opening, the gain of its own answer
(log p(opening | answer) - log p(opening), nats per token) is compared with the gain of another opening's answer.
Constants are fitted on the first half (CENTRE: the threshold that tells the two apart best; SCALE: the
slope of the logistic fit) and the accuracy is printed on the second half, beside the same for length alone.
Writes `results.json` beside this file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from simgym.data import data_file
from simgym.jsonl import read_jsonl
from simgym.judges import RelevanceJudge
from simgym.language_models import DEFAULT_MODEL, load_language_model
from simgym.statistics import bootstrap_mean
from simgym.transcripts import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="arena_answers.jsonl; default: the one in $SIMGYM_DATA")
    parser.add_argument("--pairs", type=int, default=80, help="openings used, half to fit and half to test")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="whose likelihoods are used")
    args = parser.parse_args()

    rows = [row for _, row in read_jsonl(args.data or data_file("arena_answers.jsonl"))][: args.pairs]
    needs = [" ".join(row["opening"].split())[:400] for row in rows]
    answers = [next(iter(row["answers"].values())) for row in rows]
    others = [*answers[1:], answers[0]]
    judge, model = RelevanceJudge(args.model), load_language_model(args.model)
    own = np.array(judge.gains(model, needs, answers))
    off = np.array(judge.gains(model, needs, others))

    half = len(rows) // 2
    centre, scale = fit(own[:half], off[:half])
    test_own, test_off = own[half:], off[half:]
    pairwise = bootstrap_mean((test_own > test_off).astype(float).tolist(), seed=0)
    separate = np.concatenate([test_own > centre, test_off <= centre]).astype(float)
    longer = np.array([len(a) > len(b) for a, b in zip(answers[half:], others[half:], strict=True)])
    results = {
        "model": args.model,
        "openings_fitted": half,
        "openings_tested": len(rows) - half,
        "gain_on_topic_mean": float(own.mean()),
        "gain_off_topic_mean": float(off.mean()),
        "centre": round(centre, 2),
        "scale": round(scale, 2),
        "pairwise_accuracy": pairwise.to_json(),
        "threshold_accuracy": bootstrap_mean(separate.tolist(), seed=0).to_json(),
        "pairwise_accuracy_of_length_alone": bootstrap_mean(longer.astype(float).tolist(), seed=0).to_json(),
    }
    print(json.dumps(results, indent=2))
    write_json(Path(__file__).parent / "results.json", results)


def fit(own: np.ndarray, off: np.ndarray) -> tuple[float, float]:
    """Logistic regression of on-topic against gain: p = 1 / (1 + exp(-(gain - centre) / scale))."""

    def loss(parameters: np.ndarray) -> float:
        centre, log_scale = parameters
        margin = np.concatenate([own - centre, centre - off]) / np.exp(log_scale)
        return float(np.logaddexp(0, -margin).mean())

    best = minimize(loss, x0=np.array([(own.mean() + off.mean()) / 2, np.log(0.2)]), method="Nelder-Mead")
    return float(best.x[0]), float(np.exp(best.x[1]))


if __name__ == "__main__":
    main()
