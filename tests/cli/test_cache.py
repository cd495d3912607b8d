from __future__ import annotations

import contextlib
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from simgym.cli.main import app
from simgym.language_models.weights._default import default_entry

FILES = {"config.json": b"{}", "model.safetensors": b"weights"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMGYM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(*arguments):
    return CliRunner().invoke(app, ["cache", *map(str, arguments)])


def listed(files):
    return {name: {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()} for name, body in files.items()}


def write_tar(path, manifest, members):
    with tarfile.open(path, "w") as archive:
        for name, body in [("manifest.json", json.dumps(manifest).encode()), *members]:
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    return path


@pytest.mark.daily
def test_an_environment_of_uv_has_no_pip_and_without_a_network_says_what_to_do(cache, tmp_path):
    """An environment as uv makes it, with this one's packages but for pip."""
    uv = pytest.importorskip("uv", reason="uv is not installed").find_uv_bin()
    pytest.importorskip("torch", reason="a model is not fetched without torch")
    tools, place = tmp_path / "tools", tmp_path / "place"
    tools.mkdir()
    (tools / "uv").symlink_to(uv)
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(place)], check=True)
    (packages,) = place.glob("lib/python*/site-packages")
    for folder in [Path(entry) for entry in sys.path if entry.endswith("site-packages")]:
        for entry in folder.iterdir():
            if not entry.name.startswith(("pip", "uv")) and entry.suffix != ".pth":
                with contextlib.suppress(FileExistsError):
                    (packages / entry.name).symlink_to(entry)
    environment = {"HOME": str(tmp_path), "PATH": str(tools), "SIMGYM_CACHE": str(cache), "UV_OFFLINE": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [str(place / "bin" / "python"), "-c", "from simgym.cli.main import main; main()", "cache", "fetch"]
    outcome = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    said = " ".join(outcome.stderr.split())
    assert outcome.returncode != 0
    assert "Tried: uv: " in said
    assert "pip of this Python" not in said
    assert "simgym cache export model.tar" in said


def test_what_is_exported_on_one_machine_is_there_after_the_import_on_another(cache, tmp_path, monkeypatch):
    entry = cache / default_entry()
    entry.mkdir(parents=True)
    for name, body in FILES.items():
        (entry / name).write_bytes(body)
    assert run("export", tmp_path / "model.tar").exit_code == 0
    monkeypatch.setenv("SIMGYM_CACHE", str(tmp_path / "other"))
    assert run("import", tmp_path / "model.tar").exit_code == 0
    imported = tmp_path / "other" / default_entry()
    assert {file.name: file.read_bytes() for file in imported.iterdir()} == FILES
    assert run("path").output.strip() == str(tmp_path / "other")


def link(kind):
    member = tarfile.TarInfo("config.json")
    member.type, member.linkname = kind, "/etc/passwd"
    return member


HOSTILE = {
    "a path out of the folder": ({**FILES, "../x.json": b"{}"}, [*FILES.items(), ("../x.json", b"{}")]),
    "an absolute path": ({**FILES, "/x.json": b"{}"}, [*FILES.items(), ("/x.json", b"{}")]),
    "code": ({**FILES, "x.py": b"1"}, [*FILES.items(), ("x.py", b"1")]),
    "a symbolic link": (FILES, [(link(tarfile.SYMTYPE), b""), ("model.safetensors", b"weights")]),
    "a hard link": (FILES, [(link(tarfile.LNKTYPE), b""), ("model.safetensors", b"weights")]),
    "a device": (FILES, [(link(tarfile.CHRTYPE), b""), ("model.safetensors", b"weights")]),
    "a file twice": (FILES, [*FILES.items(), ("config.json", b"{}")]),
    "a file that is not in the manifest": (FILES, [*FILES.items(), ("x.json", b"{}")]),
    "a missing file": (FILES, [("config.json", b"{}")]),
    "another content": (FILES, [("config.json", b"[]"), ("model.safetensors", b"weights")]),
    "another size": (FILES, [("config.json", b"{ }"), ("model.safetensors", b"weights")]),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_and_leaves_nothing(kind, cache, tmp_path):
    files, members = HOSTILE[kind]
    manifest = {"entry": default_entry(), "files": listed(files)}
    outcome = run("import", write_tar(tmp_path / "model.tar", manifest, members))
    assert outcome.exit_code == 2
    assert "Nothing was kept" in " ".join(outcome.output.split())
    assert [path for path in cache.rglob("*") if path.suffix != ".lock"] == []
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("content", [b"", b"not a tar", b"\0" * 10240])
def test_what_is_no_export_is_refused(content, tmp_path):
    (tmp_path / "model.tar").write_bytes(content)
    assert run("import", tmp_path / "model.tar").exit_code == 2
    assert run("import", tmp_path / "absent.tar").exit_code == 2


def test_what_is_no_export_is_refused_although_the_model_is_there_already(cache, tmp_path):
    entry = cache / default_entry()
    entry.mkdir(parents=True)
    for name, body in FILES.items():
        (entry / name).write_bytes(body)
    (tmp_path / "passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    outcome = run("import", tmp_path / "passwd")
    assert outcome.exit_code == 2
    assert "Cannot import" in outcome.output
