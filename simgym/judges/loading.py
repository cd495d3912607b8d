"""From a name to a judge."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from simgym.errors import ConfigurationError
from simgym.judges.base import Judge
from simgym.language_models.loading import LanguageModelSpec
from simgym.plugins import find


def load_judge(
    judge: str | Judge, model: LanguageModelSpec | None = None, options: Mapping[str, Any] | None = None
) -> Judge:
    """The judge called `judge`, or the instance itself.

    Args:
        judge: A registered name (`reward_head`, `rubric`, or a plug-in's), or a `Judge`.
        model: Passed on to judges that take a model; None: their own default.
        options: Further constructor arguments.

    Raises:
        UnknownName: no judge has that name.
        ConfigurationError: it does not take these arguments, or the object is not a judge.
    """
    if not isinstance(judge, str):
        if not isinstance(judge, Judge):
            raise ConfigurationError(
                f"A judge is a {type(judge).__name__}, expected a name or an object with score and fingerprint."
            )
        return judge
    factory = find("judges", judge)
    arguments = dict(options or {})
    if model is not None and "model" in inspect.signature(factory).parameters:
        arguments["model"] = model
    try:
        made: Judge = factory(**arguments)
    except TypeError as error:
        raise ConfigurationError(f"The judge {judge!r} cannot be made: {error}.") from error
    return made
