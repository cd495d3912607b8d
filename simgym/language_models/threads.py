"""How torch's threads behave in a process of simgym; called before torch is imported for the first time.

OpenMP threads wait actively by default: beside other busy processes they burn the time slices that the working thread
needs. So they wait passively here, and there are no more of them than the process may use processors. The user's
OMP_WAIT_POLICY, GOMP_SPINCOUNT and OMP_NUM_THREADS are left alone; a number from `torch.set_num_threads` is lowered if
the process may not use as many processors and OMP_NUM_THREADS is not set. Where torch was imported earlier, OpenMP has
read its environment already: then only the number of threads is bounded.

A forked child inherits OpenMP's records of threads that do not exist in it, and waits for them for ever. One thread
needs no others: `settle_threads` in a forked child leaves one.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

from simgym.errors import ConfigurationError

_settled = False
_forked = False
"""Whether this process was forked from one that had imported torch."""


def _after_fork() -> None:
    global _settled, _forked
    _settled = False
    _forked = "torch" in sys.modules


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def settle_threads() -> None:
    """Set how torch's threads wait, and how many there are; once per process, and again in a forked child."""
    global _settled
    if _settled:
        return
    _settled = True
    if "torch" not in sys.modules and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ["GOMP_SPINCOUNT"] = "0"
    import torch

    if _forked:
        torch.set_num_threads(1)
    elif "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > usable_processors():
        torch.set_num_threads(usable_processors())


def check_fork(device: str) -> None:
    """Refuse a GPU in a process that was forked from one that had used it: CUDA does not work there.

    Args:
        device: Where the model is, or `auto`.

    Raises:
        ConfigurationError: it is such a process.
    """
    if not _forked or device == "cpu":
        return
    import torch

    if torch.cuda._is_in_bad_fork():
        raise ConfigurationError(
            "This process was forked from one that had used the GPU, and CUDA does not work in it. Start workers by "
            "spawn (gymnasium: vector_kwargs={'context': 'spawn'}; SubprocVecEnv: start_method='spawn'; DataLoader: "
            "multiprocessing_context='spawn'), or use vectorization_mode='vector_entry_point'."
        )


def usable_processors() -> int:
    """Processors that this process may use at a time: its affinity, and the quota of its control group, rounded up."""
    affine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(Path("/sys/fs/cgroup"))
    return max(1, affine if math.isinf(quota) else min(affine, math.ceil(quota)))


def _quota(root: Path) -> float:
    """Processors that the control group (version 2, else 1) grants; infinite without one."""
    limits = [_ratio(_words(root / "cpu.max"))]
    for line in _lines(Path("/proc/self/cgroup")):
        hierarchy, _, group = line.partition("::")
        if hierarchy == "0":
            folder = root / group.lstrip("/")
            groups = [parent for parent in (folder, *folder.parents) if root in parent.parents]
            limits += [_ratio(_words(parent / "cpu.max")) for parent in groups]
    for name in ("cpu", "cpu,cpuacct"):
        limits.append(_ratio([*_words(root / name / "cpu.cfs_quota_us"), *_words(root / name / "cpu.cfs_period_us")]))
    return min(limits)


def _ratio(words: list[str]) -> float:
    """Quota over period; `max` and negative quotas mean none."""
    if len(words) != 2 or not words[0].isdigit() or not words[1].isdigit() or int(words[1]) == 0:
        return math.inf
    return int(words[0]) / int(words[1]) or math.inf


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
