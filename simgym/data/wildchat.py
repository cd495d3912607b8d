"""WildChat and datasets in its schema: logged conversations of real users with a chatbot, streamed.

Rows come from the Hugging Face Hub or a local Parquet file through `datasets`, or from a local JSONL file, one at a
time; nothing is downloaded whole. A user is known by a hash of hashed IP and country, which splits by user need (arXiv
2605.09808). The data holds no intents: `wildchat_scenarios` puts in an honest generic one made of the opening, and the
next step of the pipeline replaces it by intents that a model writes for each conversation. Texts are taken as logged;
nothing is filtered for toxicity or redaction here. What is left out is counted by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from simgym.conversation import INTENT_PREFIX, Conversation, Message, Scenario, has_surrogates
from simgym.data.foreign_rows import LogRow, known_text
from simgym.data.logged import LoggedConversation
from simgym.data.rows import is_file_name, read_rows
from simgym.errors import ConfigurationError, MalformedFile
from simgym.seeding import derive_seed
from simgym.transcripts import text_hash

DEFAULT_SOURCE = "allenai/WildChat-1M"
"""Hugging Face id of the release that the paper uses."""
LONGEST_OPENING = 8000
"""Characters; longer openings are pasted documents."""
INTENT_CHARACTERS = 300
"""How much of the opening goes into the generic intent."""
_COLUMNS = ("conversation_hash", "conversation", "language")


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
    start: int = 1,
    skip: Callable[[str, str, str], object] | None = None,
    on_row: Callable[[int], object] | None = None,
) -> Iterator[LoggedConversation]:
    """Stream conversations.

    Args:
        source: Hugging Face id, or a `.jsonl` or `.parquet` file.
        language: Keep this language only; None keeps all.
        split: Split of a dataset on the Hub; a local file is read whole.
        revision: Hub revision to pin.
        start: Number of the first row to read, from 1.
        skip: Told id, reason and detail of every conversation left out; None: a row with a bad value is an error.
        on_row: Told the number of each row before it is looked at.

    Raises:
        ConfigurationError: the source does not exist or cannot be opened.
        MalformedFile: a column is missing, or without `skip` a value is bad; the message names the row, from 1.
    """
    for number, row in read_rows(source, split=split, revision=revision, start=start):
        if on_row is not None:
            on_row(number)
        if not isinstance(row, Mapping):
            if skip is None:
                raise MalformedFile(f"{source}, row {number}: not in the schema of WildChat, expected a JSON object.")
            skip(f"row {number}", "bad value", f"a {type(row).__name__}, expected an object")
            continue
        if missing := [column for column in _COLUMNS if column not in row]:
            raise MalformedFile(
                f"{source}, row {number}: not in the schema of WildChat, the column {missing[0]!r} is missing. "
                f"Needed: {', '.join(_COLUMNS)}; hashed_ip and country where there are any."
            )
        try:
            logged = _logged(row)
        except (KeyError, TypeError, AttributeError, ConfigurationError) as error:
            if skip is None:
                raise MalformedFile(f"{source}, row {number}: not in the schema of WildChat ({error!r}).") from error
            skip(str(row["conversation_hash"]), "bad value", f"row {number}: {error!r}"[:200])
            continue
        if language is None or logged.language == language:
            yield logged
        elif skip is not None:
            skip(logged.id, f"language other than {language}", logged.language)


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

    def skip(identifier: str, reason: str, detail: str) -> None:
        dropped[reason] += 1

    for logged in read_wildchat(source, language=language, split=split, revision=revision, skip=skip):
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
    if any(has_surrogates(message.content) for message in messages):
        return "lone surrogates"
    return "repeated conversation" if logged.id in kept else None


def _scenario(logged: LoggedConversation, source: str) -> Scenario:
    opening = logged.conversation.messages[0].content
    return Scenario(
        id=f"wildchat-{logged.id}",
        intent=f"{INTENT_PREFIX}get help with this request: {' '.join(opening.split())[:INTENT_CHARACTERS]}",
        opening=opening,
        persona_seed=derive_seed(0, logged.id),
        source="WildChat schema, local file" if is_file_name(source) else source,
        history=logged.conversation.messages,
    )


def _logged(row: LogRow) -> LoggedConversation:
    turns = [Message(turn["role"], turn["content"] or "") for turn in row["conversation"]]
    identifier, country = known_text(row["conversation_hash"]), known_text(row.get("country"))
    if not identifier:
        raise TypeError("conversation_hash is empty")
    if has_surrogates(f"{identifier} {country} {row['language']}"):
        raise TypeError("conversation_hash, country or language hold lone surrogates")
    user = f"{known_text(row.get('hashed_ip')) or identifier}|{country}"
    return LoggedConversation(
        id=identifier,
        user_key=text_hash(user),
        country=country,
        language=str(row["language"]),
        conversation=Conversation(tuple(turns)),
        intent=str(row.get("intent") or ""),
    )
