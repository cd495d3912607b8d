"""A local page on which people read the conversations of a run and label them: `simgym view --web` (extra `serve`)."""

from __future__ import annotations

from simgym.viewer.index import TranscriptIndex
from simgym.viewer.label_book import LabelBook
from simgym.viewer.query import Query

__all__ = [
    # what is read
    "TranscriptIndex",
    "Query",
    # what is written
    "LabelBook",
]
