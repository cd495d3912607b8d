"""What all reports share: templates with autoescape on, and files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from simgym.errors import TranscriptError

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

    Raises:
        TranscriptError: the file cannot be written.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8", errors="replace")
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise TranscriptError(f"Cannot write the report to {path}: {error.strerror}.") from error
