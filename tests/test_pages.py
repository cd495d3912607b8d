"""README and docs keep their word: blocks run as written, commands exist, links and anchors lead somewhere."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import typer

from simgym.cli.main import app
from simgym.faults import FaultKind

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "docs" / "tools"))
from blocks import blocks_of  # noqa: E402
from warm_python import run_warm  # noqa: E402

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINKED = [*PAGES, ROOT / "agents" / "README.md", ROOT / "benchmarks" / "README.md"]
REPOSITORY = re.compile(r"https://github\.com/simgym/simgym/(?:blob|raw)/main/")
BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def name(item):
    return str(item.relative_to(ROOT)) if isinstance(item, Path) else f"{item.page.relative_to(ROOT)}:{item.line}"


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=name)
def test_a_python_block_runs_as_written(block, smollm, tmp_path):
    if block.not_run:
        pytest.skip(block.not_run)
    warm = block.language == "python"
    outcome = run_warm(["-c", block.code], cwd=tmp_path) if warm else block.run(tmp_path)
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    assert outcome.stdout.strip()


def test_the_readme_is_read_in_two_minutes():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


def commands(page):
    """The `simgym` commands of a page's shell blocks, as lists of words."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```(?:bash|console)\n(.*?)^```", text, re.M | re.S):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            if match := re.match(r"(?:\$ )?(?:[A-Z_]+=\S+ )*simgym (.*)", line.strip()):
                yield shlex.split(match[1], comments=True)


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(page))], ids=name)
def test_the_commands_and_options_it_names_exist(page):
    for words in commands(page):
        command = typer.main.get_command(app)
        while hasattr(command, "commands") and words and not words[0].startswith("-"):
            assert words[0] in command.commands, f"there is no `simgym {words[0]}`"
            command, words = command.commands[words[0]], words[1:]
        known = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
        for word in words:
            if re.match(r"--?[a-zA-Z]", word):
                assert word.partition("=")[0] in known | {"--help"}, f"`{command.name}` has no option {word}"


def anchors(page):
    """The anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = [re.sub(r"\[(.*?)\]\(.*?\)|[`*]", r"\1", heading) for heading in re.findall(r"^#+ (.*)$", text, re.M)]
    return {re.sub(r" ", "-", re.sub(r"[^\w\- ]", "", heading.lower())) for heading in headings}


@pytest.mark.parametrize("page", LINKED, ids=name)
def test_a_link_leads_to_a_file_and_a_heading_that_exist(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if inside := REPOSITORY.match(path):
            file = ROOT / path[inside.end() :]
        elif re.match(r"[a-z]+:", path):
            continue
        else:
            file = page.parent / path if path else page
        assert file.exists(), f"{target} leads nowhere"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{target}: {file.name} has no such heading"


def test_every_kind_of_fault_is_explained():
    page = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    assert [kind for kind in FaultKind if f"`{kind}`" not in page] == []
