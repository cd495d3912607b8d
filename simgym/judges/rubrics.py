"""Rubrics: text files of criteria with placeholders, found by name or path and identified by their content.

A rubric that ships with simgym has a name (`helpfulness`, `checklist`, `pairwise`, `expected_score`); your own is a
path. What a judge was told is part of its fingerprint as name and SHA-256, so transcripts judged by different words are
never taken for the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

from simgym.errors import ConfigurationError, MalformedFile
from simgym.text_files import read_text
from simgym.transcripts import text_hash


@dataclass(frozen=True, slots=True)
class Rubric:
    """Criteria as a judging model reads them."""

    name: str
    """Built-in name, or `own` for a file of the user's."""
    text: str
    """Template with `$placeholders`."""

    def fill(self, **values: str) -> str:
        """The prompt; what is filled in is taken literally."""
        return Template(self.text).substitute(values).strip()

    def fingerprint(self) -> Mapping[str, str]:
        """Name and hash of the text."""
        return {"rubric": self.name, "rubric_hash": text_hash(self.text)}


def load_rubric(rubric: str, needed: Sequence[str], optional: Sequence[str] = ()) -> Rubric:
    """A rubric by built-in name or by path.

    Args:
        rubric: Name or path.
        needed: Placeholders that it must have, so that no judge grades blind.
        optional: Placeholders that it may have.

    Raises:
        ConfigurationError: there is no such rubric, or its placeholders are not these.
    """
    folder = resources.files("simgym.judges") / "prompts"
    shipped = not Path(rubric).suffix and (folder / f"{rubric}.txt").is_file()
    try:
        file = folder / f"{rubric}.txt" if shipped else Path(rubric)
        text = file.read_text(encoding="utf-8") if shipped else read_text(rubric)
        Template(text).substitute(dict.fromkeys((*needed, *optional), ""))
    except MalformedFile:
        raise
    except OSError as error:
        names = (file.name for file in folder.iterdir() if file.name.endswith(".txt"))
        known = ", ".join(sorted(name.removesuffix(".txt") for name in names))
        raise ConfigurationError(f"There is no rubric file {rubric} ({error}). Built-in rubrics: {known}.") from error
    except (KeyError, ValueError) as error:
        listed = ", ".join(f"${name}" for name in (*needed, *optional))
        raise ConfigurationError(
            f"The rubric {rubric} has an unknown or broken placeholder ({error}). Known to this judge: {listed}."
        ) from error
    if missing := [name for name in needed if f"${name}" not in text and f"${{{name}}}" not in text]:
        raise ConfigurationError(
            f"The rubric {rubric} lacks the placeholder ${missing[0]}, so the judge would not see it."
        )
    return Rubric(rubric if shipped else "own", text)


def quoted(text: str) -> str:
    """A message indented, so that nothing in it can look like a heading of the prompt."""
    return "\n".join(f"    {line}" for line in text.splitlines())
