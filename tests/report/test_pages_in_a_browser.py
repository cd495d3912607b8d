"""The report as a reader sees it, wide and on a telephone, light and dark, in headless Chromium."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simgym.report import MatrixResults
from simgym.report.html import render_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
RESULTS = Path(__file__).parents[2] / "benchmarks/results/controlled_experiment/results.json"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The report of five assistants and five simulators, opened."""
    from playwright.sync_api import sync_playwright

    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(render_report(MatrixResults.from_json(json.loads(RESULTS.read_text())), {}), encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page()
        page.goto(file.as_uri())
        yield page
        browser.close()


def hints(page: Any) -> list[str]:
    """Display of the hint of every region that can be scrolled."""
    texts: list[str] = page.eval_on_selector_all(
        ".wide.scrolls", "all => all.map(one => getComputedStyle(one, '::before').display)"
    )
    return texts


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_never_scrolls_sideways_but_its_tables_do_and_say_so(page, width, scheme):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert hints(page)
    assert set(hints(page)) == ({"block"} if width == 390 else {"none"})
    regions = page.eval_on_selector_all(".wide", "all => all.map(one => [one.tabIndex, one.ariaLabel, one.role])")
    assert all(tab == 0 and label and role == "region" for tab, label, role in regions)


def test_no_word_of_a_table_is_broken(page):
    page.set_viewport_size({"width": 390, "height": 900})
    broken = page.evaluate(
        """() => {
          const lines = [];
          for (const cell of document.querySelectorAll("th, td")) {
            const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
            for (let text; (text = walker.nextNode()); )
              for (const word of text.data.matchAll(/[A-Za-z]{2,}/g)) {
                const range = document.createRange();
                range.setStart(text, word.index);
                range.setEnd(text, word.index + word[0].length);
                const tops = [...range.getClientRects()].map(box => Math.round(box.top));
                if (new Set(tops).size > 1) lines.push(word[0]);
              }
          }
          return lines;
        }"""
    )
    assert broken == []


def test_text_in_cells_of_the_heat_map_can_be_read(page):
    """WCAG contrast of each value against its cell, as drawn."""
    worst = page.evaluate(
        """() => {
          const light = colour => {
            const parts = colour.match(/[\\d.]+/g).slice(0, 3).map(value => value / 255);
            const [r, g, b] = parts.map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const svg = document.querySelector("figure svg");
          const cells = [...svg.querySelectorAll("path")]
            .map(path => [path.getBoundingClientRect(), getComputedStyle(path).fill])
            .filter(([box, fill]) => box.width > 40 && box.height > 25 && fill.startsWith("rgb"));
          let worst = 99, read = 0;
          for (const text of svg.querySelectorAll("text")) {
            const box = text.getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2;
            const holds = ([cell]) => cell.left < x && x < cell.right && cell.top < y && y < cell.bottom;
            const under = cells.filter(holds).pop();
            if (!under) continue;
            const [a, b] = [light(getComputedStyle(text).fill), light(under[1])].sort((one, other) => other - one);
            worst = Math.min(worst, (a + 0.05) / (b + 0.05));
            read++;
          }
          return [worst, read];
        }"""
    )
    assert worst[1] >= 25
    assert worst[0] >= 4.5
