"""What each extra of simgym brings, and whether it is installed here.

The list is simgym's own installed metadata, so it cannot disagree with `pyproject.toml`. Code that needs an extra for
work that takes long calls `require_extra` before that work begins: a matrix of a thousand conversations must not end
with "not installed". Looking up an installed version does not import the package, so the check costs milliseconds.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from simgym.errors import ConfigurationError, MissingDependency

NOT_FOR_USERS = ("dev", "docs")
"""Extras for work on simgym itself."""


@dataclass(frozen=True, slots=True)
class PackageStatus:
    """One package that simgym requires, and what is installed of it."""

    name: str
    """Name on the package index."""
    specifier: str
    """Versions that simgym works with, e.g. `>=1.16,<2`; empty for any."""
    extra: str | None
    """The extra that brings it; None: every installation has it."""
    installed: str | None
    """Installed version; None: not installed."""

    @property
    def problem(self) -> str | None:
        """Why it cannot be used, or None."""
        if self.installed is None:
            return f"{self.name} is not installed"
        if not Requirement(f"{self.name}{self.specifier}").specifier.contains(self.installed, prereleases=True):
            return f"{self.name} {self.installed} is installed, simgym works with {self.specifier}"
        return None


def extras() -> list[str]:
    """Names of the extras for users, in alphabetical order, `all` left out."""
    names = metadata.metadata("simgym").get_all("Provides-Extra") or []
    return sorted(name for name in names if name not in (*NOT_FOR_USERS, "all"))


def list_packages() -> list[PackageStatus]:
    """Every package that simgym requires on this platform: those of every installation first, then by extra."""
    return list(_packages())


def missing_packages(extra: str | None) -> list[PackageStatus]:
    """Packages of an extra (None: of every installation) that are absent, or have a version that does not work.

    Raises:
        ConfigurationError: simgym has no such extra.
    """
    if extra is not None and extra not in (*extras(), "all"):
        raise ConfigurationError(f"simgym has no extra {extra!r}, expected one of {', '.join([*extras(), 'all'])}.")
    wanted = {extra, *_included_extras(extra)}
    return [package for package in _packages() if package.extra in wanted and package.problem is not None]


def require_extra(extra: str, purpose: str) -> None:
    """Refuse work that an extra is needed for, before it begins.

    Args:
        extra: Name of the extra, e.g. `local`.
        purpose: What needs it, as the beginning of a sentence, e.g. `A model in this process`.

    Raises:
        MissingDependency: a package of the extra is absent or has a version that does not work.
        ConfigurationError: the installed metadata does not know the extra.
    """
    if extra not in extras():
        raise ConfigurationError("The installed metadata of simgym is older than its code. Install simgym again.")
    if missing := missing_packages(extra):
        raise _lacking(f"{purpose} needs the extra {extra!r}", missing, extra)


def require_package(name: str, extra: str, purpose: str) -> None:
    """Refuse work that one package of an extra is needed for; arguments as for `require_extra`.

    Raises:
        MissingDependency: the package is absent or has a version that does not work.
    """
    if unfit := [package for package in missing_packages(extra) if package.name == name]:
        raise _lacking(f"{purpose} needs {name}", unfit, extra)


@contextlib.contextmanager
def imports_of(extra: str, purpose: str) -> Iterator[None]:
    """Around the imports of an adapter: another project's release that lacks a name is told by its version.

    Arguments as for `require_extra`. Within a range that works, the import's own error is raised.

    Raises:
        MissingDependency: the project is absent or has a version that does not work, and the imports failed.
    """
    try:
        yield
    except (ImportError, AttributeError) as error:
        if missing := missing_packages(extra):
            raise _lacking(f"{purpose} needs the extra {extra!r}", missing, extra) from error
        raise


def _lacking(need: str, packages: Sequence[PackageStatus], extra: str) -> MissingDependency:
    return MissingDependency(f"{need}: {describe(packages)} Run: {install_command(extra)}")


def describe(packages: Sequence[PackageStatus]) -> str:
    """What is wrong with packages, as one sentence or two: which are absent, and which have a wrong version."""
    absent = [package.name for package in packages if package.installed is None]
    wrong = [str(package.problem) for package in packages if package.installed is not None and package.problem]
    sentences = [f"not installed: {', '.join(absent)}."] if absent else []
    return " ".join([*sentences, *(f"{problem}." for problem in wrong)])


def install_command(*names: str) -> str:
    """The command that installs extras."""
    return f"pip install 'simgym[{','.join(names)}]'" if names else "pip install --upgrade simgym"


def optional_import(module: str, extra: str) -> Any:
    """Import an optional package, or say which extra brings it.

    Raises:
        MissingDependency: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise  # installed but broken inside: show the real cause
        raise MissingDependency(f"{module} is not installed. Run: {install_command(extra)}") from error


@functools.cache  # reads the metadata of some fifty packages
def _packages() -> tuple[PackageStatus, ...]:
    statuses = [
        _status(requirement, extra)
        for extra in (None, *extras())
        for requirement in _requirements(extra)
        if requirement.name != "simgym"
    ]
    return tuple(sorted(statuses, key=lambda status: (status.extra is not None, status.extra or "")))


def _included_extras(extra: str | None) -> set[str]:
    """The extras that an extra brings along, at any depth."""
    included: set[str] = set()
    for requirement in _requirements(extra) if extra is not None else ():
        if requirement.name == "simgym":
            included |= requirement.extras
            included |= {name for direct in requirement.extras for name in _included_extras(direct)}
    return included


def _requirements(extra: str | None) -> list[Requirement]:
    """What an extra (None: every installation) requires by itself, on this platform."""
    try:
        lines = [Requirement(line) for line in metadata.requires("simgym") or ()]
    except InvalidRequirement as error:
        raise ConfigurationError(f"The metadata of simgym is damaged ({error}). Install simgym again.") from error
    everywhere = [line for line in lines if _applies(line, None)]
    return everywhere if extra is None else [line for line in lines if _applies(line, extra) and line not in everywhere]


def _applies(requirement: Requirement, extra: str | None) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra or ""})


def _status(requirement: Requirement, extra: str | None) -> PackageStatus:
    try:
        installed = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        installed = None
    return PackageStatus(requirement.name, str(requirement.specifier), extra, installed)
