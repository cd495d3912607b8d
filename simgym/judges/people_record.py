"""What is known of a judge by people: how often it prefers the answer that they prefer, and how sure it may be.

`simgym judge validate --people FILE` writes a record; those of shipped heads are in their folders, those of other
judges among the caches, by the judge's fingerprint. Whatever shows numbers of a judge looks here, and says so where
the judge is below `PEOPLE_BAR` or nobody has asked people: a table of rewards says as much as its judge.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from simgym.errors import ConfigurationError, MalformedFile
from simgym.fingerprints import Fingerprint
from simgym.jsonl import read_json
from simgym.language_models.weights import cache_folder
from simgym.statistics import Estimate, format_interval
from simgym.transcripts import text_hash, write_json
from simgym.typed_json import from_json

PEOPLE_BAR = 0.6
"""The interval of a judge's accuracy on people's pairs, balanced for length, has to begin here or above."""
RECORD_NAME = "people.json"
"""In the folder of a shipped head."""
_HEADS = Path(__file__).with_name("heads")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleRecord:
    """A judge beside people."""

    judge: str
    """Its name."""
    identity: str
    """`judge_identity` of it."""
    accuracy: Estimate
    """Share of pairs decided as people did, balanced for length, in [0, 1]; interval over prompts."""
    length_alone: float
    """What preferring the longer answer gets on the same pairs without balancing, in [0, 1]."""
    slope: float | None
    """Platt's map: what `logit_margin` is multiplied by, for the logit of what people prefer; None: not fitted."""
    calibration_error: Estimate
    """Expected calibration error behind that map, in [0, 0.5]."""
    pairs: int
    """Pairs that were decided."""
    sources: tuple[str, ...]
    """Where they come from."""

    @property
    def passes(self) -> bool:
        """Whether the accuracy is surely above `PEOPLE_BAR`."""
        return self.accuracy.reliable and self.accuracy.low is not None and self.accuracy.low >= PEOPLE_BAR


def logit_margin(first: float, second: float) -> float:
    """How much surer a judge is of one score in [0, 1] than of another, in logits."""
    ours, theirs = (min(1 - 1e-6, max(1e-6, score)) for score in (first, second))
    return math.log(ours / (1 - ours)) - math.log(theirs / (1 - theirs))


def judge_identity(fingerprint: Mapping[str, object]) -> str:
    """What a record is kept by: of a head its weights, wherever its base runs; of others all of the fingerprint."""
    if fingerprint.get("judge") == "reward_head":
        return str(fingerprint.get("weights"))
    return text_hash(json.dumps(fingerprint, sort_keys=True, default=str))


def find_record(fingerprint: Mapping[str, object]) -> PeopleRecord | None:
    """The record of a judge, the user's own before the one that is shipped; None if there is none that can be read."""
    identity = judge_identity(fingerprint)
    for path in (_own(identity), *sorted(_HEADS.glob(f"*/{RECORD_NAME}"))):
        if path.is_file():
            try:
                record = from_json(PeopleRecord, read_json(path), path.name, extra="ignore")
            except (ConfigurationError, MalformedFile):
                continue
            if record.identity == identity:
                return record
    return None


def keep_record(record: PeopleRecord, path: Path | None = None) -> Path:
    """Write a record to a file, by default where `find_record` looks for it; returns the file."""
    path = _own(record.identity) if path is None else path
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(record))
    return path


def people_warning(fingerprint: Fingerprint) -> str:
    """What readers of a judge's numbers must know; empty if the judge is above the bar."""
    record = find_record(fingerprint)
    if record is None:
        return (
            "Nobody knows whether this judge prefers what people prefer: `simgym judge validate --people FILE` compares"
            " it with people's choices."
        )
    if record.passes:
        return ""
    value = "unknown" if record.accuracy.value is None else f"{record.accuracy.value:.2f}"
    return (
        f"This judge is below the bar: of answers balanced for length it prefers what people prefer in {value} "
        f"{format_interval(record.accuracy, '.2f')} of {record.pairs} pairs, and the interval has to begin at "
        f"{PEOPLE_BAR:g} or above. Do not rank assistants by it alone."
    )


def _own(identity: str) -> Path:
    return cache_folder() / "judges" / f"{identity}.json"
