"""The human study: real people compare assistants; a web app, its store and its analysis (extra `study`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simgym._exports import lazy_exports

if TYPE_CHECKING:
    from simgym.study.analysis import StudyResults, analyse
    from simgym.study.config import Study, load_study, study_template
    from simgym.study.records import Rating, Vote, ratings_of, read_records, votes_of

__all__ = [
    # what is asked of whom
    "Study",
    "load_study",
    "study_template",
    # what was answered
    "Vote",
    "Rating",
    "read_records",
    "votes_of",
    "ratings_of",
    # what it shows
    "StudyResults",
    "analyse",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "analysis": ("StudyResults", "analyse"),
        "config": ("Study", "load_study", "study_template"),
        "records": ("Vote", "Rating", "read_records", "votes_of", "ratings_of"),
    },
)
