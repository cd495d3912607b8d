"""Put a trained reward head where the package ships it, with a card made of its log and its validation.

python agents/package_reward_head.py runs/embedded_reward/head
python benchmarks/embedded_reward.py --pairs judge_pairs.jsonl
python agents/package_reward_head.py runs/embedded_reward/head     # again: the card now has the validation
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from simgym.judges import SHIPPED_HEAD
from simgym.statistics import Estimate, format_interval

VALIDATION = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "embedded_reward.json"
CARD = Path(__file__).with_name("reward_head_card.md")
FILES = ("head.safetensors", "head.json", "training_log.json")


def main() -> None:
    """Copy, describe."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run", type=Path, help="folder `head` of agents/embedded_reward.py")
    parser.add_argument("--target", type=Path, default=SHIPPED_HEAD)
    options = parser.parse_args()
    options.target.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copy(options.run / name, options.target / name)
        (options.target / name).chmod(0o644)
    log = json.loads((options.target / "training_log.json").read_text())
    validation = json.loads(VALIDATION.read_text()) if VALIDATION.is_file() else None
    (options.target / "README.md").write_text(card(log, validation, (options.target / FILES[0]).stat().st_size))
    print(f"{options.target}: {sum(file.stat().st_size for file in options.target.iterdir()) / 1000:.0f} kB")


def card(log: dict[str, Any], validation: dict[str, Any] | None, size: int) -> str:
    """The model card."""
    kinds = log["cross_validated_accuracy"]
    return CARD.read_text().format(
        layer=log["layer"],
        match_layer=log["match_layer"],
        ending=log["ending_tokens"],
        openings=log["openings"],
        pairs=log["pairs"],
        longer=100 * log["better_is_longer"],
        kilobytes=size / 1000,
        kinds="\n".join(f"| {kind.replace('_', ' ')} | {value:.3f} |" for kind, value in kinds.items()),
        validation=_validation(validation),
    )


def _validation(results: dict[str, Any] | None) -> str:
    if results is None:
        return "\n"
    judges = {name: results[name] for name in ("reward_head", "relevance", "ceiling") if name in results}
    ours = results["reward_head"]["pairs"]
    subsets = [(f"against {name}", "pairs", name) for name in ours["by_subset"]]
    titles = [f"{name} ({judge['pairs']['pairs']} pairs)" for name, judge in judges.items()]
    lines = [f"| | {' | '.join(titles)} | length alone |", "|---|" + "---|" * (len(judges) + 1)]
    for title, part, subset in [*subsets, ("another question's answer", "off_topic", "off_topic")]:
        cells = [_shown(judge[part]["by_subset"][subset]) if part in judge else "–" for judge in judges.values()]
        alone = results["reward_head"][part]["length_alone"][subset]
        lines.append(f"| {title} | {' | '.join(cells)} | {alone:.2f} |")
    cells = [_shown(judge["pairs"]["length_balanced"]) for judge in judges.values()]
    lines.append(f"| all but the last, balanced for length | {' | '.join(cells)} | 0.50 |")
    value = results["reward_head"]["value_and_length"]
    return f"""
## On pairs that it was never trained on

Pairs of AlpacaEval outputs (`python benchmarks/embedded_reward.py`): a concise GPT-4 against weaker
models, on instructions that nobody looked at while the features were chosen. Share decided rightly, 95 % intervals
over instructions. Rank correlation of value and length: {_shown(value)}. The ceiling is not a judge: it is what the
same features decide when they are fitted on pairs of this kind, in cross-validation.

{chr(10).join(lines)}

"""


def _shown(estimate: dict[str, Any]) -> str:
    return f"{estimate['value']:.2f} {format_interval(Estimate.from_json(estimate), '.2f')}"


if __name__ == "__main__":
    main()
