from __future__ import annotations

import sys

import pytest

from simgym.errors import ConfigurationError, UnknownName
from simgym.plugins import available, find, make, options_of


@pytest.mark.parametrize("kind", ["simulators", "judges", "language_models", "assistants"])
def test_every_option_of_every_plugin_is_documented(kind):
    for name in available(kind):
        options = options_of(find(kind, name))
        assert not [option for option in options if not options[option].help], name


def test_a_function_that_passes_options_on_has_those_of_what_it_returns():
    assert {"persona_prompts", "temperature", "model"} <= set(options_of(find("simulators", "persona")))
    with pytest.raises(UnknownName, match="Did you mean 'temperature'"):
        make("simulators", "persona", {"temprature": 1})


def test_a_missing_option_is_named():
    with pytest.raises(ConfigurationError, match="needs the option 'judges'"):
        make("judges", "ensemble", {})


def test_a_module_of_the_working_directory_does_not_hide_an_installed_one(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("JSONDecoder = None\n")
    (tmp_path / "broken_plugin.py").write_text("import not_installed_anywhere\nclass A: pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert find("simulators", "py:json:JSONDecoder") is not None
    with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere"):
        find("simulators", "py:broken_plugin:A")
