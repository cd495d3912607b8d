"""WildBench v2: 1,024 hard requests of real users, each with a checklist (Lin et al. 2024, arXiv 2406.04770).

Read from the Hugging Face Hub (`allenai/WildBench`, configuration `v2`, split `test`) or a JSONL or Parquet file with
the same columns. A row that cannot be a task (no user turn at the end, no checklist) is left out and listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from simgym.conversation import INTENT_PREFIX, Conversation, Message, Scenario, has_surrogates
from simgym.data.foreign_rows import LogRow
from simgym.data.rows import read_rows
from simgym.errors import ConfigurationError, MalformedFile

DEFAULT_SOURCE = "allenai/WildBench"
Group = Literal[
    "Creative Tasks",
    "Planning & Reasoning",
    "Math & Data Analysis",
    "Information/Advice seeking",
    "Coding & Debugging",
]
GROUPS: Mapping[str, Group] = {
    "Information seeking": "Information/Advice seeking",
    "Advice seeking": "Information/Advice seeking",
    "Creative Writing": "Creative Tasks",
    "Editing": "Creative Tasks",
    "Brainstorming": "Creative Tasks",
    "Role playing": "Creative Tasks",
    "Others": "Creative Tasks",
    "Coding & Debugging": "Coding & Debugging",
    "Reasoning": "Planning & Reasoning",
    "Planning": "Planning & Reasoning",
    "Math": "Math & Data Analysis",
    "Data Analysis": "Math & Data Analysis",
}
"""The benchmark's twelve tags and the five groups that results are given for."""
_COLUMNS = ("session_id", "conversation_input", "checklist", "primary_tag")


@dataclass(frozen=True, slots=True, kw_only=True)
class WildBenchTask:
    """One request."""

    id: str
    """Session id; WildChat's hash of the conversation."""
    conversation: Conversation
    """What was said so far; ends with the user."""
    intent: str
    """What the user wants, as the benchmark's authors had it summarised; empty if unknown."""
    checklist: tuple[str, ...]
    """Questions that a good answer satisfies, at least one."""
    groups: tuple[Group, ...]
    """Groups of its primary and secondary tags, each once."""
    references: Mapping[str, str]
    """Answers that the data set brings, by model."""

    @property
    def scenario(self) -> Scenario:
        """The task as judges see it."""
        wish = self.intent or self.conversation.messages[-1].content
        return Scenario(self.id, f"{INTENT_PREFIX}{' '.join(wish.split()) or 'get help'}", source=DEFAULT_SOURCE)


@dataclass(frozen=True, slots=True)
class WildBenchTasks:
    """What was read and what became of it."""

    tasks: tuple[WildBenchTask, ...]
    """In the order of the data."""
    skipped: Mapping[str, str]
    """Why each of the other rows is no task, by session id."""


def load_wildbench(
    source: str = DEFAULT_SOURCE, *, limit: int | None = None, revision: str | None = None
) -> WildBenchTasks:
    """Read the benchmark.

    Args:
        source: Hugging Face id, or a JSONL or Parquet file in its schema.
        limit: Take the first so many tasks; None: all.
        revision: Hub revision to pin.

    Raises:
        ConfigurationError: the source cannot be opened, or holds no task.
        MalformedFile: a column is missing, or a session id comes twice.
    """
    tasks: dict[str, WildBenchTask] = {}
    skipped: dict[str, str] = {}
    for number, row in read_rows(source, split="test", config="v2", revision=revision):
        if not isinstance(row, Mapping):
            raise MalformedFile(f"{source}, row {number}: not in WildBench's schema, expected an object.")
        if missing := [column for column in _COLUMNS if column not in row]:
            raise MalformedFile(
                f"{source}, row {number}: not in WildBench's schema, the column {missing[0]!r} is missing. "
                f"Needed: {', '.join(_COLUMNS)}."
            )
        identifier = str(row["session_id"] or "")
        if not identifier:
            skipped[f"row {number}"] = "no session id"
            continue
        if identifier in tasks or identifier in skipped:
            raise MalformedFile(f"{source}, row {number}: session id {identifier!r} comes twice.")
        task = _task(identifier, row)
        if isinstance(task, str):
            skipped[identifier] = task
            continue
        tasks[identifier] = task
        if limit is not None and len(tasks) >= limit:
            break
    if not tasks:
        raise ConfigurationError(f"{source} holds no usable task. Left out: {skipped or 'nothing, it is empty'}.")
    return WildBenchTasks(tuple(tasks.values()), skipped)


def _task(identifier: str, row: LogRow) -> WildBenchTask | str:
    """A task, or why the row is none."""
    try:
        talk = tuple(Message(turn["role"], turn["content"] or "") for turn in row["conversation_input"] or ())
    except (KeyError, TypeError, AttributeError, ConfigurationError) as error:
        return f"bad conversation: {error!r}"[:200]
    if not talk or talk[-1].role != "user" or not talk[-1].content.strip():
        return "does not end with a user turn"
    items = row["checklist"] if isinstance(row["checklist"], list | tuple) else ()
    checklist = tuple(item for item in items if isinstance(item, str) and item.strip())
    if not checklist:
        return "no checklist"
    intent = str(row.get("intent") or "")
    if has_surrogates("".join([intent, *checklist, *(message.content for message in talk)])):
        return "lone surrogates"
    secondary = row.get("secondary_tags")
    tags = [row["primary_tag"], *(secondary if isinstance(secondary, list | tuple) else ())]
    references = row.get("references")
    return WildBenchTask(
        id=identifier,
        conversation=Conversation(talk),
        intent=intent,
        checklist=checklist,
        groups=tuple(dict.fromkeys(GROUPS[tag] for tag in tags if isinstance(tag, str) and tag in GROUPS)),
        references={key: str(text) for key, text in references.items() if text}
        if isinstance(references, Mapping)
        else {},
    )
