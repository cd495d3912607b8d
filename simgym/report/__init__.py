"""What a run found, as JSON and as a page to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simgym._exports import lazy_exports

if TYPE_CHECKING:
    from simgym.report.html import write_report
    from simgym.report.realism import realism_results, write_realism_report
    from simgym.report.results import MatrixResults
    from simgym.report.runs import StoredRun, join_runs, read_runs
    from simgym.report.study import write_study_report

__all__ = [
    # a matrix
    "StoredRun",
    "read_runs",
    "join_runs",
    "MatrixResults",
    "write_report",
    # other results
    "realism_results",
    "write_realism_report",
    "write_study_report",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "html": ("write_report",),
        "realism": ("realism_results", "write_realism_report"),
        "results": ("MatrixResults",),
        "runs": ("StoredRun", "read_runs", "join_runs"),
        "study": ("write_study_report",),
    },
)
