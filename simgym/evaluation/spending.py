"""What a run with a budget has spent in all: in the transcripts of its folder, and beside them.

Conversations that a limit or an outage cut short are in no transcript, but their tokens were paid for. They are kept
in `unwritten.json`, so that the next command counts them and a limit holds for the run, not for each attempt at it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from simgym.errors import ConfigurationError, MalformedFile
from simgym.jsonl import read_json
from simgym.rollout.budget import Budget
from simgym.transcripts import Transcript, write_json
from simgym.typed_json import from_json

FILE_NAME = "unwritten.json"
"""In the folder of the run."""


@dataclass(frozen=True, slots=True)
class Unwritten:
    """Cost of model calls whose conversations are in no file."""

    tokens: int
    """Read and written, >= 0."""
    cost: float
    """Money, >= 0, by the prices of the runs that made them."""

    def __post_init__(self) -> None:
        if self.tokens < 0 or self.cost < 0:
            raise ConfigurationError(f"{self.tokens} tokens and a cost of {self.cost} were spent, expected >= 0.")


def count_earlier(budget: Budget, transcripts: Iterable[Transcript], folder: Path) -> None:
    """Add to a budget what earlier commands have spent on a run.

    Raises:
        MalformedFile: `unwritten.json` holds something else.
    """
    for transcript in transcripts:
        budget.count(transcript.calls)
    path = folder / FILE_NAME
    if path.is_file():
        value = read_json(path)
        try:
            earlier = from_json(Unwritten, value, "unwritten")
        except ConfigurationError as error:
            raise MalformedFile(f"{path}: {error} Remove the file to count anew.") from error
        budget.add(earlier.tokens, earlier.cost)


def keep_unwritten(budget: Budget, transcripts: Iterable[Transcript], folder: Path) -> None:
    """Note what a budget has counted beyond the transcripts of a run.

    Raises:
        TranscriptError: the file cannot be written.
    """
    written = Budget(prices=budget.prices)
    for transcript in transcripts:
        written.count(transcript.calls)
    unwritten = Unwritten(max(0, budget.tokens - written.tokens), max(0.0, budget.cost - written.cost))
    if unwritten.tokens or (folder / FILE_NAME).is_file():
        write_json(folder / FILE_NAME, asdict(unwritten))
