"""Shared fixtures: a tiny random model (the real class), the real 135M model, and small scenario sets."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from simgym.conversation import INTENT_PREFIX, Message, Scenario
from simgym.data import SOURCES
from simgym.data.sources import Availability, availability, data_folder

HERE = Path(__file__).resolve().parent
BESIDE = HERE.parents[1] / "shared" / "data"
NEEDS_LOCAL = "the extra simgym[local] is not installed"


LONGEST = (
    "test_pages.py",
    "benchmarks/test_controlled_experiment.py",
    "attack/test_study.py",
    "rollout/test_ray_collect.py",
    "attack/test_interrupts.py",
    "language_models/test_openai_lm.py",
    "evaluation/test_realism.py",
    "agents/test_grpo.py",
    "agents/test_ppo.py",
    "study/test_browser.py",
    "rollout/test_server_collection.py",
    "cli/test_servers.py",
    "cli/test_files.py",
    "evaluation/test_plan.py",
    "benchmarks/test_gpu.py",
    "integrations/test_trl_processes.py",
)
"""Files that take longest. They come first, so that of several processes none is left alone with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {str(HERE / name): place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(str(item.path), len(places)))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a random byte-level Llama."""
    pytest.importorskip("torch", reason=NEEDS_LOCAL)
    from simgym.testing import save_tiny_model

    return str(save_tiny_model(tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture(scope="session")
def tiny_adapter(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a random LoRA adapter for `tiny_model`."""
    from simgym.testing import save_tiny_adapter

    return str(save_tiny_adapter(tmp_path_factory.mktemp("tiny") / "adapter", tiny_model))


@pytest.fixture(scope="session")
def smollm() -> str:
    """Name of the real 135M model, downloaded and converted if it is not yet."""
    pytest.importorskip("torch", reason=NEEDS_LOCAL)
    from simgym.language_models import DEFAULT_MODEL, resolve_weights

    resolve_weights(DEFAULT_MODEL)
    return DEFAULT_MODEL


@pytest.fixture
def scenarios() -> list[Scenario]:
    """Six scenarios with openings and recorded human turns."""
    wishes = [
        "plan a trip to Porto",
        "mend a bicycle tyre",
        "write a toast",
        "learn to bake bread",
        "fix a sum",
        "rest",
    ]
    return [
        Scenario(
            id=f"s{number}",
            intent=f"{INTENT_PREFIX}{wish} without spending any money at all this week",
            opening=f"hello, can we {wish}?",
            persona_seed=number,
            source="made for a test",
            history=(
                Message("user", f"hello, can we {wish}?"),
                Message("assistant", "Yes."),
                Message("user", f"fine, number {number}"),
            ),
        )
        for number, wish in enumerate(wishes)
    ]


@pytest.fixture
def data_of_others(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Path of a file that simgym does not ship, from $SIMGYM_DATA or a folder beside the checkout; skips without it."""
    if "SIMGYM_DATA" not in os.environ and BESIDE.is_dir():
        monkeypatch.setenv("SIMGYM_DATA", str(BESIDE))

    def find(name: str) -> Path:
        source = next(source for source in SOURCES if source.name == name)
        if availability(source) is not Availability.READY:
            pytest.skip(f"needs {name} in $SIMGYM_DATA; `simgym data sources` says whose it is")
        return data_folder() / name

    return find


@pytest.fixture
def warm_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers of studies begin in a second less; `attack/test_interrupts.py` has one in a Python of its own."""
    from warm_python import WarmProcess

    from simgym.study import serving

    names = {name: getattr(subprocess, name) for name in ("DEVNULL", "PIPE", "TimeoutExpired")}
    monkeypatch.setattr(serving, "subprocess", SimpleNamespace(Popen=WarmProcess, **names))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with one CPU and one GPU (declared, not there) each, and this process connected to them."""
    ray = pytest.importorskip("ray", reason="needs the extra `ray`")
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 1, "include_dashboard": False})
    started.add_node(num_cpus=1, num_gpus=1)
    ray.init(address=started.address, log_to_driver=False, configure_logging=False)
    started.wait_for_nodes()
    yield started
    ray.shutdown()
    started.shutdown()
