"""What all reports share: templates with autoescape on, and files that are written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from simgym.output_files import write_whole
from simgym.visible_text import visible

if TYPE_CHECKING:
    from jinja2 import Environment


def page_templates() -> Environment:
    """The templates beside this module; whatever a model or a person has said is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from simgym.report.names import breakable

    environment = Environment(
        loader=PackageLoader("simgym.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["name"] = breakable
    return environment


def write_page(path: str | Path, text: str) -> None:
    """Write a page; a reader never sees half of it.

    Characters that act unseen, such as those that reverse the reading direction, are written out: whatever a model, a
    file or a person has put where, it is shown to be there.

    Raises:
        TranscriptError: the file cannot be written.
    """
    write_whole(path, visible(text), errors="replace")
