"""What `pyproject.toml` cannot say: a wheel holds the recipes of `agents/` as `simgym/recipes/files`.

`agents/` stays the only source. It cannot be a package, for another one on the package index has that name; so wheels
carry it as data, which `simgym recipe` copies out.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

AGENTS = Path(__file__).resolve().parent / "agents"


class BuildWithRecipes(build_py):
    """Copies the recipes beside the package's own files; an editable installation reads them where they are."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "simgym" / "recipes" / "files"
        shutil.rmtree(target, ignore_errors=True)
        for source in [*AGENTS.glob("*.py"), AGENTS / "README.md", *AGENTS.glob("configs/*.yaml")]:
            file = target / source.relative_to(AGENTS)
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, file)


setup(cmdclass={"build_py": BuildWithRecipes})
