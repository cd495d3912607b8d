"""Estimates with intervals; pure numbers."""

from simgym.statistics.intervals import Estimate, bootstrap_mean, clustered_bootstrap_mean

__all__ = ["Estimate", "bootstrap_mean", "clustered_bootstrap_mean"]
