"""A small package to start a plug-in from: code that works, an entry point, and a test with simgym's own checker.

Templates are files below `templates/`: `common/` goes into every package, a folder named after the kind into those of
that kind. A path may hold `MODULE`, which becomes the package's name. Contents are Jinja templates; what is written is
complete and passes its tests before a line is changed.
"""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from pathlib import Path

from simgym._version import __version__
from simgym.errors import ConfigurationError, UnknownName
from simgym.output_files import write_whole
from simgym.plugins import unknown

KINDS = {
    "simulator": "simulators",
    "judge": "judges",
    "assistant": "assistants",
    "scenarios": "scenario_sets",
    "study": "",
}
"""What can be started, with its entry-point group."""
_TEMPLATES = Path(__file__).with_name("templates")
_NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Scaffold:
    """What is to be written."""

    kind: str
    """One of `KINDS`."""
    name: str
    """Name of the project: small letters, digits, single hyphens or underscores."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnknownName(unknown("kind of package", self.kind, list(KINDS)))
        if not _NAME.fullmatch(self.name) or keyword.iskeyword(self.module):
            raise ConfigurationError(
                f"{self.name!r} cannot be the name of a package. Use small letters, digits and single hyphens, and "
                "begin with a letter: patient-people."
            )

    @property
    def module(self) -> str:
        """Name of the Python package."""
        return self.name.replace("-", "_")

    @property
    def class_name(self) -> str:
        """Name of its class."""
        return "".join(part.capitalize() for part in self.module.split("_"))

    def files(self) -> dict[Path, str]:
        """Contents by path within the project."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(  # noqa: S701  # Python and TOML, no HTML
            loader=FileSystemLoader(_TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True
        )
        facts = {
            "name": self.name,
            "module": self.module,
            "class_name": self.class_name,
            "kind": self.kind,
            "group": KINDS[self.kind],
            "version": __version__,
        }
        written = {}
        for folder in ("study",) if self.kind == "study" else ("common", self.kind):
            for path in sorted((_TEMPLATES / folder).rglob("*.txt")):
                inside = path.relative_to(_TEMPLATES / folder).with_suffix("").as_posix()
                text = environment.get_template(path.relative_to(_TEMPLATES).as_posix()).render(facts)
                written[Path(inside.replace("MODULE", self.module))] = text
        if self.kind == "study":
            from simgym.study import study_template

            written[Path("study.yaml")] = study_template()
        return written


def write_scaffold(kind: str, name: str, folder: str | Path) -> list[Path]:
    """Write a package into a new folder; returns the paths.

    Raises:
        UnknownName: there is no such kind.
        ConfigurationError: the name cannot be a package's, or the folder is there and not empty.
        MissingDependency: a study needs the extra `study`.
        TranscriptError: the folder cannot be written.
    """
    files = Scaffold(kind, name).files()
    root = Path(folder)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ConfigurationError(f"{root} is there already and is not an empty folder. Give another one.")
    for path, text in files.items():
        write_whole(root / path, text)
    return [root / path for path in files]
