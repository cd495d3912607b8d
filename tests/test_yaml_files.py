"""YAML that people wrote, or somebody who wishes them ill."""

from __future__ import annotations

import pytest

from simgym.errors import MalformedFile
from simgym.yaml_files import parse_yaml


@pytest.mark.parametrize(
    "text",
    ['!!int ""', '!!bool "maybe"', "!!timestamp x", "2024-02-30", "{a: b: c}", "!!float x", "!!binary 1", "[" * 5000],
)
def test_what_is_no_yaml_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(MalformedFile, match=r"config\.yaml is not YAML: "):
        parse_yaml(text, "config.yaml")


@pytest.mark.parametrize("kind", ["!!set", "!!omap", "!!pairs"])
def test_aliases_that_multiply_are_counted_in_every_collection(kind: str) -> None:
    lines = [f"a0: &a0 [{', '.join('x' * 50)}]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 50)}]" for n in range(1, 6)]
    wrapped = "b: !!set {x}" if kind == "!!set" else f"b: {kind} [k: *a5]"
    with pytest.raises(MalformedFile, match="aliases"):
        parse_yaml("\n".join([*lines, wrapped]), "config.yaml")
