"""Put a trained reward head where the package ships it, with a card made of its log and its validation.

python agents/people_reward.py
python agents/package_reward_head.py runs/people_reward/head      # without the folder: the card alone
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from simgym.judges import SHIPPED_HEAD
from simgym.judges.people_record import PEOPLE_BAR, RECORD_NAME
from simgym.judges.reward_head import PROMPTS_NAME
from simgym.statistics import Estimate, format_interval

VALIDATION = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "people_reward.json"
CARD = Path(__file__).with_name("reward_head_card.md")
SHORTENED = (
    "\n* To save time, pairs with more characters than `--longest` and openings beyond `--limit` were not used. "
    "Corrupted answers\n  are recognised less often than by the earlier head, which saw more of them; fitting on all "
    "pairs and openings was not tried."
)
FILES = ("head.safetensors", "head.json", "training_log.json", PROMPTS_NAME, RECORD_NAME)


def main() -> None:
    """Copy, describe."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run", type=Path, nargs="?", help="folder `head` of agents/people_reward.py")
    parser.add_argument("--target", type=Path, default=SHIPPED_HEAD)
    options = parser.parse_args()
    options.target.mkdir(parents=True, exist_ok=True)
    for name in FILES if options.run is not None else ():
        shutil.copy(options.run / name, options.target / name)
        (options.target / name).chmod(0o644)
    results = json.loads(VALIDATION.read_text())
    (options.target / "README.md").write_text(card(results, (options.target / FILES[0]).stat().st_size))
    print(f"{options.target}: {sum(file.stat().st_size for file in options.target.iterdir()) / 1000:.0f} kB")


def card(results: dict[str, Any], size: int) -> str:
    """The model card."""
    log, calibration = results["training"], results["calibration"]
    low = results["people"]["length_balanced"]["low"]
    return CARD.read_text().format(
        layer=log["layer"],
        match_layer=log["match_layer"],
        ending=log["ending_tokens"],
        pairs=sum(log["pairs_of_people"].values()),
        sources=", ".join(f"{name} {count}" for name, count in log["pairs_of_people"].items()),
        prompts=log["prompts_of_people"],
        longer=100 * log["preferred_is_longer"],
        corrupted=f"{log['pairs_with_corrupted_answers']:,}",
        weight=log["weight_of_corrupted_answers"],
        openings=log["openings"],
        prior=log["prior"],
        bins=log["length_bins"],
        folds=log["folds"],
        command=f" with `{log['flags']}`" if log["flags"] else "",
        shortened=SHORTENED if log["flags"] else "",
        kilobytes=size / 1000,
        rows="\n".join(
            row
            for group in ("people", "others")
            if group in results
            for row in _rows(results, group, f"{group}_earlier")
        ),
        corrupted_share=results["corrupted"]["all"],
        corrupted_earlier=results["corrupted_earlier"],
        slope=f"{calibration['slope']:.2f}",
        error=_shown(calibration["error"]),
        error_mapped=_shown(calibration["error_mapped"]),
        bar=PEOPLE_BAR,
        passes="is above it"
        if low is not None and low >= PEOPLE_BAR
        else "is below it, and tables made with it say so",
    )


def _rows(results: dict[str, Any], ours: str, earlier: str) -> list[str]:
    """A row for all pairs of a group, and one for each source."""
    title = "people, all" if ours == "people" else "other sources, all"
    rows = [(title, results[ours]["pairs"], results[ours]["length_balanced"], results[earlier]["length_balanced"])]
    for source, estimate in results[ours]["balanced_by_source"].items():
        count = results["training"]["pairs_of_people"].get(source, "")
        rows.append((source, count, estimate, results[earlier]["balanced_by_source"][source]))
    return [f"| {name} | {count} | {_shown(new)} | {_shown(old)} |" for name, count, new, old in rows]


def _shown(estimate: dict[str, Any]) -> str:
    if estimate["value"] is None:
        return "none"
    return f"{estimate['value']:.2f} {format_interval(Estimate.from_json(estimate), '.2f')}"


if __name__ == "__main__":
    main()
