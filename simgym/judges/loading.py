"""From a name to a judge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simgym.judges.base import Judge
from simgym.language_models.loading import LanguageModelSpec
from simgym.loading import load_role


def load_judge(
    judge: str | Judge, model: LanguageModelSpec | None = None, options: Mapping[str, Any] | None = None
) -> Judge:
    """The judge called `judge`, or the instance itself.

    Args:
        judge: A registered name (`reward_head`, `rubric`, or a plug-in's), `py:module:Class`, or a `Judge`.
        model: For judges that take a model, unless `options` has one; None: their own default.
        options: Further constructor arguments.

    Raises:
        UnknownName: no judge has that name, or the judge has no such option.
        ConfigurationError: it does not take these arguments, or the object is not a judge.
    """
    return load_role("judges", Judge, judge, model, options)  # type: ignore[type-abstract]
