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

from simgym.errors import ConfigurationError
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


def load_rubric(rubric: str, placeholders: Sequence[str]) -> Rubric:
    """A rubric by built-in name or by path.

    Raises:
        ConfigurationError: there is no such rubric, or it has a placeholder that is not among `placeholders`.
    """
    folder = resources.files("simgym.judges") / "prompts"
    if not Path(rubric).suffix and (folder / f"{rubric}.txt").is_file():
        return Rubric(rubric, (folder / f"{rubric}.txt").read_text(encoding="utf-8"))
    try:
        text = Path(rubric).read_text(encoding="utf-8")
        Template(text).substitute(dict.fromkeys(placeholders, ""))
    except OSError as error:
        known = ", ".join(
            sorted(one.name.removesuffix(".txt") for one in folder.iterdir() if one.name.endswith(".txt"))
        )
        raise ConfigurationError(
            f"There is no rubric file {rubric} ({error.strerror}). Built-in rubrics: {known}."
        ) from error
    except (KeyError, ValueError) as error:
        listed = ", ".join(f"${name}" for name in placeholders)
        raise ConfigurationError(
            f"The rubric {rubric} has an unknown or broken placeholder ({error}). Known: {listed}."
        ) from error
    return Rubric("own", text)
