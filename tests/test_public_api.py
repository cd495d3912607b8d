"""What may not change by accident: public names and their signatures, as in `public_api.txt`.

After a change that is meant: `python tests/test_public_api.py` writes the file anew. It is read off the source, so that
no extra has to be installed for it.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import pickle
from pathlib import Path

import pytest

from simgym import errors

ROOT = Path(__file__).resolve().parents[1]
PINNED = Path(__file__).with_name("public_api.txt")
PACKAGES = ["simgym", *(f"simgym.{path.parent.name}" for path in sorted((ROOT / "simgym").glob("*/__init__.py")))]
PACKAGES = [package for package in PACKAGES if package != "simgym.cli"]
MODULES = ["conversation", "errors", "faults", "plugins", "registration", "seeding", "simulation", "transcripts"]
MODULES = [f"simgym.{module}" for module in MODULES]
"""Public as a whole: what does not begin with an underscore."""


@functools.cache
def tree_of(module: str) -> ast.Module:
    path = ROOT / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports_of(module: str) -> dict[str, str]:
    """Where the names come from that a module imports from simgym, those for type checkers included."""
    return {
        alias.asname or alias.name: node.module or ""
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("simgym")
        for alias in node.names
    }


def public_names(package: str) -> list[str]:
    for node in tree_of(package).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    assert package in MODULES, f"{package} has no __all__"
    names = [name for node in tree_of(package).body for name in [getattr(node, "name", None), *assigned(node)] if name]
    return [name for name in names if not name.startswith("_")]


def definition(module: str, name: str) -> tuple[ast.stmt, ast.stmt | None]:
    """The statement that defines a name, in whatever module it is, and the one after it."""
    body = tree_of(module).body
    for statement, after in zip(body, [*body[1:], None], strict=True):
        if getattr(statement, "name", None) == name or name in assigned(statement):
            return statement, after
    return definition(imports_of(module)[name], name)


def assigned(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.Assign):
        return [ast.unparse(target) for target in statement.targets]
    return [ast.unparse(statement.target)] if isinstance(statement, ast.AnnAssign) else []


def is_package(package: str, name: str) -> bool:
    return (ROOT / package.replace(".", "/") / name).is_dir()


def exported(package: str, name: str) -> object:
    """The object; None if it needs a package that is not installed here."""
    try:
        return getattr(importlib.import_module(package), name)
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "simgym":
            raise
        return None


def described(statement: ast.stmt) -> list[str]:
    """A public object's signature, and those of its public fields and methods."""
    if isinstance(statement, ast.FunctionDef):
        return [f"def {statement.name}{signature(statement)}"]
    if not isinstance(statement, ast.ClassDef):
        return [ast.unparse(statement)]
    bases = ", ".join(ast.unparse(base) for base in statement.bases)
    marks = "".join(f"@{ast.unparse(mark)} " for mark in statement.decorator_list)
    lines = [f"{marks}class {statement.name}({bases})"]
    for member in statement.body:
        if isinstance(member, ast.FunctionDef) and (not member.name.startswith("_") or member.name == "__init__"):
            marks = "".join(f"@{ast.unparse(mark)} " for mark in member.decorator_list)
            lines.append(f"    {marks}{member.name}{signature(member)}")
        elif (names := assigned(member)) and (names[0] == "_" or not names[0].startswith("_")):  # _: KW_ONLY
            lines.append(f"    {ast.unparse(member)}")
    return lines


def signature(function: ast.FunctionDef) -> str:
    returned = f" -> {ast.unparse(function.returns)}" if function.returns is not None else ""
    return f"({ast.unparse(function.args)}){returned}"


def public_api() -> str:
    lines = ["# Public names and signatures; `python tests/test_public_api.py` writes this file anew."]
    for package in [*PACKAGES, *MODULES]:
        lines += ["", f"[{package}]"]
        for name in sorted(public_names(package)):
            if is_package(package, name):
                lines.append(f"package {name}")
            elif package == "simgym" and imports_of(package)[name] in [*PACKAGES, *MODULES]:
                lines.append(f"{name}: see {imports_of(package)[name]}")
            else:
                lines += described(definition(package, name)[0])
    return "\n".join(lines) + "\n"


def test_public_names_and_signatures_are_those_that_are_pinned():
    pinned, now = PINNED.read_text(encoding="utf-8").splitlines(), public_api().splitlines()
    difference = list(difflib.unified_diff(pinned, now, "pinned", "now", lineterm="", n=1))
    changed = "\n".join(difference)
    assert not difference, (
        f"The public API changed:\n{changed}\n"
        "If that is meant, tell users in CHANGELOG.md and run: python tests/test_public_api.py"
    )


@pytest.mark.parametrize("package", [*PACKAGES, *MODULES])
def test_every_public_name_exists_and_says_what_it_is(package):
    names = public_names(package)
    assert len(names) == len(set(names))
    assert set(names) <= set(dir(importlib.import_module(package)))
    undocumented = []
    for name in names:
        exported(package, name)
        if not is_package(package, name):
            statement, after = definition(package, name)
            text = ast.get_docstring(statement) if isinstance(statement, ast.ClassDef | ast.FunctionDef) else None
            if not text and not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)):
                undocumented.append(name)
    assert not undocumented


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_and_python_find_a_public_name_in_the_same_module(package):
    for name in public_names(package):
        if not is_package(package, name):
            assert exported(package, name) is exported(imports_of(package)[name], name), name


@pytest.mark.parametrize("package", PACKAGES)
def test_no_public_name_is_also_the_name_of_a_module(package):
    """Importing the module would put it in the place of the name; such a module begins with an underscore."""
    folder = ROOT / package.replace(".", "/")
    assert not [name for name in public_names(package) if (folder / f"{name}.py").exists()]


def test_a_name_that_does_not_exist_is_an_attribute_error_with_the_nearest():
    import simgym

    with pytest.raises(AttributeError, match="no attribute 'colect'") as refused:
        simgym.colect  # noqa: B018
    assert refused.value.name == "colect"
    assert "collect" in dir(refused.value.obj)


@pytest.mark.parametrize("name", [name for name in vars(errors) if isinstance(vars(errors)[name], type)])
def test_every_error_has_a_standard_parent_and_can_be_pickled(name):
    error = vars(errors)[name]("what was wrong")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), "what was wrong")


if __name__ == "__main__":
    PINNED.write_text(public_api(), encoding="utf-8")
    print(f"Wrote {PINNED}.")
