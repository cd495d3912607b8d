"""Splits that leak nothing: every user, and every conversation of a benchmark, is in one split only.

The protocol of arXiv 2605.09808: conversations that WildBench was made of are forced into test; the other users (hashed
IP and country) are divided 89/5/6, stratified by country. Deviations: a user with one WildBench conversation goes to
test with all conversations, since otherwise that user would be in two splits; and within a country users are ordered
by how much they talked before they are dealt out, so that a split does not hang on where one heavy user falls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from simgym.data.logged import LoggedConversation, StepOutput
from simgym.data.rows import read_rows
from simgym.errors import ConfigurationError
from simgym.output_files import lock_output
from simgym.seeding import derive_seed
from simgym.text_files import read_text

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
SHARES: Mapping[SplitName, float] = {"train": 0.89, "validation": 0.05, "test": 0.06}
"""Shares of the users, as published."""
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True, slots=True)
class Assignment:
    """Who is in which split."""

    split_of: Mapping[str, SplitName]
    """Split by user key."""
    forced: frozenset[str]
    """Keys of the users in test because of a conversation that had to be there."""


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """What was divided how."""

    conversations: Mapping[SplitName, int]
    """Conversations by split."""
    users: Mapping[SplitName, int]
    """Users by split."""
    forced: int
    """Users in test because WildBench holds a conversation of theirs."""


def assign_users(
    conversations: Iterable[tuple[str, str, str]],
    *,
    forced_test: Collection[str] = (),
    shares: Mapping[SplitName, float] = SHARES,
    seed: int = 0,
) -> Assignment:
    """Give every user a split.

    Users are ordered by country, then by number of conversations (most first), then by a seeded hash, and the i-th gets
    the split in whose share frac(i * golden ratio) falls. Consecutive multiples of the golden ratio fill [0, 1) evenly,
    so the shares hold within every country to a user or two, without a minimum size of country.

    Args:
        conversations: Id, user key and country of each; read once. The index is one entry per user (about 300 bytes).
        forced_test: Conversation ids whose users go to test.
        shares: Of users, by split; they sum to 1.
        seed: Decides the split.

    Raises:
        ConfigurationError: the shares do not sum to 1.
    """
    if abs(sum(shares.values()) - 1) > 1e-9:
        raise ConfigurationError(f"The shares {dict(shares)} sum to {sum(shares.values())}, expected 1.")
    talked: Counter[str] = Counter()
    countries: dict[str, str] = {}
    forced: set[str] = set()
    for identifier, user, country in conversations:
        talked[user] += 1
        countries.setdefault(user, country)
        if identifier in forced_test:
            forced.add(user)
    free = [user for user in talked if user not in forced]
    free.sort(key=lambda user: (countries[user], -talked[user], derive_seed(seed, "split", user)))
    assigned: dict[str, SplitName] = dict.fromkeys(forced, "test")
    for number, user in enumerate(free):
        assigned[user] = _share_at((number * _GOLDEN) % 1.0, shares)
    return Assignment(assigned, frozenset(forced))


def split_conversations(
    source: Iterable[LoggedConversation],
    again: Iterable[LoggedConversation],
    folder: str | Path,
    *,
    forced_test: Collection[str] = (),
    shares: Mapping[SplitName, float] = SHARES,
    seed: int = 0,
) -> SplitSummary:
    """Write `train.jsonl`, `validation.jsonl` and `test.jsonl`.

    Args:
        source: The conversations, to find the users.
        again: The same conversations, to be written; two passes keep memory at the index of users.
        folder: Where the files go.
        forced_test: As for `assign_users`, and so are `shares` and `seed`.

    Raises:
        OutputInUse: another process is writing there.
    """
    with ExitStack() as stack:
        stack.enter_context(lock_output(folder, folder=True))
        users_of = ((logged.id, logged.user_key, logged.country) for logged in source)
        assigned = assign_users(users_of, forced_test=forced_test, shares=shares, seed=seed)
        paths = {name: Path(folder) / f"{name}.jsonl" for name in SPLITS}
        for path in paths.values():  # a run that is stopped must not leave splits of two divisions side by side
            path.unlink(missing_ok=True)
        outputs = {name: stack.enter_context(StepOutput(path)) for name, path in paths.items()}
        for logged in again:
            outputs[assigned.split_of[logged.user_key]].keep(logged.to_json())
        users = Counter(assigned.split_of.values())
        for name, output in outputs.items():
            output.details["users"] = users[name]
        return SplitSummary(
            conversations={name: output.kept for name, output in outputs.items()},
            users={name: users[name] for name in SPLITS},
            forced=len(assigned.forced),
        )


def wildbench_ids(source: str) -> set[str]:
    """Session ids of WildBench's tasks, which are WildChat's conversation hashes.

    The source is a JSONL or Parquet file with a column `session_id`, a text file with one id a line, or a Hugging Face
    id such as `allenai/WildBench`.

    Raises:
        ConfigurationError: there is no such file, or it has no ids.
    """
    if source.endswith(".txt"):
        if not Path(source).is_file():
            raise ConfigurationError(f"There is no file {source}. Expected one session id a line.")
        ids = {line.strip() for line in read_text(source).split("\n")} - {""}
    else:
        rows = read_rows(source, split="test", config="v2")
        ids = {str(row["session_id"]) for _, row in rows if row.get("session_id")}
    if not ids:
        raise ConfigurationError(f"{source} holds no session ids. Expected a column session_id, or one id a line.")
    return ids


def _share_at(position: float, shares: Mapping[SplitName, float]) -> SplitName:
    for name, share in shares.items():
        position -= share
        if position < 0:
            return name
    return SPLITS[0]
