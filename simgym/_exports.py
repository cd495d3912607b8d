"""Public names of a package that are imported when they are first asked for (PEP 562).

`import simgym` and `import simgym.statistics` have to stay light: a package whose modules import torch, scipy or a
training library lists its names here instead of importing them. Type checkers read the imports under `TYPE_CHECKING`
of the same file; a test compares the two.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence


def lazy_exports(
    package: str, names: Mapping[str, Sequence[str]], *, public: Sequence[str] = ()
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package.

    Args:
        package: Its `__name__`.
        names: Public names by the module that defines them: relative to the package, or whole (`simgym.envs.features`).
        public: All public names; those that no module defines are sub-packages, which then need no import of their own.
    """
    root = f"{__package__}."
    module_of = {
        name: module if module.startswith(root) else f"{package}.{module}"
        for module, exported in names.items()
        for name in exported
    }
    packages = {*public} - {*module_of}

    def __getattr__(name: str) -> object:
        if name in packages:
            return importlib.import_module(f"{package}.{name}")
        if name not in module_of:  # with `name` and `obj` Python adds "Did you mean ...?"
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name, obj=sys.modules[package])
        return getattr(importlib.import_module(module_of[name]), name)

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *module_of, *packages})

    return __getattr__, __dir__
