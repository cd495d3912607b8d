"""statsmodels is optional: imported where it is used, and missed in a sentence."""

from __future__ import annotations

import importlib
from typing import Any


def load(module: str) -> Any:
    """A module of statsmodels.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module(f"statsmodels.{module}")
    except ModuleNotFoundError as error:
        if error.name != "statsmodels":
            raise  # installed but broken inside: show the real cause
        raise ImportError("statsmodels is not installed. Run: pip install 'simgym[stats]'") from error
