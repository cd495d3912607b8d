"""Small tested packages to start a plug-in, or a study, from: `simgym init`."""

from simgym.scaffolds.writing import KINDS, Scaffold, write_scaffold

__all__ = ["KINDS", "Scaffold", "write_scaffold"]
