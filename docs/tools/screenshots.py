"""Pictures of `simgym view --web` for the documentation, made in headless Chromium.

    python docs/tools/screenshots.py runs/demo docs/images

Writes `viewer-conversation.png` and `viewer-blind.png`: a conversation with the model call behind a turn, and two
assistants side by side, blind. With `--look` both are taken at 390 and 1280 pixels, light and dark.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from simgym.study.serving import free_port

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]


@contextmanager
def served(run: str) -> Iterator[str]:
    """The address of the page over a run; labels go to a place that is thrown away."""
    script = shutil.which("simgym", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if script is None:
        raise SystemExit("The script `simgym` is not installed beside this Python.")
    with tempfile.TemporaryDirectory() as folder:
        options = ["--port", str(free_port()), "--labels", f"{folder}/labels.jsonl", "--person", "reader"]
        process = subprocess.Popen([script, "view", "--web", run, *options], stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        try:
            said = process.stderr.readline()
            if (address := re.search(r"http://\S+", said)) is None:
                raise SystemExit(said)
            yield address[0]
        finally:
            process.terminate()
            process.wait(10)


def opened(page: Any, address: str) -> None:
    """Go to the page as soon as it is served."""
    from playwright.sync_api import Error

    for attempt in range(600):
        try:
            page.goto(address)
            break
        except Error:
            if attempt == 599:
                raise
            page.wait_for_timeout(100)
    page.wait_for_selector(".row")


def picture(page: Any, kind: str, path: Path) -> None:
    """One picture, of the first conversation of the list."""
    if kind == "blind":
        page.keyboard.press("x")
        page.wait_for_selector("#blind[aria-pressed=true]")
    page.keyboard.press("j")
    page.wait_for_selector("article")
    if kind == "blind":
        page.keyboard.press("c")
        page.wait_for_selector(".beside")
    else:
        page.locator("details.calls summary").first.click()
        page.wait_for_selector(".call")
    page.screenshot(path=path)


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--look", action="store_true", help="at 390 and 1280 pixels, light and dark")
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    looks = [(1100, "light")]
    if args.look:
        looks += [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with served(args.run) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        for width, scheme in looks:
            for kind in ("conversation", "blind"):
                page = browser.new_page(viewport={"width": width, "height": 640}, color_scheme=scheme)
                opened(page, address)
                name = f"viewer-{kind}.png" if (width, scheme) == looks[0] else f"viewer-{kind}-{width}-{scheme}.png"
                picture(page, kind, args.folder / name)
                page.close()
        browser.close()


if __name__ == "__main__":
    main()
