"""Where each conversation of a run lies in its files, and what lists and filters need to know of it.

Lines are read once and not kept: of each conversation the index has the file, the byte offset, a summary, and what was
said in lower case for the search. A whole transcript is read from its place when it is opened. Files may grow while
they are read: `refresh` reads what was added, for a bounded time, up to the last line that is complete. A file that was
written anew is read anew.

As in `read_transcripts`, a later line replaces an earlier one of the same scenario and seed in the same file. Lines
that cannot be read are counted and named; the others are shown all the same.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from simgym.conversation import Scenario
from simgym.errors import ConfigurationError, MalformedFile
from simgym.evaluation.labels import conversation_key
from simgym.evaluation.matrix import file_stem
from simgym.evaluation.plan import FILE_NAME, read_plan
from simgym.faults import fault_label
from simgym.jsonl import LONGEST_LINE, parse_json
from simgym.simulators.role_play import drawn_persona
from simgym.transcripts import Transcript, text_hash, transcript_files
from simgym.viewer.query import Query

_OPENING = 200
"""Characters of the first message that a list shows."""
_PROBLEMS = 20
"""Sentences about unreadable lines that are kept."""


@dataclass(slots=True, kw_only=True)
class Entry:
    """One conversation in a list."""

    id: str
    """Of its file, scenario and seed; the same after a restart."""
    path: Path
    """Its file."""
    offset: int
    """Where its line begins, bytes."""
    length: int
    """Bytes of its line."""
    scenario_id: str
    """Of the scenario."""
    seed: int
    """Of the conversation."""
    assistant: str
    """Name of the assistant."""
    simulator: str
    """Environment id."""
    persona: str
    """Which persona prompt was drawn; empty if the simulator has none."""
    reward: float | None
    """In [0, 1]; None: not judged."""
    fault: str
    """Kind of what went wrong; empty: nothing did."""
    end_reason: str
    """Why it ended."""
    turns: int
    """What the assistant said, in turns."""
    opening: str
    """The beginning of the first message."""
    key: str
    """As `LabelledConversation.key`."""
    text: str = field(repr=False)
    """What can be searched, in lower case."""
    number: int = 0
    """Place in the order of writing."""


@dataclass(slots=True)
class _File:
    """A file of transcripts, read so far."""

    path: Path
    """Where it is."""
    source: Path
    """The run that it belongs to."""
    identity: tuple[int, int]
    """Device and inode: a file that was replaced has others."""
    position: int = 0
    """Bytes that were read."""
    line: int = 0
    """Lines that were read."""


class TranscriptIndex:
    """The conversations of some runs; may be used from several threads."""

    def __init__(self, sources: Sequence[str | Path]) -> None:
        """Take files of transcripts, or folders of a matrix or of such files.

        Raises:
            ConfigurationError: a source does not exist, or holds no conversations and no plan of a run that will.
        """
        self.sources = [Path(source) for source in sources]
        for source in self.sources:
            _check_source(source)
        self._guard = threading.Lock()
        self._name_files = len(self.sources) > 1 or self.sources[0].is_dir()
        self._names: dict[Path, dict[str, str]] = {}
        self._clear()
        self.generation = 0
        """Incremented when files were written anew, so that everything has to be read again."""
        self.version = 0
        """Incremented whenever something was added."""
        self.complete = False
        """Whether everything that the files hold has been read."""

    def _clear(self) -> None:
        self._files: list[_File] = []
        self._entries: list[Entry] = []
        self._by_id: dict[str, Entry] = {}
        self._by_scenario: dict[str, list[Entry]] = {}
        self._facets: dict[str, Counter[str]] = {name: Counter() for name in _FACETS}
        self._listed: tuple[tuple[int, Query, frozenset[str] | None], list[Entry]] | None = None
        self.problems: list[str] = []
        self.unreadable = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def refresh(self, seconds: float = 0.2) -> bool:
        """Read what was added to the files, for about so long.

        Returns:
            Whether everything was read.
        """
        deadline = time.monotonic() + seconds
        with self._guard:
            self._find_files()
            self.complete = all(self._read_on(file, deadline) for file in self._files)
            return self.complete

    def facets(self) -> dict[str, dict[str, int]]:
        """Conversations by what filters choose between: `{"fault": {"role_flip": 3}, "assistant": {...}, ...}`."""
        with self._guard:
            return {name: dict(sorted(counts.items())) for name, counts in self._facets.items()}

    def search(self, query: Query, keys: frozenset[str] | None = None) -> list[Entry]:
        """The conversations that a query asks for, in its order; with `keys`, only those of them that have one."""
        with self._guard:
            if self._listed is not None and self._listed[0] == (self.version, query, keys):
                return self._listed[1]
            words = query.text.casefold().split()
            entries = [
                entry
                for entry in self._entries
                if (keys is None or entry.key in keys) and _matches(entry, query, words)
            ]
            if query.order == "shuffled":
                entries.sort(key=lambda entry: entry.id)
            elif query.order != "written":
                sign = 1 if query.order == "lowest" else -1
                entries.sort(key=lambda entry: (entry.reward is None, sign * (entry.reward or 0.0), entry.number))
            self._listed = ((self.version, query, keys), entries)
            return entries

    def get(self, entry_id: str) -> Entry | None:
        """The conversation with that id, if there is one."""
        with self._guard:
            return self._by_id.get(entry_id)

    def partners(self, entry: Entry, limit: int = 200) -> list[Entry]:
        """Others of the same scenario: first those with the same seed (other assistants, forks), then the rest."""
        with self._guard:
            others = [other for other in self._by_scenario.get(entry.scenario_id, ()) if other.id != entry.id]
        others.sort(key=lambda other: (other.seed != entry.seed, other.simulator != entry.simulator, other.number))
        return others[:limit]

    def transcript(self, entry: Entry) -> Transcript:
        """The whole conversation, from its place in the file.

        Raises:
            MalformedFile: the file is gone, or there is something else now.
        """
        path = entry.path
        try:
            with path.open("rb") as file:
                file.seek(entry.offset)
                line = file.read(entry.length)
            transcript = Transcript.from_json(parse_json(line.decode("utf-8-sig")))
        except OSError as error:
            raise MalformedFile(f"Cannot read {path}: {error.strerror}.") from error
        except (ConfigurationError, ValueError) as error:
            raise MalformedFile(f"{path}, byte {entry.offset}: not a transcript ({error}).") from error
        if transcript.key != (entry.scenario_id, entry.seed):
            raise MalformedFile(f"{path} was written anew. Reload the page.")
        return transcript

    def _find_files(self) -> None:
        known = {file.path: file for file in self._files}
        for source in self.sources:
            for path in transcript_files(source):
                try:
                    state = path.stat()
                except OSError:
                    continue
                file = known.get(path)
                if file is None:
                    self._files.append(_File(path, source, (state.st_dev, state.st_ino)))
                elif file.identity != (state.st_dev, state.st_ino) or state.st_size < file.position:
                    self._clear()
                    self.generation += 1
                    self.version += 1
                    self._find_files()
                    return

    def _read_on(self, file: _File, deadline: float) -> bool:
        try:
            if file.path.stat().st_size == file.position:
                return True
            with file.path.open("rb") as lines:
                lines.seek(file.position)
                return self._read_lines(file, lines, deadline)
        except OSError as error:
            self._complain(f"Cannot read {file.path}: {error.strerror}.")
            return True

    def _read_lines(self, file: _File, lines: BinaryIO, deadline: float) -> bool:
        while time.monotonic() < deadline:
            line = lines.readline(LONGEST_LINE)
            if not line.endswith(b"\n"):
                return True  # the end, or a line that is being written
            offset, file.position, file.line = file.position, file.position + len(line), file.line + 1
            if line.strip():
                self._add(file, offset, line)
        return False

    def _add(self, file: _File, offset: int, line: bytes) -> None:
        self.version += 1
        try:
            entry = self._entry(file, json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigurationError) as error:
            self._complain(f"{file.path.name}, line {file.line}: not a transcript ({type(error).__name__}).")
            return
        entry.offset, entry.length = offset, len(line)
        before = self._by_id.get(entry.id)
        if before is not None:
            entry.number = before.number
            self._entries[before.number] = entry
            self._by_scenario[before.scenario_id].remove(before)
            self._count(before, -1)
        else:
            entry.number = len(self._entries)
            self._entries.append(entry)
        self._by_id[entry.id] = entry
        self._by_scenario.setdefault(entry.scenario_id, []).append(entry)
        self._count(entry, 1)

    def _entry(self, file: _File, row: Mapping[str, Any]) -> Entry:
        scenario, messages, reward = row["scenario"], row["messages"], row["reward"]
        scenario_id, seed, env_id = str(scenario["id"]), int(row["seed"]), str(row["env_id"])
        said = [{"role": str(message["role"]), "content": str(message["content"])} for message in messages]
        assistant = self._assistant(file, row)
        reasons = [str(reason) for reason in row.get("reasons") or ()]
        if reward is not None and not 0 <= float(reward) <= 1:
            raise ValueError("a reward outside [0, 1]")
        fault = row.get("fault")
        searched = [*(message["content"] for message in said), str(scenario["intent"]), scenario_id, *reasons]
        return Entry(
            id=text_hash(json.dumps([str(file.path), scenario_id, seed])),
            path=file.path,
            offset=0,
            length=0,
            scenario_id=scenario_id,
            seed=seed,
            assistant=assistant,
            simulator=env_id,
            persona=_persona(row),
            reward=None if reward is None else float(reward),
            fault="" if fault is None else fault_label(str(fault)),
            end_reason=str(row["end_reason"]),
            turns=sum(message["role"] == "assistant" for message in said),
            opening=next((message["content"] for message in said if message["role"] == "user"), "")[:_OPENING],
            key=conversation_key(assistant, env_id, scenario_id, seed, said),
            text="\n".join([*searched, str(fault or "")]).casefold(),
        )

    def _assistant(self, file: _File, row: Mapping[str, Any]) -> str:
        """The name in the matrix; of other files the name of the file, or of the model if there is one file only."""
        names = self._names.get(file.source)
        if names is None or (file.path.stem not in names and (file.source / FILE_NAME).is_file()):
            plan = read_plan(file.source) if file.source.is_dir() else None
            cells = [] if plan is None else [(row, column) for row in plan.assistants for column in plan.simulators]
            names = self._names[file.source] = {file_stem(row, column): row for row, column in cells}
        if file.path.stem in names:
            return names[file.path.stem]
        fingerprint = row.get("fingerprints", {}).get("assistant", {})
        model = fingerprint.get("model", {})
        name = model.get("model") if isinstance(model, Mapping) else None
        return file.path.stem if self._name_files else str(name or fingerprint.get("assistant") or file.path.stem)

    def _count(self, entry: Entry, by: int) -> None:
        for name, counts in self._facets.items():
            counts[str(getattr(entry, name))] += by
            if not counts[str(getattr(entry, name))]:
                del counts[str(getattr(entry, name))]

    def _complain(self, sentence: str) -> None:
        if sentence not in self.problems:
            self.unreadable += 1
            if len(self.problems) < _PROBLEMS:
                self.problems.append(sentence)


_FACETS = ("fault", "simulator", "assistant", "persona")
"""What filters choose between."""


def _check_source(source: Path) -> None:
    if not source.exists():
        raise ConfigurationError(
            f"There is no run {source}. Give the folder of a `simgym matrix`, or a file of transcripts."
        )
    files = transcript_files(source)
    if not any(file.stat().st_size for file in files) and not (source / FILE_NAME).is_file():
        raise ConfigurationError(
            f"{source} holds no conversations. Give the folder of a `simgym matrix`, or the file that `simgym rollout` "
            "wrote."
        )


def _matches(entry: Entry, query: Query, words: Iterable[str]) -> bool:
    if query.fault and not (
        bool(entry.fault) if query.fault == "any" else entry.fault == query.fault.replace("none", "")
    ):
        return False
    for name in ("simulator", "assistant", "persona"):
        if (wanted := getattr(query, name)) and getattr(entry, name) != wanted:
            return False
    if query.scenario and entry.scenario_id != query.scenario:
        return False
    if query.lowest is not None and (entry.reward is None or entry.reward < query.lowest):
        return False
    if query.highest is not None and (entry.reward is None or entry.reward > query.highest):
        return False
    return all(word in entry.text for word in words)


def _persona(row: Mapping[str, Any]) -> str:
    """The persona prompt that role-play has drawn for the scenario."""
    simulator = row.get("fingerprints", {}).get("simulator", {})
    names = list(simulator.get("guideline_hashes", {}))
    if not names:
        return ""
    return drawn_persona(names, Scenario.from_json({**row["scenario"], "history": ()}))
