"""From a name to a judge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simgym.errors import ConfigurationError
from simgym.judges.base import Judge
from simgym.language_models.loading import LanguageModelSpec
from simgym.language_models.model_spec import check_named_model
from simgym.plugins import find, make, options_of


def load_judge(
    judge: str | Judge, model: LanguageModelSpec | None = None, options: Mapping[str, Any] | None = None
) -> Judge:
    """The judge called `judge`, or the instance itself.

    Args:
        judge: A registered name (`reward_head`, `rubric`, or a plug-in's), `py:module:Class`, or a `Judge`.
        model: Passed on to judges that take a model; None: their own default.
        options: Further constructor arguments.

    Raises:
        UnknownName: no judge has that name, or the judge has no such option.
        ConfigurationError: it does not take these arguments, or the object is not a judge.
    """
    if not isinstance(judge, str):
        if not isinstance(judge, Judge):
            raise ConfigurationError(
                f"A judge is a {type(judge).__name__}, expected a name or an object with judge and fingerprint."
            )
        return judge
    arguments = dict(options or {})
    if model is not None:
        check_named_model(model)
        if "model" in options_of(find("judges", judge)):
            arguments["model"] = model
    loaded = make("judges", judge, arguments)
    if not isinstance(loaded, Judge):
        raise ConfigurationError(
            f"{judge} makes a {type(loaded).__name__}, expected an object with judge and fingerprint."
        )
    return loaded
