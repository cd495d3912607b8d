"""What this machine is, for reports of measurements and for the doctor."""

from __future__ import annotations

import os
from pathlib import Path


def describe_machine() -> dict[str, object]:
    """Processor cores, memory in GB, and the device that models run on (None without torch)."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine: dict[str, object] = {"cores": usable, "memory_gb": _memory_gb(), "device": None, "torch_threads": None}
    try:
        import torch
    except (ImportError, OSError):
        return machine
    machine["torch_threads"] = torch.get_num_threads()
    if torch.cuda.is_available():
        machine["device"] = f"cuda: {torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    else:
        machine["device"] = "mps" if torch.backends.mps.is_available() else "cpu"
    return machine


def _memory_gb() -> float | None:
    """Physical memory, or the container's limit if that is lower."""
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        size = min(size, int(text))
    return round(size / 1e9, 1)
