"""Assistants with simulated users: from an assistant and a simulation to transcripts."""

from simgym.rollout._collect import collect, collect_jobs
from simgym.rollout._conversing import converse
from simgym.rollout.budget import Budget, Price
from simgym.rollout.collection import count_exclusions
from simgym.rollout.ray_collect import ray_collect_jobs
from simgym.rollout.settings import Job, RunSettings

__all__ = [
    # running conversations
    "collect",
    "collect_jobs",
    "converse",
    "Job",
    "RunSettings",
    "count_exclusions",
    "ray_collect_jobs",
    # what a run may use
    "Budget",
    "Price",
]
