"""Before the first conversation: is everybody there whom it needs, and is anything left to do?

A wrong key, a server that is away or a missing tokenizer would otherwise be found after hours, in the last column, or
be written down as thousands of failed conversations.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from simgym.errors import ConfigurationError, MissingDependency, ServerUnavailable, WeightsError
from simgym.plugins import check_ready


def check_all_ready(parts: Iterable[tuple[str, Any]]) -> None:
    """Load or ask the models of assistants, simulators and judges; nothing is written.

    Args:
        parts: What each is called in a message (`judge`, `assistant mine`), and the assistant, simulator or judge.

    Raises:
        ConfigurationError: one lacks something; the message begins with its name. Likewise `WeightsError` and
            `MissingDependency`.
        ServerUnavailable: the server of one does not answer.
    """
    for name, part in parts:
        try:
            check_ready(part)
        except (ConfigurationError, WeightsError, MissingDependency, ServerUnavailable) as error:
            raise type(error)(f"The {name} is not ready: {error}") from error
