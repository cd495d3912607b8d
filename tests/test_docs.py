"""The documentation says what the code does."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "docs" / "tools"))
from integration_pages import integration_pages  # noqa: E402

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


def test_every_python_block_of_the_integrations_is_run_by_a_test():
    page = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
    titles = [part.split("\n", 1)[0] for part in page.split("\n## ") if "```python" in part]
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    run = re.findall(r"""\b(?:documented|shell|block_of)\("([^"]+)"\)""", sources)
    assert len(titles) >= 12
    assert not [title for title in titles if not any(title.startswith(beginning) for beginning in run)]


def test_the_table_of_field_faults_is_what_its_command_recorded():
    assert subprocess.run([sys.executable, "docs/tools/field_faults.py", "--check"], cwd=ROOT).returncode == 0


def test_a_recording_shows_what_was_printed_and_fetches_no_font(tmp_path):
    said = "import sys; sys.stdout.write('\\x1b[31mred <b>\\x1b[0m')"
    command = ["docs/tools/record.py", str(tmp_path / "out.svg"), "--", sys.executable, "-c", said]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    picture = (tmp_path / "out.svg").read_text(encoding="utf-8")
    assert "red&#160;&lt;b&gt;" in picture
    assert re.findall(r"(?:url\(|href=|src=).?https?:", picture) == []


def test_an_animation_draws_every_state_of_a_line_and_ends_as_the_terminal_did(tmp_path):
    pytest.importorskip("pyte", reason="needs the extra simgym[docs]")
    events = [[1.0, "o", "work <1>"], [9.0, "o", "\r\x1b[2K\x1b[31mdone\x1b[0m\r\n"], [9.5, "o", "end\r\n" * 40]]
    header = {"version": 2, "width": 20, "height": 5, "command": "make it"}
    cast, picture = tmp_path / "a.cast", tmp_path / "a.svg"
    cast.write_text("\n".join(map(json.dumps, [header, *events])))
    subprocess.run([sys.executable, "docs/tools/animate.py", picture, "--from", cast], cwd=ROOT, check=True)
    drawn = [node for node in ElementTree.parse(picture).iter() if node.tag.endswith("}text")]
    assert [node.text for node in drawn] == ["$ make it", "work <1>", "done", *["end"] * 40]
    style = picture.read_text()
    hidden_again = [text for text in re.findall(r"@keyframes s\d+\{(.*?)\}\}", style) if text.count("hidden") == 2]
    assert len(hidden_again) == 1  # `work`, which was written over
    assert "prefers-reduced-motion" in style
    assert re.findall(r"(?:url\(|href=|src=).?https?:", style) == []


def test_every_integration_has_a_page_of_the_same_three_parts():
    pages = integration_pages()
    assert len(pages) >= 11
    for path, page in pages.items():
        assert re.findall(r"^## (.*)", page, re.M) == ["Install", "Ten lines", "Masked and seeded"], path
        assert "pip install" in page.split("## Ten lines")[0], path
        assert "```" in page, path


def test_the_notebooks_are_those_of_their_tutorials_and_were_run():
    assert subprocess.run([sys.executable, "docs/tools/notebooks.py", "--check"], cwd=ROOT).returncode == 0


@pytest.mark.slow
@pytest.mark.daily
@pytest.mark.parametrize("name", ["evaluate", "train", "plug-in", "scale"])
def test_a_notebook_runs(name):
    pytest.importorskip("nbclient", reason="needs the extra simgym[dev]")
    from notebooks import execute

    cells = execute(name)["cells"]
    assert all(cell["outputs"] for cell in cells if cell["cell_type"] == "code")
