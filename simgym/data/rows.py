"""Rows of a dataset, one at a time: local JSONL or Parquet files, or the Hugging Face Hub.

Nothing is downloaded or read whole. Parquet and the Hub go through `datasets`; JSONL does not, because `datasets`
guesses one schema per block of lines and cannot say which line is broken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from simgym.errors import ConfigurationError, MalformedFile
from simgym.extras import require_extra
from simgym.jsonl import parse_line, read_lines

_ENDINGS = (".jsonl", ".parquet")


def is_file_name(source: str) -> bool:
    """Whether a source is meant as local files: a `.jsonl` or `.parquet` file or pattern, or a folder."""
    return Path(source).suffix in _ENDINGS or Path(source).is_dir()


def read_rows(
    source: str, *, split: str = "train", revision: str | None = None, config: str | None = None, start: int = 1
) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Rows with their numbers, from 1.

    Args:
        source: Hugging Face id, a `.jsonl` or `.parquet` file, a pattern such as `data/train-*.parquet`, or a folder of
            such files. Several files are read in the order of their names and numbered through.
        split: Split of a dataset on the Hub; local files are read whole.
        revision: Hub revision to pin.
        config: Configuration of a dataset on the Hub.
        start: Number of the first row wanted; earlier ones are passed over without being looked at.

    Raises:
        ConfigurationError: the source does not exist or cannot be opened.
        MalformedFile: a row cannot be read; the message names the source and the row.
    """
    if not is_file_name(source):
        yield from enumerate(_hub_rows(source, split, revision, config, start), start)
        return
    files = _files(source)
    if files[0].suffix == ".jsonl":
        yield from _jsonl_rows(files, start)
    else:
        yield from enumerate(_parquet_rows(source, files, start), start)


def _files(source: str) -> list[Path]:
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in _ENDINGS)
    else:
        files = sorted(path.parent.glob(path.name))
    if not files:
        raise ConfigurationError(f"There is no file {source}. Give a JSONL or Parquet file, or a Hugging Face id.")
    if len({file.suffix for file in files}) > 1:
        raise ConfigurationError(f"{source} holds JSONL and Parquet files. Give a pattern that matches one kind.")
    return files


def _jsonl_rows(files: Sequence[Path], start: int) -> Iterator[tuple[int, Mapping[str, object]]]:
    number = 0
    for file in files:
        for _, line in read_lines(file):
            number += 1
            if number >= start and line.strip():
                yield number, parse_line(line, f"{file}, row {number}", allow_nan=True, errors="surrogateescape")


def _parquet_rows(source: str, files: Sequence[Path], start: int) -> Iterator[Mapping[str, object]]:
    require_extra("data", f"Reading Parquet files ({source})")
    from datasets import load_dataset

    try:
        names = [str(file) for file in files]
        yield from load_dataset("parquet", data_files=names, split="train", streaming=True).skip(start - 1)
    except (ValueError, OSError) as error:
        raise MalformedFile(f"{source} cannot be read as Parquet: {_first_line(error)}") from error


def _hub_rows(
    source: str, split: str, revision: str | None, config: str | None, start: int
) -> Iterator[Mapping[str, object]]:
    if source.count("/") != 1:
        raise ConfigurationError(f"The source {source!r} is neither a .jsonl or .parquet file nor a Hugging Face id.")
    require_extra("data", f"Reading {source} from the Hugging Face Hub")
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
