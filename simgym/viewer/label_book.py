"""The labels that one person gives while reading a run: kept in a file, and looked up for the page."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from simgym.evaluation.labels import Label, LabelledConversation, append_label, read_labels, standing_labels
from simgym.transcripts import LABELS_ENDING


class LabelBook:
    """Labels in a file; may be used from several threads."""

    def __init__(self, path: str | Path, person: str) -> None:
        """Read what the file has.

        Args:
            path: JSONL; created with the first label.
            person: Whose labels are added. Those of others are in the file, too, and never shown: who sees what others
                think thinks the same.

        Raises:
            MalformedFile: it holds something else.
        """
        self.path, self.person = Path(path), person
        self._guard = threading.Lock()
        labels = read_labels(self.path) if self.path.exists() else []
        self._standing = {label.subject: label for label in standing_labels(labels) if label.person == person}

    def add(
        self,
        kind: Literal["preference", "origin"],
        answer: Literal["better", "worse", "tie", "human", "simulated"] | None,
        conversations: tuple[LabelledConversation, ...],
        *,
        blind: bool,
    ) -> Label:
        """Write a label.

        Raises:
            ConfigurationError: answer, kind and conversations do not go together.
            OutputInUse: another process is writing the file at this moment.
            TranscriptError: it cannot be written.
        """
        at = datetime.now(UTC).astimezone().isoformat(timespec="seconds")
        label = Label(kind=kind, answer=answer, person=self.person, at=at, blind=blind, conversations=conversations)
        with self._guard:
            append_label(self.path, label)
            if answer is None:
                self._standing.pop(label.subject, None)
            else:
                self._standing[label.subject] = label
        return label

    def origin(self, key: str) -> str | None:
        """What this person takes the user of a conversation for."""
        label = self._standing.get(("origin", self.person, key))
        return label.answer if label is not None else None

    def preference(self, first: str, second: str) -> str | None:
        """What the first conversation is beside the second."""
        label = self._standing.get(("preference", self.person, *sorted((first, second))))
        if label is None:
            return None
        turned = {"better": "worse", "worse": "better"} if label.conversations[0].key != first else {}
        return turned.get(str(label.answer), label.answer)

    def keys(self) -> frozenset[str]:
        """Conversations that this person has labelled."""
        with self._guard:
            return frozenset(entry.key for label in self._standing.values() for entry in label.conversations)

    def __len__(self) -> int:
        return len(self._standing)


def labels_path(source: str | Path) -> Path:
    """Where the labels of a run are kept: in its folder, or beside its file."""
    source = Path(source)
    return source / LABELS_ENDING if source.is_dir() else source.with_name(f"{source.stem}.{LABELS_ENDING}")
