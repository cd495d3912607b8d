"""What an extra is needed for is refused before the work begins, with the command that installs it."""

from __future__ import annotations

from importlib import metadata

import pytest

from simgym import extras
from simgym.errors import ConfigurationError, MissingDependency
from simgym.evaluation import MatrixRun
from simgym.extras import list_packages, missing_packages, optional_import, require_extra


@pytest.fixture
def without(monkeypatch):
    """Pretends that packages are not installed, or have another version."""
    versions: dict[str, str | None] = {}
    real = metadata.version

    def version(name: str) -> str:
        if (pretended := versions.get(name, "")) is None:
            raise metadata.PackageNotFoundError(name)
        return pretended or real(name)

    monkeypatch.setattr(extras.metadata, "version", version)
    extras._packages.cache_clear()
    yield versions.update
    extras._packages.cache_clear()


def test_every_requirement_is_read_from_the_metadata():
    assert {"numpy", "gymnasium", "openai"} <= {package.name for package in list_packages() if package.extra is None}
    assert {"torch", "transformers"} <= {package.name for package in list_packages() if package.extra == "local"}
    assert "torch" not in {package.name for package in list_packages() if package.extra is None}


def test_absent_and_wrong_packages_are_named_with_the_command(without):
    pytest.importorskip("trl", reason="the extra simgym[train] is not installed")
    without({"torch": None, "transformers": "4.57.0"})
    with pytest.raises(MissingDependency) as raised:
        require_extra("local", "A model in this process")
    assert str(raised.value).startswith("A model in this process needs the extra 'local': not installed: torch.")
    assert "transformers 4.57.0 is installed, simgym works with" in str(raised.value)
    assert str(raised.value).endswith("Run: pip install 'simgym[local]'")
    assert {package.name for package in missing_packages("train")} == {"torch", "transformers"}  # train brings local


def test_a_matrix_that_needs_an_extra_is_refused_before_its_first_conversation(without, scenarios, tmp_path):
    without({"torch": None})
    from simgym.assistants import LanguageModelAssistant

    assistants = {"a": LanguageModelAssistant("scripted:seed")}
    options = {"model": "scripted:seed"}  # and the default judge
    with pytest.raises(MissingDependency, match=r"simgym\[local\]"):
        MatrixRun(
            assistants, ["UserSim-RolePlayOpening-v0"], scenarios, folder=tmp_path / "m", env_options=options
        ).run()
    assert list(tmp_path.iterdir()) == []


def test_what_is_installed_and_broken_inside_shows_its_own_cause(tmp_path, monkeypatch):
    (tmp_path / "broken_inside.py").write_text("import no_such_module_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        optional_import("broken_inside", "local")
    with pytest.raises(MissingDependency, match=r"simgym\[ray\]"):
        optional_import("no_such_package", "ray")


def test_there_is_no_such_extra():
    with pytest.raises(ConfigurationError, match=r"no extra .lokal., expected one of .*local"):
        missing_packages("lokal")


def test_the_doctor_says_what_mends_it(without, monkeypatch, capsys):
    pytest.importorskip("trl", reason="the extra simgym[train] is not installed")
    import typer

    from simgym.cli.doctor import doctor

    without({"trl": None})
    with pytest.raises(typer.Exit) as left:
        doctor(extra=["train"], check_model=False, model=None, bench=False, json=False)
    assert left.value.exit_code == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "The extra 'train' is incomplete: not installed: trl." in shown
    assert "mend: pip install 'simgym[train]'" in shown
