"""The address of a model's server: what may be shown of it, and the user name and password that it can hold.

They go with every request (HTTP Basic), so a server can quote them; nothing that is stored or pickled has them.
"""

from __future__ import annotations

import base64
import os
from urllib.parse import unquote, urlsplit

from simgym.errors import ConfigurationError


def without_credentials(base_url: str) -> tuple[str, str]:
    """Host with port, and host with path.

    Raises:
        ConfigurationError: it is no web address.
    """
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigurationError("base_url is not a web address. Expected something like http://localhost:8000/v1.")
    host = parts.netloc.rpartition("@")[2]
    return host, host + parts.path


def credentials_of(base_url: str) -> tuple[str, ...]:
    """Every form in which a server may quote the address's user name and password; empty: there are none."""
    named, _, _ = urlsplit(base_url).netloc.rpartition("@")
    if not named:
        return ()
    plain = unquote(named)
    password = plain.partition(":")[2]
    return (f"Basic {base64.b64encode(plain.encode()).decode()}", named, plain, password, named.partition(":")[2])


def address_from_environment(shown: str) -> str:
    """The address that is shown so, as this process's environment has it, with credentials.

    Raises:
        ConfigurationError: it has another, or none.
    """
    base_url = os.environ.get("OPENAI_BASE_URL", "").rstrip("/")
    if not base_url or without_credentials(base_url)[1] != shown:
        raise ConfigurationError(
            "An address with a password that is given in Python (base_url=) does not travel to other processes or into "
            "pickles. Set OPENAI_BASE_URL there."
        )
    return base_url
