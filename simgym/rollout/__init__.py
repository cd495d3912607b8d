"""Assistants with simulated users: from an assistant and a simulation to transcripts."""

from simgym.rollout._collect import collect, converse
from simgym.rollout._collect_jobs import collect_jobs
from simgym.rollout.budget import Budget, Price
from simgym.rollout.collection import Job, count_exclusions
from simgym.rollout.ray_collect import ray_collect_jobs

__all__ = [
    # running conversations
    "collect",
    "collect_jobs",
    "converse",
    "Job",
    "count_exclusions",
    "ray_collect_jobs",
    # what a run may use
    "Budget",
    "Price",
]
