"""WildChat and datasets in its schema: logged conversations of real users with a chatbot, streamed.

Rows come from the Hugging Face Hub or from local JSONL or Parquet files, through `datasets`, one at a time. A user is
known by a hash of (hashed IP, country), which splits by user need. The data has no intents: `wildchat_scenarios` puts
in an honest generic one, which the pipeline that trains user simulators replaces by one written for each conversation.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simgym.conversation import INTENT_PREFIX, Conversation, Message, Scenario
from simgym.errors import ConfigurationError, MalformedFile
from simgym.seeding import derive_seed

DEFAULT_SOURCE = "allenai/WildChat-1M"
_LONGEST_OPENING = 8000
"""Characters; longer openings are pasted documents."""


@dataclass(frozen=True, slots=True)
class LoggedConversation:
    """One conversation as it was logged."""

    id: str
    """The dataset's conversation hash."""
    user_key: str
    """Hash of hashed IP and country: one user, as far as the data can tell."""
    country: str
    """Country of the user; empty if unknown."""
    language: str
    """Language of the conversation, as the dataset names it, e.g. `English`."""
    conversation: Conversation
    """Alternating user and assistant turns, user first."""


def read_wildchat(
    source: str = DEFAULT_SOURCE, *, language: str | None = "English", revision: str | None = None
) -> Iterator[LoggedConversation]:
    """Stream conversations.

    Args:
        source: Hugging Face id, or a `.jsonl`, `.json` or `.parquet` file.
        language: Keep this language only; None keeps all.
        revision: Hub revision to pin.

    Raises:
        ConfigurationError: the file does not exist or has another ending.
        MalformedFile: a row lacks a field of the schema; the message names the row.
    """
    for number, row in enumerate(_rows(source, revision), 1):
        try:
            if language is not None and row["language"] != language:
                continue
            yield _logged(row)
        except (KeyError, TypeError, AttributeError, ConfigurationError) as error:
            raise MalformedFile(f"{source}, row {number}: not in the schema of WildChat ({error}).") from error


def wildchat_scenarios(source: str = DEFAULT_SOURCE, *, limit: int, language: str = "English") -> Iterator[Scenario]:
    """Scenarios with the real opening and the recorded conversation, and a generic intent made of the opening."""
    usable = (
        logged
        for logged in read_wildchat(source, language=language)
        if logged.conversation.messages and 0 < len(logged.conversation.messages[0].content.strip()) <= _LONGEST_OPENING
    )
    for logged in itertools.islice(usable, limit):
        opening = logged.conversation.messages[0].content
        yield Scenario(
            id=f"wildchat-{logged.id}",
            intent=f"{INTENT_PREFIX}get help with this request: {' '.join(opening.split())[:300]}",
            opening=opening,
            persona_seed=derive_seed(0, "wildchat", logged.id),
            source=source if "/" in source and not Path(source).exists() else "WildChat schema, local file",
            history=logged.conversation.messages,
        )


def _rows(source: str, revision: str | None) -> Iterator[Mapping[str, Any]]:
    from datasets import load_dataset

    path = Path(source)
    if path.suffix in (".jsonl", ".json", ".parquet"):
        if not path.is_file():
            raise ConfigurationError(f"There is no file {source}. Give a JSONL or Parquet file, or a Hugging Face id.")
        kind = "parquet" if path.suffix == ".parquet" else "json"
        try:
            yield from load_dataset(kind, data_files=str(path), split="train", streaming=True)
        except (ValueError, OSError) as error:
            raise MalformedFile(f"{source} cannot be read as {kind}: {str(error).splitlines()[0]}") from error
    elif source.count("/") == 1:
        yield from load_dataset(source, split="train", streaming=True, revision=revision)
    else:
        raise ConfigurationError(f"The source {source!r} is neither a .jsonl or .parquet file nor a Hugging Face id.")


def _logged(row: Mapping[str, Any]) -> LoggedConversation:
    turns = [Message(turn["role"], turn["content"] or "") for turn in row["conversation"]]
    country = str(row.get("country") or "")
    user = f"{row.get('hashed_ip') or row['conversation_hash']}|{country}"
    return LoggedConversation(
        id=str(row["conversation_hash"]),
        user_key=hashlib.sha256(user.encode()).hexdigest()[:16],
        country=country,
        language=str(row["language"]),
        conversation=Conversation(tuple(turns)),
    )
