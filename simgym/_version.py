"""The installed version; in a module of its own, so that `import simgym` does not read the metadata of packages."""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("simgym")
"""Version of simgym, as installed."""
