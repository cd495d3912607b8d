"""How well a user turn that the assistant speaks is told from a person's.

    python benchmarks/role_flips.py people.jsonl

Two mistakes are counted with `find_fault`'s own check: turns of people that are taken for the assistant's, and turns
of an assistant that pass. The people are the user turns of a file with WildChat's columns (`conversation` with `role`
and `content`), which is not part of simgym, and `role_flips/honest.txt`: sentences that hold the words of an assistant
and are a person's. The assistants are `role_flips/planted.txt`, in thirteen languages. Both lists
are our own. Two thirds of them were written before the check and a third by somebody else; of that third it caught 86 %
unseen, 55 of 64, and flagged none of 20 honest ones. A later list was harder: it caught 37 of 42 unseen, and flagged 9
of 134 honest ones, most of which do not occur in people's turns. It was then mended by all: now they are a regression
test.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from simgym.jsonl import read_jsonl
from simgym.simulators.role_flips import find_role_flip
from simgym.statistics import wilson_interval
from simgym.transcripts import write_json

LISTS = Path(__file__).with_name("role_flips")
RESULTS = Path(__file__).with_name("results") / "role_flips.json"


def read_list(name: str) -> list[str]:
    r"""Turns of one list, one a line; `\n` stands for a line feed."""
    lines = (LISTS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line.replace("\\n", "\n") for line in lines]


def user_turns(path: Path) -> Iterator[str]:
    """What people said in a file with WildChat's columns."""
    for _, row in read_jsonl(path):
        for message in row["conversation"]:
            if message["role"] == "user":
                yield message["content"]


def flagged_share(turns: list[str]) -> dict[str, Any]:
    """How many turns are taken for the assistant's, with a 95 % Wilson interval."""
    flagged = sum(find_role_flip(turn) is not None for turn in turns)
    share = wilson_interval(flagged, len(turns))
    return {"turns": len(turns), "flagged": flagged, "share": share.value, "interval": [share.low, share.high]}


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("people", type=Path, help="JSONL with WildChat's columns")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the result is written")
    args = parser.parse_args()
    groups = {
        "people": list(user_turns(args.people)),
        "honest": read_list("honest"),
        "planted": read_list("planted"),
    }
    results = {name: flagged_share(turns) for name, turns in groups.items()}
    write_json(args.output, {"file": args.people.name, **results})
    for name, result in results.items():
        low, high = result["interval"]
        print(f"{name:8} {result['flagged']:4} of {result['turns']:5} flagged, {low:.4f} to {high:.4f}")


if __name__ == "__main__":
    main()
