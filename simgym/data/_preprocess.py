"""The first step of the pipeline: one language, no mass-produced openings, only conversations that can be learned from.

Many logged first turns come from scripts that send the same text thousands of times. As in arXiv 2605.09808 a
conversation is dropped if its first user turn holds a 7-gram of words that occurs in more than 100 first turns.

Counting every 7-gram of a million first turns exactly would need tens of gigabytes. So the source is read once into a
local file while a table of 2^26 one-byte cells counts hashed 7-grams; a cell counts at least as much as each 7-gram in
it, so only 7-grams in cells over the threshold can be frequent. Those few are counted exactly in a second pass over the
local file, and a third writes what remains. Memory is the table (64 MiB), the ids seen (8 bytes and a set's slot each)
and the exact counts; the result is that of exact counting, but for collisions of 64-bit hashes. A run that was
interrupted goes on at the row where it last saved its place.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from simgym.data.logged import StepOutput, StepSummary, unusable
from simgym.data.wildchat import read_wildchat
from simgym.jsonl import read_json, read_jsonl
from simgym.output_files import lock_output
from simgym.transcripts import write_json
from simgym.typed_json import from_json
from simgym.words import spaced

NGRAM = 7
"""Words."""
THRESHOLD = 100
"""A 7-gram in more first turns than this marks a conversation as mass-produced."""
_CELL_BITS = 26
_SAVE_EVERY = 10_000
"""Rows between two saved places."""
_MULTIPLIERS = np.array([pow(0x9E3779B97F4A7C15, power, 1 << 64) for power in range(1, NGRAM + 1)], dtype=np.uint64)

Hashes = npt.NDArray[np.uint64]
_Told = Callable[[str, int], object]
"""Whoever wants to know what is done at the moment, and the number of the row."""


class FrequentNgrams:
    """Finds the 7-grams of words that occur in more than `threshold` texts; `add` all, `count` candidates, then ask."""

    def __init__(self, threshold: int = THRESHOLD) -> None:
        """Start with an empty table."""
        self.threshold = threshold
        kind: Any = np.uint8 if threshold < 255 else np.uint32
        self._full = np.iinfo(kind).max
        self._cells: npt.NDArray[Any] = np.zeros(1 << _CELL_BITS, dtype=kind)
        self._counts: Counter[int] = Counter()

    def add(self, text: str) -> None:
        """First pass: note a text's 7-grams."""
        cells = np.unique(ngram_hashes(text) >> np.uint64(64 - _CELL_BITS))
        self._cells[cells] += self._cells[cells] < self._full

    @property
    def any_candidates(self) -> bool:
        """Whether the second pass is needed at all."""
        return bool(self._cells.max() > self.threshold)

    def count(self, text: str) -> None:
        """Second pass: count a text's 7-grams exactly where their cell is over the threshold."""
        hashes = ngram_hashes(text)
        self._counts.update(hashes[self._cells[hashes >> np.uint64(64 - _CELL_BITS)] > self.threshold].tolist())

    def holds_one(self, text: str) -> bool:
        """Whether a text holds a frequent 7-gram; right once `count` has seen all texts."""
        return any(self._counts[value] > self.threshold for value in ngram_hashes(text).tolist() if self._counts)


def ngram_hashes(text: str) -> Hashes:
    """64-bit hashes of the distinct 7-grams of a text, case ignored; the same anywhere.

    Words are what stands between white space; see `simgym.words` for scripts that have none.
    """
    words = spaced(text.casefold()).encode("utf-8", "surrogatepass").split()
    if len(words) < NGRAM:
        return np.empty(0, dtype=np.uint64)
    single = np.fromiter(map(zlib.crc32, words), dtype=np.uint64, count=len(words))
    spread = (single + np.uint64(1)) * np.uint64(0xD6E8FEB86659FD93)
    spread ^= spread >> np.uint64(32)
    windows = np.lib.stride_tricks.sliding_window_view(spread, NGRAM)
    mixed = (windows * _MULTIPLIERS).sum(axis=1, dtype=np.uint64)
    return np.unique(mixed ^ (mixed >> np.uint64(29)))


def preprocess(
    source: str,
    path: str | Path,
    *,
    language: str | None = "English",
    threshold: int = THRESHOLD,
    split: str = "train",
    revision: str | None = None,
    advance: Callable[[str, int], object] = lambda phase, count: None,
) -> StepSummary:
    """Write the conversations of a dataset in WildChat's schema that are worth learning from.

    Args:
        source: Hugging Face id, or a `.jsonl` or `.parquet` file.
        path: The file to write; see `logged.StepOutput` for what stands beside it.
        language: Keep this language only; None keeps all.
        threshold: First turns that a 7-gram may occur in.
        split: Split of a dataset on the Hub.
        revision: Hub revision to pin.
        advance: Told what is done at the moment and how many conversations were seen.

    Raises:
        ConfigurationError: the source does not exist or cannot be opened.
        MalformedFile: a column is missing.
    """
    path = Path(path)
    settings = {"source": source, "language": language, "split": split, "revision": revision}
    with lock_output(path):
        return _write_usable(path, settings, threshold, _of_thousandths(advance))


def _write_usable(path: Path, settings: Mapping[str, object], threshold: int, told: _Told) -> StepSummary:
    copy = _LocalCopy(path, settings)
    frequent = FrequentNgrams(threshold)
    for text in copy.first_turns():
        frequent.add(text)
    copy.fill(frequent.add, told)
    if frequent.any_candidates:
        for number, text in enumerate(copy.first_turns(), 1):
            frequent.count(text)
            told("counting 7-grams", number)
    with StepOutput(path) as output:
        for skipped in copy.skips():
            output.skip(**skipped)
        for number, row in enumerate(copy.rows(), 1):
            if frequent.holds_one(row["conversation"][0]["content"]):
                output.skip(row["conversation_hash"], f"{NGRAM}-gram in more than {threshold} first turns")
            else:
                output.keep(row)
            told("writing", number)
        output.details["threshold"] = threshold
    copy.delete()
    return output.summary()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where reading has stopped, with the sizes of both files there."""

    settings: Mapping[str, Any]
    next_row: int
    rows: int
    skips: int


class _LocalCopy:
    """The usable rows of a source in a local file, which can be continued after an interruption."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Find the place where an earlier run with the same settings has stopped, or begin anew."""
        self._settings = dict(settings)
        self._rows, self._skips = path.with_name(path.name + ".rows"), path.with_name(path.name + ".skips")
        self._place = path.with_name(path.name + ".place.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        place = _Place(settings=self._settings, next_row=1, rows=0, skips=0)
        if self._place.is_file():
            there = from_json(_Place, read_json(self._place), str(self._place))
            place = there if there.settings == self._settings and there.next_row > 1 else place
        self._next_row = place.next_row
        for file, size in ((self._rows, place.rows), (self._skips, place.skips)):
            with file.open("ab") as handle:
                handle.truncate(size)
        self._seen = {_short(row["conversation_hash"]) for row in self.rows()}

    def fill(self, seen: Callable[[str], object], told: _Told) -> None:
        """Read what is left of the source; `seen` gets the first user turn of each row that is copied."""
        number = self._next_row - 1
        with (
            self._rows.open("a", encoding="utf-8", newline="\n") as rows,
            self._skips.open("a", encoding="utf-8") as skips,
        ):

            def skip(identifier: str, reason: str, detail: str = "") -> None:
                entry = {"identifier": identifier, "reason": reason, "detail": detail}
                skips.write(json.dumps(entry) + "\n")

            def on_row(this: int) -> None:
                nonlocal number
                if this > self._next_row and (this - 1) % _SAVE_EVERY == 0:
                    self._save(this, rows, skips)
                number = this
                told("reading", this)

            for logged in read_wildchat(**self._settings, start=self._next_row, skip=skip, on_row=on_row):
                identity = _short(logged.id)
                if reason := unusable(logged.conversation):
                    skip(logged.id, reason)
                elif identity in self._seen:
                    skip(logged.id, "repeated conversation")
                else:
                    self._seen.add(identity)
                    rows.write(json.dumps(logged.to_json(), ensure_ascii=False) + "\n")
                    seen(logged.conversation.messages[0].content)
            self._save(number + 1, rows, skips)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows copied so far."""
        return (row for _, row in read_jsonl(self._rows))

    def first_turns(self) -> Iterator[str]:
        """Their first user turns."""
        return (row["conversation"][0]["content"] for row in self.rows())

    def skips(self) -> Iterator[dict[str, str]]:
        """What was left out, as arguments of `StepOutput.skip`."""
        return (entry for _, entry in read_jsonl(self._skips))

    def delete(self) -> None:
        """Remove the files."""
        for file in (self._place, self._rows, self._skips):
            file.unlink(missing_ok=True)

    def _save(self, next_row: int, *files: IO[str]) -> None:
        sizes = []
        for file in files:
            file.flush()
            os.fsync(file.fileno())
            sizes.append(file.tell())
        place = {"settings": self._settings, "next_row": next_row, "rows": sizes[0], "skips": sizes[1]}
        write_json(self._place, place)


def _short(identifier: str) -> int:
    return int.from_bytes(hashlib.blake2b(identifier.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _of_thousandths(advance: _Told) -> _Told:
    """Tell of every thousandth row alone, for a call takes longer than a row."""
    return lambda phase, number: advance(phase, number) if number % 1000 == 0 else None
