from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_the_import_contract_holds():
    pytest.importorskip("importlinter", reason="import-linter is in the dev extra")
    outcome = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_the_engine_imports_nothing_of_simgym_outside_itself():
    """The contract in pyproject.toml lists modules by name; this holds for those that come later, too."""
    imports = [
        name
        for path in (ROOT / "simgym" / "engine").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    ]
    assert any(name.startswith("simgym.engine") for name in imports)
    assert not [name for name in imports if name.startswith("simgym") and not name.startswith("simgym.engine")]


def test_no_module_is_longer_than_500_lines():
    long = {path.name: n for path in (ROOT / "simgym").rglob("*.py") if (n := len(path.read_text().splitlines())) > 500}
    assert not long


def test_an_integration_is_an_adapter_of_at_most_150_lines():
    """What decides, counts or computes for several of them stands in the package that it belongs to."""
    modules = (ROOT / "simgym" / "integrations").glob("*.py")
    assert not {path.name: n for path in modules if (n := len(path.read_text().splitlines())) > 150}


def test_any_stands_in_no_more_lines_than_it_has_to():
    """A value that is passed on, written down or checked is an `object`; what others make has their types."""
    sources = [path.read_text(encoding="utf-8").splitlines() for path in (ROOT / "simgym").rglob("*.py")]
    assert sum(re.search(r"\bAny\b", line) is not None for lines in sources for line in lines) <= 434


@pytest.mark.parametrize("name", ["batch_size", "budget", "progress", "retried_faults", "asynchronous", "advance"])
def test_no_setting_travels_through_more_than_three_functions(name):
    """Functions that take a setting and hand it on by its name; whoever needs more makes a record of it."""
    takers, handed = set(), {}
    for cls, function in functions():
        arguments = function.args
        if name in {each.arg for each in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]}:
            called = cls if function.name == "__init__" else function.name
            takers.add(called)
            handed.setdefault(called, set()).update(given_to(function, name))
    assert takers

    def longest(way):
        following = (handed.get(way[-1], set()) & takers) - set(way)
        return max((longest((*way, each)) for each in following), key=len, default=way)

    assert len(way := max((longest((function,)) for function in takers), key=len)) <= 3, way


@functools.cache
def functions():
    """All of simgym's, each with the class or function around it."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "simgym").rglob("*.py")]
    return [
        (getattr(node, "name", ""), child)
        for tree in trees
        for node in ast.walk(tree)
        for child in ast.iter_child_nodes(node)
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def given_to(function, name):
    """Names of what a function calls with its parameter, by whatever way it is handed on."""
    for call in ast.walk(function):
        if isinstance(call, ast.Call):
            given = [*call.args, *(keyword.value for keyword in call.keywords)]
            if any(isinstance(value, ast.Name) and value.id == name for value in given):
                called = call.args[0] if ast.unparse(call.func).endswith("partial") else call.func
                yield ast.unparse(called).rpartition(".")[2]


def test_a_module_that_begins_with_an_underscore_is_imported_in_its_own_package_alone():
    outside = []
    for path in [path for top in ("simgym", "agents", "benchmarks") for path in (ROOT / top).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("simgym."):
                package, _, private = node.module.partition("._")
                inside = path.relative_to(ROOT).as_posix().startswith(package.replace(".", "/") + "/")
                if private and package != "simgym" and not inside:
                    outside.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.module}")
    assert not outside


def test_recipes_and_experiments_do_without_the_command_line():
    for path in [*(ROOT / "agents").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        assert "simgym.cli" not in path.read_text(encoding="utf-8"), path


def test_recipes_and_experiments_import_names_that_exist():
    """They are run by path, where no type checker looks, and some only by tests that take minutes."""
    for path in [*(ROOT / "agents").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "simgym":
                file = ROOT.joinpath(*node.module.split("."))
                source = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
                defined = source.read_text(encoding="utf-8")
                for alias in node.names:
                    known = (file / alias.name).is_dir() or (file / f"{alias.name}.py").is_file()
                    assert known or re.search(rf"\b{alias.name}\b", defined), f"{path.name}: {node.module}.{alias.name}"
