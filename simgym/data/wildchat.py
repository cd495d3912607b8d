"""WildChat and datasets in its schema: logged conversations of real users with a chatbot, streamed.

Rows come from the Hugging Face Hub or a local Parquet file through `datasets`, or from a local JSONL file, one at a
time; nothing is downloaded whole. A user is known by a hash of hashed IP and country, which splits by user need (arXiv
2605.09808). The data holds no intents: `wildchat_scenarios` puts in an honest generic one made of the opening, and the
next step of the pipeline replaces it by intents that a model writes for each conversation. Texts are taken as logged;
nothing is filtered for toxicity or redaction here. What is left out is counted by reason.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simgym.conversation import INTENT_PREFIX, Conversation, Message, Scenario
from simgym.errors import ConfigurationError, MalformedFile
from simgym.seeding import derive_seed

DEFAULT_SOURCE = "allenai/WildChat-1M"
"""Hugging Face id of the release that the paper uses."""
LONGEST_OPENING = 8000
"""Characters; longer openings are pasted documents."""
INTENT_CHARACTERS = 300
"""How much of the opening goes into the generic intent."""
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class LoggedConversation:
    """One conversation as it was logged."""

    id: str
    """The dataset's conversation hash; the data repeats some."""
    user_key: str
    """16 hex digits, a hash of hashed IP and country: one user, as far as the data can tell. Without an IP, a hash of
    the conversation's own id, so that strangers are never taken for one user."""
    country: str
    """Country of the user; empty if unknown."""
    language: str
    """Language of the conversation, as the dataset names it, e.g. `English`."""
    conversation: Conversation
    """The turns as logged; nearly always alternating, user first."""


@dataclass(frozen=True, slots=True)
class WildchatScenarios:
    """What was read and what became of it."""

    scenarios: tuple[Scenario, ...]
    """In the order of the data."""
    read: int
    """Rows that were looked at; reading stops at the limit."""
    dropped: Mapping[str, int]
    """Rows that gave no scenario, by the first reason that applies; `read` = kept + dropped."""


def read_wildchat(
    source: str = DEFAULT_SOURCE,
    *,
    language: str | None = "English",
    split: str = "train",
    revision: str | None = None,
    dropped: Counter[str] | None = None,
) -> Iterator[LoggedConversation]:
    """Stream conversations.

    Args:
        source: Hugging Face id, or a `.jsonl` or `.parquet` file.
        language: Keep this language only; None keeps all.
        split: Split of a dataset on the Hub; a local file is read whole.
        revision: Hub revision to pin.
        dropped: Counts the conversations left out, by reason, as they go by; None: not counted.

    Raises:
        ConfigurationError: the source does not exist or cannot be opened.
        MalformedFile: a row is not in the schema; the message names the source and the row, counted from 1.
    """
    for number, row in _rows(source, split, revision):
        try:
            logged = _logged(row)
        except (KeyError, TypeError, AttributeError, ConfigurationError) as error:
            raise MalformedFile(f"{source}, row {number}: not in the schema of WildChat ({error!r}).") from error
        if language is None or logged.language == language:
            yield logged
        elif dropped is not None:
            dropped[f"language other than {language}"] += 1


def wildchat_scenarios(
    source: str = DEFAULT_SOURCE,
    *,
    limit: int | None = None,
    language: str | None = "English",
    split: str = "train",
    revision: str | None = None,
) -> WildchatScenarios:
    """Scenarios with the real opening, the recorded conversation, and a generic intent made of the opening.

    The intent says no more than the opening does, so a simulator learns nothing from it about later turns; replace it
    by an intent written for the conversation before training or comparing simulators.

    Args:
        source: As for `read_wildchat`, and so are `language`, `split` and `revision`.
        limit: Stop after so many scenarios; None: read all rows.

    Raises:
        ConfigurationError: the source does not exist or cannot be opened.
        MalformedFile: a row is not in the schema; the message names the source and the row.
    """
    dropped: Counter[str] = Counter()
    kept: dict[str, Scenario] = {}
    for logged in read_wildchat(source, language=language, split=split, revision=revision, dropped=dropped):
        if reason := _unusable(logged, kept):
            dropped[reason] += 1
            continue
        kept[logged.id] = _scenario(logged, source)
        if limit is not None and len(kept) >= limit:
            break
    return WildchatScenarios(tuple(kept.values()), read=len(kept) + dropped.total(), dropped=dict(dropped))


def _unusable(logged: LoggedConversation, kept: Mapping[str, Scenario]) -> str | None:
    """Why a conversation cannot be a scenario, or None."""
    messages = logged.conversation.messages
    if not messages or messages[0].role != "user" or not messages[0].content.strip():
        return "no opening by the user"
    if len(messages[0].content) > LONGEST_OPENING:
        return f"opening of more than {LONGEST_OPENING} characters"
    if any(_SURROGATE.search(message.content) for message in messages):
        return "lone surrogates"
    return "repeated conversation" if logged.id in kept else None


def _scenario(logged: LoggedConversation, source: str) -> Scenario:
    opening = logged.conversation.messages[0].content
    return Scenario(
        id=f"wildchat-{logged.id}",
        intent=f"{INTENT_PREFIX}get help with this request: {' '.join(opening.split())[:INTENT_CHARACTERS]}",
        opening=opening,
        persona_seed=derive_seed(0, logged.id),
        source="WildChat schema, local file" if _is_file_name(source) else source,
        history=logged.conversation.messages,
    )


def _is_file_name(source: str) -> bool:
    return Path(source).suffix in (".jsonl", ".parquet")


def _rows(source: str, split: str, revision: str | None) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows with their numbers, from 1."""
    if not _is_file_name(source):
        yield from enumerate(_hub_rows(source, split, revision), 1)
    elif not Path(source).is_file():
        raise ConfigurationError(f"There is no file {source}. Give a JSONL or Parquet file, or a Hugging Face id.")
    elif source.endswith(".jsonl"):
        yield from _jsonl_rows(source)
    else:
        yield from enumerate(_parquet_rows(source), 1)


def _jsonl_rows(source: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    # Not through `datasets`: it guesses one schema per block of lines and cannot say which line is broken.
    with Path(source).open(encoding="utf-8", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except ValueError as error:
                    raise MalformedFile(f"{source}, row {number}: not JSON ({error}). Mend or remove it.") from error


def _parquet_rows(source: str) -> Iterator[Mapping[str, Any]]:
    from datasets import load_dataset

    try:
        yield from load_dataset("parquet", data_files=source, split="train", streaming=True)
    except (ValueError, OSError) as error:
        raise MalformedFile(f"{source} cannot be read as Parquet: {_first_line(error)}") from error


def _hub_rows(source: str, split: str, revision: str | None) -> Iterator[Mapping[str, Any]]:
    if source.count("/") != 1:
        raise ConfigurationError(f"The source {source!r} is neither a .jsonl or .parquet file nor a Hugging Face id.")
    from datasets import load_dataset

    try:
        rows = load_dataset(source, split=split, streaming=True, revision=revision)
    except (ValueError, OSError) as error:
        raise ConfigurationError(
            f"The dataset {source} cannot be opened: {_first_line(error)} Check the id, the split and the network, "
            "or give a local .jsonl or .parquet file."
        ) from error
    yield from rows


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _logged(row: Mapping[str, Any]) -> LoggedConversation:
    turns = [Message(turn["role"], turn["content"] or "") for turn in row["conversation"]]
    identifier, country = str(row["conversation_hash"]), str(row.get("country") or "")
    user = f"{row.get('hashed_ip') or identifier}|{country}"
    return LoggedConversation(
        id=identifier,
        user_key=hashlib.sha256(user.encode(errors="surrogatepass")).hexdigest()[:16],
        country=country,
        language=str(row["language"]),
        conversation=Conversation(tuple(turns)),
    )
