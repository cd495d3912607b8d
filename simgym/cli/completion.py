"""What the shell completes: names of environments, simulators, judges and scenario sets.

Names come from tables and installed metadata; no simulator is imported, so that completion is quick.
"""

from __future__ import annotations

from collections.abc import Iterable


def complete_env(incomplete: str) -> list[str]:
    """Environment ids."""
    from simgym.registration import environments

    return _starting(incomplete, environments())


def complete_simulator(incomplete: str) -> list[str]:
    """Simulators, plug-ins included."""
    return _plugins("simulators", incomplete)


def complete_judge(incomplete: str) -> list[str]:
    """Judges, plug-ins included."""
    return _plugins("judges", incomplete)


def complete_assistant(incomplete: str) -> list[str]:
    """Assistants, plug-ins included."""
    return _plugins("assistants", incomplete)


def complete_scenarios(incomplete: str) -> list[str]:
    """Scenario sets, plug-ins included."""
    return _plugins("scenario_sets", incomplete)


def _plugins(kind: str, incomplete: str) -> list[str]:
    from simgym.plugins import available

    return _starting(incomplete, available(kind))


def _starting(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
