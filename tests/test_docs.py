"""The documentation says what the code does."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"


def test_the_diagram_is_that_of_the_import_contract():
    assert subprocess.run([sys.executable, "docs/tools/diagram.py", "--check"], cwd=ROOT).returncode == 0


def hops():
    after = re.findall(r"<!-- (?:step|matrix|grpo) -->(.*?)<!-- end -->", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return sorted({hop for block in after for hop in re.findall(r"^([a-z_0-9/]+\.py):(\S+)", block, re.MULTILINE)})


@pytest.mark.parametrize(("file", "function"), hops())
def test_a_hop_of_a_journey_is_a_function_of_that_file(file, function):
    tree = ast.parse((ROOT / "simgym" / file).read_text(encoding="utf-8"))
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert set(re.sub(r"<\w+>", "", function).split(".")) - {""} <= names


def test_the_table_of_contracts_is_what_the_contract_tests_recorded():
    assert subprocess.run([sys.executable, "docs/tools/contracts.py", "--check"], cwd=ROOT).returncode == 0


def test_a_recording_shows_what_was_printed_and_fetches_no_font(tmp_path):
    said = "import sys; sys.stdout.write('\\x1b[31mred <b>\\x1b[0m')"
    command = ["docs/tools/record.py", str(tmp_path / "out.svg"), "--", sys.executable, "-c", said]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    picture = (tmp_path / "out.svg").read_text(encoding="utf-8")
    assert "red&#160;&lt;b&gt;" in picture
    assert re.findall(r"(?:url\(|href=|src=).?https?:", picture) == []
