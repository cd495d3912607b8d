"""A connection to a Ray cluster, for as long as it is needed."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from simgym.errors import ConfigurationError
from simgym.extras import optional_import

if TYPE_CHECKING:
    from types import ModuleType

_LONGEST_CONNECTING = 10.0
"""Seconds that the cluster's head may take to answer."""


@contextmanager
def ray_cluster(address: str) -> Iterator[ModuleType]:
    """The module `ray`, connected; a connection that was there before is used, and stays.

    Args:
        address: Of the cluster, as `ray.init` takes it; `local` starts one here.

    Raises:
        MissingDependency: Ray is not installed.
        ConfigurationError: there is no cluster at the address.
    """
    ray = optional_import("ray", "ray")
    begun = not ray.is_initialized()
    if begun:
        _connect(ray, address)
    try:
        yield ray
    finally:
        if begun:
            ray.shutdown()


def _connect(ray: ModuleType, address: str) -> None:
    # only a cluster that is started here takes options of its own
    own = {"include_dashboard": False} if address == "local" else {}
    host, colon, port = address.rpartition(":")
    try:
        if colon and port.isdigit() and "://" not in address:
            # Ray itself tries for minutes where nobody listens
            socket.create_connection((host, int(port)), _LONGEST_CONNECTING).close()
        ray.init(address=address, log_to_driver=False, configure_logging=False, **own)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigurationError(
            f"There is no Ray cluster at {address!r} ({error}). Start one with `ray start --head`, or give `local`."
        ) from error
