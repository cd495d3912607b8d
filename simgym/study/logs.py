"""What a study's server writes to its log: one line a record, no texts, no ids, and not without bound.

Errors are named by their class and by where they were raised; their messages stay out, because a database or a model's
server repeats in them what it was given. Control characters and line ends are escaped, so that nothing that somebody
sent can look like a line of ours. Beyond so many lines a minute records are counted, and the number is written.
"""

from __future__ import annotations

import logging
import re
import time
import traceback
from types import TracebackType

LINES_PER_MINUTE = 120
"""Records written in a minute; more are counted."""
_LONGEST = 1000
"""Characters of a line."""
_FRAMES = 4
"""Places in simgym named of an error, the innermost first, after the one where it was raised."""
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class OneLine(logging.Formatter):
    """Formats a record as one bounded line."""

    def format(self, record: logging.LogRecord) -> str:
        text = f"{self.formatTime(record)} {record.levelname} {record.name}: {record.getMessage()}"
        if record.exc_info and record.exc_info[1] is not None:
            text += f" [{describe(record.exc_info[1])}]"
        return escape(text)[:_LONGEST]


class Bounded(logging.Filter):
    """Lets so many records a minute through, and says how many it did not."""

    def __init__(self, per_minute: int = LINES_PER_MINUTE) -> None:
        super().__init__()
        self._per_minute, self._began, self._written, self._left_out = per_minute, time.monotonic(), 0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now - self._began >= 60:
            if self._left_out:
                record.msg = f"({self._left_out} records of the last minute were left out) {record.getMessage()}"
                record.args = ()
            self._began, self._written, self._left_out = now, 0, 0
        if self._written >= self._per_minute:
            self._left_out += 1
            return False
        self._written += 1
        return True


def escape(text: str) -> str:
    """Escape control characters, line ends and what changes the direction of text, as `\\x1b` and the like."""
    return _UNPRINTABLE.sub(lambda match: match.group().encode("unicode_escape", "surrogatepass").decode(), text)


def describe(error: BaseException) -> str:
    """An error and its causes by class and place, without their messages."""
    parts: list[str] = []
    current: BaseException | None = error
    while current is not None and len(parts) < 3:
        parts.append(f"{type(current).__name__}{_places(current.__traceback__)}")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return ", because of ".join(parts)


def _places(raised: TracebackType | None) -> str:
    frames = traceback.extract_tb(raised)
    ours = [frame for frame in frames[:-1] if "simgym" in frame.filename]
    chosen = [*frames[-1:], *reversed(ours[-_FRAMES:])]
    places = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in chosen]
    return f" at {' < '.join(places)}" if places else ""


def log_config() -> dict[str, object]:
    """For `logging.config.dictConfig` and uvicorn: everything to stderr in that manner."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"bounded": {"()": "simgym.study.logs.Bounded"}},
        "formatters": {"one_line": {"()": "simgym.study.logs.OneLine"}},
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": "one_line", "filters": ["bounded"]},
        },
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {"uvicorn": {"level": "WARNING"}, "simgym.study": {"level": "WARNING"}},
    }
