"""Hooks of mkdocs: pages made from code, and links that work on the site as they do in the repository.

Generated are `integrations/` (see `integration_pages.py`), `notebooks/` (`notebook_pages.py`), `reference/api/` (public
packages and modules), `reference/cli.md` (from the parsers), `reference/files.md` (JSON schemas of the records), and
`llms.txt` with the pages as Markdown beside it. Links to files outside of `docs/` lead to the repository; pictures
outside are copied. A layer diagram in Mermaid, which a browser could only draw with a script from another host, becomes
a column of boxes.
"""

from __future__ import annotations

import html
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import typer
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = "https://github.com/simgym/simgym/blob/main/"
_COPIED: set[str] = set()
_TEXTS: dict[str, str] = {}
"""Of the pages, by address within the site: of the Markdown where that says all."""


def on_config(config: Any) -> Any:
    """Put the generated pages of the API, and pages that have no place yet, into the navigation."""
    sys.path += [str(Path(__file__).parent), str(ROOT / "tests")]  # here: mkdocs puts back what a hook's import changes
    from integration_pages import integration_pages
    from test_public_api import MODULES, PACKAGES

    (reference,) = [section["Reference"] for section in config.nav if "Reference" in section]
    reference.append({"Python": [f"reference/api/{package}.md" for package in [*PACKAGES, *MODULES]]})
    (pages,) = [section["Integrations"] for section in config.nav if "Integrations" in section]
    pages += list(integration_pages())
    (guides,) = [section["Guides"] for section in config.nav if "Guides" in section]
    named = set(re.findall(r"[\w/.-]+\.md", str(config.nav)))
    guides += sorted(page.name for page in (ROOT / "docs").glob("*.md") if page.name not in named)
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages, pictures from outside, and CONTRIBUTING, CHANGELOG and the model cards."""
    from integration_pages import integration_pages
    from notebook_pages import notebook_pages

    for path, text in {
        **api_pages(),
        **integration_pages(),
        **notebook_pages(),
        "reference/cli.md": cli_page(),
        "reference/files.md": files_page(),
    }.items():
        files.append(File.generated(config, path, content=text))
    for name in ("CONTRIBUTING", "CHANGELOG"):
        text = (ROOT / f"{name}.md").read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, f"{name.lower()}.md", content=text))
    for page in [page for page in files.documentation_pages() if page.abs_src_path]:
        for source in pictures(Path(str(page.abs_src_path))):
            target = f"images/{source.parent.name}-{source.name}"
            if target not in _COPIED:
                _COPIED.add(target)
                files.append(File.generated(config, target, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links outside of `docs/`, and the diagram."""
    from integration_pages import moved, overview

    source = page.file.src_uri
    cut_out = source.startswith("integrations/")  # its links are those of docs/integrations.md
    folder = ROOT / "docs" if cut_out else (ROOT / "docs" / source).parent
    up = "../" * source.count("/")

    def link(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(folder / match["path"]))
        if re.match(r"[a-z]+:|#", match["path"]) or not target.exists():
            return match[0]
        if target.is_relative_to(ROOT / "docs"):
            return f"]({'../' * cut_out}{moved(match['path'], match['anchor'] or '')})"
        if target.suffix in (".svg", ".png"):
            return f"]({up}images/{target.parent.name}-{target.name})"
        return f"]({REPOSITORY}{target.relative_to(ROOT).as_posix()}{match['anchor'] or ''})"

    if source == "integrations.md":
        markdown = overview(markdown)
    text = re.sub(r"\]\((?P<path>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)", link, markdown)
    text = re.sub(r"^```mermaid\n(.*?)^```", boxes, text, flags=re.M | re.S)
    made_by_plugin = re.search(r"^::: ", text, re.M)
    _TEXTS[page.url if made_by_plugin else source] = text
    return text


def on_post_build(config: Any) -> None:
    """Add `llms.txt` with the pages as Markdown, and refuse a site that needs another host to be shown."""
    site = Path(config.site_dir)
    ordered = sorted(_TEXTS.items(), key=lambda page: (page[0] != "index.md", page[0]))
    (site / "llms.txt").write_text(llms_text(dict(ordered)), encoding="utf-8")
    for address, text in _TEXTS.items():
        if address.endswith(".md"):
            (site / address).parent.mkdir(parents=True, exist_ok=True)
            (site / address).write_text(text, encoding="utf-8")
    fetched = re.compile(
        r"<(?:script|img|iframe)[^>]*src=\"?https?:|<link[^>]*rel=\"?(?:stylesheet|preconnect|icon)[^>]*https?:"
    )
    for page in Path(config.site_dir).rglob("*.html"):
        if match := fetched.search(page.read_text(encoding="utf-8")):
            raise PluginError(f"{page} fetches from another host: {match[0]}")


def pictures(page: Path) -> list[Path]:
    """Pictures outside of `docs/` that a page shows."""
    shown = re.findall(r"!\[[^\]]*\]\(([^)\s]+\.(?:svg|png))\)", page.read_text(encoding="utf-8"))
    paths = [Path(os.path.normpath(page.parent / target)) for target in shown if ":" not in target]
    return [path for path in paths if not path.is_relative_to(ROOT / "docs")]


def boxes(match: re.Match[str]) -> str:
    """The layers of a flowchart, one box a layer."""
    layers = re.findall(r'\["(.*?)"\]', match[1])
    style = "border:1px solid;border-radius:6px;padding:.3em .8em;margin:.3em 0;text-align:center"
    return "\n".join(f'<div style="{style}">{html.escape(layer)}</div>' for layer in layers)


def api_pages() -> dict[str, str]:
    """A page a public package or module: what it exports, in the order of `__all__`; each object once, else a link."""
    from test_public_api import MODULES, PACKAGES, imports_of, is_package, public_names

    pages, shown = {}, set()
    for package in [*MODULES, *PACKAGES[1:], PACKAGES[0]]:
        lines = [f"# {package}", ""]
        for name in public_names(package):
            if is_package(package, name) or name.startswith("__"):
                continue
            path = f"{defining_module(imports_of(package).get(name, package), name)}.{name}"
            lines += [f"[`{name}`][{path}]" if path in shown else f"::: {path}", ""]
            shown.add(path)
        pages[f"reference/api/{package}.md"] = "\n".join(lines)
    return pages


def defining_module(module: str, name: str) -> str:
    """The module that defines a name, through packages that pass it on."""
    from test_public_api import imports_of, tree_of

    if any(getattr(statement, "name", None) == name for statement in tree_of(module).body):
        return module
    passed_on = imports_of(module).get(name)
    return defining_module(passed_on, name) if passed_on else module


def cli_page() -> str:
    """Every command with its options, from the parsers."""
    from typer.cli import get_docs_for_click

    from simgym.cli.main import app

    command = typer.main.get_command(app)
    command.epilog = None
    context = typer.Context(command, info_name="simgym")
    text = get_docs_for_click(obj=command, ctx=context, name="simgym", title="Command line")
    for short, whole in sentences(command).items():  # typer cuts them off
        text = text.replace(f": {short}\n", f": {whole}\n")
    return re.sub(r"<(?=[a-z])", "&lt;", text)


def sentences(command: Any) -> dict[str, str]:
    """What lists of commands say, and the whole first paragraph that it is the beginning of."""
    texts = {}
    for child in getattr(command, "commands", {}).values():
        whole = " ".join((child.help or "").partition("\n\n")[0].split())
        texts |= {child.get_short_help_str(): whole, **sentences(child)}
    return texts


def files_page() -> str:
    """Formats of files with their schemas."""
    from schemas import FORMATS, schema_of

    lines = [
        "# File formats",
        "",
        "JSON schemas, made from the records that read the files. Keys that a reader does not know are ignored.",
        "",
    ]
    for form in FORMATS:
        schema = schema_of(form)
        lines += [f"## {form.title}", "", f"{form.file}.", "", "| key | what | |", "|---|---|---|"]
        for key, entry in schema["properties"].items():
            text = re.sub(r"([|<])", r"\\\1", entry.get("description", ""))
            lines.append(f"| `{key}` | {text} | {'required' if key in schema.get('required', ()) else ''} |")
        whole = json.dumps(schema, indent=2, ensure_ascii=False).splitlines()
        lines += ["", '??? note "JSON schema"', "", *(f"    {line}" for line in ["```json", *whole, "```"]), ""]
    return "\n".join(lines)


def llms_text(pages: dict[str, str]) -> str:
    """What a language model is told to read: https://llmstxt.org. Pages by address within the site, with their text."""
    sections: dict[str, list[str]] = {}
    for address, text in pages.items():
        title = match[1] if (match := re.search(r"^# (.*)", text, re.M)) else address
        folder = address.rpartition("/")[0].partition("/")[0]
        sections.setdefault(folder.capitalize() or "Pages", []).append(f"- [{title}]({address})")
    lines = ["# simgym", "", "> User simulators as Gymnasium environments: train and evaluate assistants with them."]
    for section, links in sections.items():
        lines += ["", f"## {section}", "", *links]
    return "\n".join([*lines, ""])
