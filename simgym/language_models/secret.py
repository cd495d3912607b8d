"""A key that is used and never shown: dots when printed, the name of its environment variable when written.

Pickles go to other processes, to Ray's object store and into crash reports; plans, transcripts and tracebacks are
shared. None of them holds the value: an unpickled `Secret` reads it again, from the same variable, where it is used.
"""

from __future__ import annotations

import os

from simgym.errors import ConfigurationError

NO_SECRETS = ("", "none", "empty", "dummy")
"""Keys that stand for no key, in lower case; servers of one's own are often told such."""


class Secret:
    """An API key, or the environment variable that holds it."""

    __slots__ = ("_left_behind", "_value", "variable")

    def __init__(self, variable: str, value: str | None = None) -> None:
        """The variable is read when the key is asked for, not here.

        Args:
            variable: Name of the environment variable, e.g. `OPENAI_API_KEY`.
            value: The key itself; None or empty: what the variable holds then.
        """
        self.variable = variable
        self._value = value
        self._left_behind = False

    def reveal(self) -> str:
        """The key without blanks around it; empty if there is none.

        Raises:
            ConfigurationError: it has characters that no key has, or it was given in another process and is not here.
        """
        key = (self._value or os.environ.get(self.variable) or "").strip()
        if not key and self._left_behind:
            raise ConfigurationError(
                "A key that is given in Python (api_key=) does not travel to other processes or into pickles. "
                f"Set {self.variable} there."
            )
        if not (key.isascii() and key.isprintable()):
            raise ConfigurationError("The API key has characters that no key has. Copy it again, without line breaks.")
        return key

    def to_json(self) -> str:
        """The name of the variable, which is all that a file may hold."""
        return self.variable

    def __repr__(self) -> str:
        return "••••••"

    def __deepcopy__(self, memo: object) -> Secret:
        return self  # within this process

    def __copy__(self) -> Secret:
        return self

    def __reduce__(self) -> tuple[object, tuple[str, bool]]:
        given = (self._value or "").strip().lower() not in NO_SECRETS
        return _elsewhere, (self.variable, self._left_behind or given)


def _elsewhere(variable: str, left_behind: bool) -> Secret:
    secret = Secret(variable)
    secret._left_behind = left_behind
    return secret
