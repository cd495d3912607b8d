"""HTTP headers for a model's server: plain texts, and secret ones, which are read from the environment when sent.

    read_headers({"X-Session-Id": "7", "X-Api-Key": {"env": "GATEWAY_KEY"}})

A specification may hold both forms, for the value of the second is in no file. A text under a name that sounds like a
secret is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from simgym.errors import ConfigurationError
from simgym.language_models.secret import Secret

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_SOUNDS_SECRET = re.compile(r"auth|key|token|secret|cookie|password|credential", re.IGNORECASE)
_OURS = ("content-type", "content-length", "host", "accept-encoding", "transfer-encoding", "connection")


def read_headers(headers: Mapping[str, object]) -> dict[str, str | Secret]:
    """Names and values; a secret is not read yet.

    Raises:
        ConfigurationError: a name or value is none that HTTP takes, is set by the client, or a secret is given as text.
    """
    if not isinstance(headers, Mapping):
        raise ConfigurationError(f"headers is a {type(headers).__name__}, expected names and values.")
    return {str(name): _value(str(name), value) for name, value in headers.items()}


def reveal_headers(headers: Mapping[str, str | Secret]) -> dict[str, str]:
    """What is sent.

    Raises:
        ConfigurationError: an environment variable is not set, or holds what no header can.
    """
    revealed = {name: value.reveal() if isinstance(value, Secret) else value for name, value in headers.items()}
    for name, text in revealed.items():
        if not text:
            variable = getattr(headers[name], "variable", "")
            raise ConfigurationError(f"The header {name} has no value. Set {variable} in the environment.")
    return revealed


def _value(name: str, value: object) -> str | Secret:
    if not _NAME.fullmatch(name) or name.lower() in _OURS:
        raise ConfigurationError(f"The header {name[:60]!r} cannot be sent: it is no header's name, or set already.")
    if isinstance(value, Secret):
        return value
    if isinstance(value, Mapping):
        if set(value) != {"env"} or not isinstance(value["env"], str) or not value["env"]:
            raise ConfigurationError(f'The header {name} is a mapping, expected {{"env": "VARIABLE"}}.')
        return Secret(value["env"])
    if _SOUNDS_SECRET.search(name):
        raise ConfigurationError(
            f"The header {name} sounds like a secret, and settings are stored in plans and shell histories. Put it "
            f'into an environment variable and give {{"env": "VARIABLE"}}.'
        )
    text = str(value)
    if isinstance(value, bool | float) or not text or len(text) > 4000 or not (text.isascii() and text.isprintable()):
        raise ConfigurationError(f"The header {name} has a value that no header can have. Give a short text.")
    return text
