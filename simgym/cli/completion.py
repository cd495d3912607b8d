"""What the shell completes: names of environments, and of plug-ins of each kind.

Names come from tables and installed metadata; no simulator is imported, so that completion is quick.
"""

from __future__ import annotations

from collections.abc import Callable


def complete_env(incomplete: str) -> list[str]:
    """Environment ids."""
    from simgym.registration import environments

    return [name for name in environments() if name.startswith(incomplete)]


def _plugins(kind: str) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        from simgym.plugins import available

        return [name for name in available(kind) if name.startswith(incomplete)]

    return complete


complete_simulator = _plugins("simulators")
complete_judge = _plugins("judges")
complete_assistant = _plugins("assistants")
complete_scenarios = _plugins("scenario_sets")
complete_exporter = _plugins("exporters")
