"""The plan of a matrix run: what its numbers depend on, written before the first conversation.

`plan.json` holds seed, turn limit, fingerprints of assistants, simulators and judge, and a hash of every scenario. A
run that is continued must agree with it in all it has in common: a scenario that kept its id and changed its text, or
an assistant that kept its name and changed its prompt, would otherwise mix two experiments in one cell. It may grow:
new assistants, simulators and scenarios are added.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from simgym.errors import ConfigurationError, MalformedFile
from simgym.fingerprints import differences, note_on_earlier
from simgym.jsonl import read_json
from simgym.transcripts import text_hash, write_json
from simgym.typed_json import describe, from_json

SCHEMA_VERSION = 1
"""Incremented when a field changes its meaning."""
FILE_NAME = "plan.json"
"""In the folder of the run."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What decides the numbers of a matrix."""

    seed: int
    """Seed of the run."""
    max_turns: int
    """Assistant turns per conversation at most."""
    judge: Mapping[str, object]
    """Fingerprint of the judge."""
    assistants: Mapping[str, Mapping[str, object]]
    """Fingerprints by name."""
    simulators: Mapping[str, Mapping[str, object]]
    """Fingerprints by environment id."""
    scenarios: Mapping[str, str]
    """Hash of each scenario by id, in order."""
    schema_version: int = SCHEMA_VERSION
    """Version of this record."""
    answer_last_words: bool = True
    """Whether the assistant answers users who leave with a word."""

    @property
    def hash(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of all of it: runs with the same hash are the same experiment."""
        return short_hash(self.to_json())

    def to_json(self) -> dict[str, object]:
        """JSON values; settings that came later only where they are not at their default, as in older plans."""
        value = asdict(self)
        if self.answer_last_words:
            del value["answer_last_words"]
        return value

    def joined(self, other: Plan) -> Plan:
        """Both plans in one, this one's entries first.

        Raises:
            ConfigurationError: they contradict each other; the message says in what.
        """
        if differing := self.contradictions(other):
            note = note_on_earlier(self._shared_with(other), other._shared_with(self))
            raise ConfigurationError(f"The run was planned with another {'; another '.join(differing)}.{note}")
        return replace(
            self,
            assistants={**self.assistants, **other.assistants},
            simulators={**self.simulators, **other.simulators},
            scenarios={**self.scenarios, **other.scenarios},
        )

    def contradictions(self, other: Plan) -> list[str]:
        """What the plans have in common and differ in, in words; nothing if their conversations can be compared."""
        single = ("seed", "max_turns", "answer_last_words")
        contradictions = [name for name in single if getattr(self, name) != getattr(other, name)]
        if differing := differences(self.judge, other.judge):
            contradictions.append(f"judge ({', '.join(differing)})")
        for kind, ours, theirs in (
            ("assistant", self.assistants, other.assistants),
            ("simulator", self.simulators, other.simulators),
        ):
            for name in ours.keys() & theirs.keys():
                if differing := differences(ours[name], theirs[name]):
                    contradictions.append(f"{kind} {name!r} ({', '.join(differing)})")
        shared = [name for name in other.scenarios if name in self.scenarios]
        if changed := [name for name in shared if self.scenarios[name] != other.scenarios[name]]:
            contradictions.append(
                f"scenario {changed[0]!r}" + (f" and {len(changed) - 1} more" if len(changed) > 1 else "")
            )
        return contradictions

    def _shared_with(self, other: Plan) -> dict[str, object]:
        """All but what one plan has and the other has not."""
        plan = asdict(self)
        for group in ("assistants", "simulators", "scenarios"):
            plan[group] = {name: value for name, value in plan[group].items() if name in getattr(other, group)}
        return plan

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Plan:
        """Read what `to_json` gave; raises ConfigurationError if it is something else."""
        if isinstance(value, Mapping) and value.get("schema_version") != SCHEMA_VERSION:
            raise ConfigurationError(
                f"schema_version is {describe(value.get('schema_version'))}, this simgym reads {SCHEMA_VERSION}. "
                "Install the version that wrote it."
            )
        return from_json(cls, value, "plan")


def read_plan(folder: str | Path) -> Plan | None:
    """The plan of a run, or None if it has none.

    Raises:
        MalformedFile: there is one that cannot be read.
    """
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        return None
    value = read_json(path)
    try:
        return Plan.from_json(value)
    except ConfigurationError as error:
        raise MalformedFile(f"{path} is not a plan ({error}). Choose another folder.") from error


def keep_plan(plan: Plan, folder: str | Path) -> Plan:
    """Write the plan of a run, or check it against the one that is there and extend that.

    Raises:
        ConfigurationError: the folder holds another experiment; the message says in what it differs.
        MalformedFile: the plan that is there cannot be read.
    """
    plan = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    there = read_plan(folder)
    if there is not None:
        try:
            plan = there.joined(plan)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"{Path(folder) / FILE_NAME}: {error} Choose another folder, or delete this one to start over."
            ) from error
    if plan != there or list(plan.scenarios) != list(there.scenarios):
        write_json(Path(folder) / FILE_NAME, plan.to_json())
    return plan


def short_hash(value: object) -> str:
    """First 16 hexadecimal digits of the SHA-256 of JSON values."""
    return text_hash(json.dumps(value, sort_keys=True, ensure_ascii=True))
