from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from simgym.simulators import SHIPPED_ADAPTER

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def recipe():
    specification = importlib.util.spec_from_file_location("package_adapter_recipe", ROOT / "agents/package_adapter.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    yield module
    del sys.modules[specification.name]


def test_the_card_says_what_the_logs_say(recipe):
    log = json.loads((SHIPPED_ADAPTER / "training_log.json").read_text())
    results, wider = map(recipe.results_of, (recipe.RESULTS, recipe.WIDER))
    assert (SHIPPED_ADAPTER / "README.md").read_text() == recipe.card(log, results, wider)
    fewer = results["bits_per_byte"]["later"]["fewer_percent_than"]["before"]["value"]
    assert f"{fewer:.1f} %" in (SHIPPED_ADAPTER / "README.md").read_text()


def test_what_is_shipped_is_small_and_names_no_machine():
    files = sorted(entry.name for entry in SHIPPED_ADAPTER.iterdir())
    assert files == ["README.md", "adapter_config.json", "adapter_model.safetensors", "added_tokens.json",
                     "training_log.json"]  # fmt: skip
    assert sum(entry.stat().st_size for entry in SHIPPED_ADAPTER.iterdir()) < 10e6
    config = json.loads((SHIPPED_ADAPTER / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "smollm2-135m-instruct"
    assert "/" not in "".join(str(value) for value in config.values() if isinstance(value, str))


def test_the_hours_of_a_resumed_training_are_those_of_all_sessions(recipe):
    history = [{"train_runtime": seconds} for seconds in (10.0, 50.0, 5.0, 20.0, 25.0)]
    assert recipe._training_seconds(history) == 75.0
