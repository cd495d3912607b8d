"""Rows of a dataset, one at a time: a local JSONL or Parquet file, or the Hugging Face Hub.

Nothing is downloaded or read whole. Parquet and the Hub go through `datasets`; JSONL does not, because `datasets`
guesses one schema per block of lines and cannot say which line is broken.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from simgym.errors import ConfigurationError, MalformedFile


def is_file_name(source: str) -> bool:
    """Whether a source is meant as a local file."""
    return Path(source).suffix in (".jsonl", ".parquet")


def read_rows(
    source: str, *, split: str = "train", revision: str | None = None, config: str | None = None, start: int = 1
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows with their numbers, from 1.

    Args:
        source: Hugging Face id, or a `.jsonl` or `.parquet` file.
        split: Split of a dataset on the Hub; a local file is read whole.
        revision: Hub revision to pin.
        config: Configuration of a dataset on the Hub.
        start: Number of the first row wanted; earlier ones are passed over without being looked at.

    Raises:
        ConfigurationError: the source does not exist or cannot be opened.
        MalformedFile: a row cannot be read; the message names the source and the row.
    """
    if not is_file_name(source):
        rows = _hub_rows(source, split, revision, config, start)
    elif not Path(source).is_file():
        raise ConfigurationError(f"There is no file {source}. Give a JSONL or Parquet file, or a Hugging Face id.")
    elif source.endswith(".jsonl"):
        yield from _jsonl_rows(source, start)
        return
    else:
        rows = _parquet_rows(source, start)
    yield from enumerate(rows, start)


def _jsonl_rows(source: str, start: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with Path(source).open(encoding="utf-8", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            if number >= start and line.strip():
                try:
                    yield number, json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise MalformedFile(f"{source}, row {number}: not JSON ({error}). Mend or remove it.") from error


def _parquet_rows(source: str, start: int) -> Iterator[Mapping[str, Any]]:
    from datasets import load_dataset

    try:
        yield from load_dataset("parquet", data_files=source, split="train", streaming=True).skip(start - 1)
    except (ValueError, OSError) as error:
        raise MalformedFile(f"{source} cannot be read as Parquet: {_first_line(error)}") from error


def _hub_rows(
    source: str, split: str, revision: str | None, config: str | None, start: int
) -> Iterator[Mapping[str, Any]]:
    if source.count("/") != 1:
        raise ConfigurationError(f"The source {source!r} is neither a .jsonl or .parquet file nor a Hugging Face id.")
    from datasets import load_dataset

    try:
        rows = load_dataset(source, config, split=split, streaming=True, revision=revision)
    except (ValueError, OSError) as error:
        raise ConfigurationError(
            f"The dataset {source} cannot be opened: {_first_line(error)} Check the id, the split and the network, "
            "or give a local .jsonl or .parquet file."
        ) from error
    yield from rows.skip(start - 1)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
