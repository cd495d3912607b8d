"""The name under which verifiers finds simgym: its ids are top-level modules. See `simgym.integrations.verifiers`."""

from simgym.integrations.verifiers import Scenarios, SimulatedUser

__all__ = ["Scenarios", "SimulatedUser"]
