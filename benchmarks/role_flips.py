"""How often honest user turns are taken for the assistant's words, and how many of the assistant's words are caught.

    python benchmarks/role_flips.py --logs PATH.jsonl [PATH.jsonl ...]

The honest turns are those of people in conversation logs in WildChat's columns (`simgym data sources` says where to get
some). The planted ones are written by us, beside the patterns that look for them, so the share that is caught is what
the patterns were made for and not what an unseen model would say.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from simgym.simulators.role_flips import find_role_flip

RESULTS = Path(__file__).with_name("results") / "role_flips.json"
TURNS = json.loads(Path(__file__).with_name("role_flip_turns.json").read_text(encoding="utf-8"))
"""`planted`: turns that speak as the assistant; `honest`: turns that hold such words and do not. Our own."""


def main() -> None:
    """Count both kinds of mistakes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=Path, nargs="*", default=[], help="conversation logs, JSONL")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    missed = [turn for turn in TURNS["planted"] if find_role_flip(turn) is None]
    wrong = [turn for turn in TURNS["honest"] if find_role_flip(turn) is not None]
    result: dict[str, Any] = {
        "planted": len(TURNS["planted"]), "caught": len(TURNS["planted"]) - len(missed), "missed": missed,
        "honest": len(TURNS["honest"]), "flagged": wrong, "logs": {},
    }  # fmt: skip
    for path in arguments.logs:
        turns = user_turns(path)
        flagged = [flip for flip in map(find_role_flip, turns) if flip is not None]
        result["logs"][path.name] = {"user_turns": len(turns), "flagged": len(flagged), "words": flagged}
    arguments.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"planted flips caught: {result['caught']} of {result['planted']}")
    print(f"honest turns of ours flagged: {len(wrong)} of {len(TURNS['honest'])}")
    for name, counts in result["logs"].items():
        print(f"{name}: {counts['flagged']} of {counts['user_turns']} turns of people flagged")


def user_turns(path: Path) -> list[str]:
    """What people say in a log."""
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [turn["content"] for row in rows for turn in row["conversation"] if turn["role"] == "user"]


if __name__ == "__main__":
    main()
