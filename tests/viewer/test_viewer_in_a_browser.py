"""The viewer as a reader has it: the real command, in headless Chromium."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys

import pytest
from conversations import talked, write

from simgym.evaluation.labels import read_labels
from simgym.study.serving import free_port

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
HOSTILE = "<img src=x onerror='document.title=1'><script>document.title = 2</script>"
COMMAND = [sys.executable, "-c", "from simgym.cli.main import main; main()", "view", "--web", "--person", "ada"]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    first = [talked(number, said=HOSTILE, answer=f"plain {number}") for number in range(300)]
    second = [
        talked(number, answer=f"clarify {number}", fault="role_flip: x" if number < 3 else None) for number in range(6)
    ]
    paths = folder / "plain.jsonl", folder / "clarify.jsonl"
    for path, transcripts in zip(paths, (first, second), strict=True):  # without the writer's pause for the disk
        path.write_text("".join(json.dumps(transcript.to_json()) + "\n" for transcript in transcripts))
    return paths


@pytest.fixture(scope="module")
def server(files):
    process = subprocess.Popen(
        [*COMMAND, *map(str, files), "--port", str(free_port())], stderr=subprocess.PIPE, text=True
    )
    address = re.search(r"http://\S+", process.stderr.readline())[0]
    yield address, process
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def page(server):
    from playwright.sync_api import Error, sync_playwright

    address, _ = server
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
        while True:
            try:
                page.goto(address)
                break
            except Error:  # not listening yet
                assert server[1].poll() is None, server[1].stderr.read()
                page.wait_for_timeout(50)
        yield page
        browser.close()


def status(page, text):
    page.wait_for_function("text => document.getElementById('status').textContent === text", arg=text)


def test_lists_filters_pairs_keys_and_labels(page, files):
    status(page, "306 conversations")
    assert page.evaluate("location.href").endswith("/")  # the token is out of the address
    assert page.locator(".row").count() < 40  # of 306: only those in sight are in the document
    assert page.evaluate("document.querySelectorAll('#list img, #list script').length") == 0

    # a conversation, with its model calls; what a model wrote is text
    page.keyboard.press("j")
    page.locator("article").wait_for()
    assert page.locator(".said").first.text_content() == HOSTILE
    assert page.locator("article img, article script").count() == 0
    page.keyboard.press("p")
    page.locator("details.calls", has_text="let me think").wait_for()
    page.keyboard.press("j")
    page.get_by_text("plain 1", exact=True).wait_for()
    page.keyboard.press("k")
    page.get_by_text("plain 0", exact=True).wait_for()

    # far down in the list
    page.evaluate("document.getElementById('list').scrollTop = 1e9")
    page.locator("[aria-posinset='306']").click()
    page.get_by_text("clarify 5", exact=True).wait_for()

    # filters
    page.keyboard.press("/")
    page.keyboard.type("clarify 2")
    status(page, "1 of 306 conversations")
    page.keyboard.press("Enter")
    page.keyboard.press("j")
    page.get_by_text("clarify 2", exact=True).wait_for()
    page.get_by_label("Search what was said").fill("")
    page.locator("select[name=fault]").select_option("role_flip")
    status(page, "3 of 306 conversations")
    page.get_by_role("button", name="Clear").click()
    status(page, "306 conversations")

    # forks of one scenario and seed, blind: names and rewards are gone, the label counts
    page.keyboard.press("x")
    page.get_by_label("Search what was said").fill("clarify 4")
    status(page, "1 of 306 conversations")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.get_by_text("clarify 4", exact=True).wait_for()
    page.keyboard.press("s")
    page.locator("#toast", has_text="Kept: simulated.").wait_for()
    page.keyboard.press("c")
    page.locator(".beside").wait_for()
    assert "language_model" not in page.locator("main").text_content()
    assert page.locator(".facts, .end, details.calls").count() == 0
    left = page.locator("article").first.text_content()
    page.keyboard.press("b")
    page.locator("#toast", has_text="Kept: better.").wait_for()
    page.keyboard.press("x")  # in sight now: what is said from here on is no blind label
    page.keyboard.press("t")
    page.locator("#toast", has_text="Not blind").wait_for()
    origin, preference, tie = read_labels(files[0].with_name("plain.labels.jsonl"))
    assert (origin.answer, preference.answer, tie.answer) == ("simulated", "better", "tie")
    assert (origin.blind, preference.blind, tie.blind) == (True, True, False)
    assert preference.conversations[0].messages[1].content in left
    assert {origin.person, preference.person} == {"ada"}

    page.keyboard.press("?")
    page.get_by_role("heading", name="Keys").wait_for()
    page.keyboard.press("Escape")
    assert page.problems == []
    assert "simgym view" in page.title()  # no script of a conversation has run


def test_new_conversations_appear_while_one_reads(page, files):
    page.reload()
    status(page, "306 conversations")
    write(files[1], talked(7, answer="clarify 7"))
    status(page, "307 conversations")
    page.get_by_label("Search what was said").fill("clarify 7")
    status(page, "1 of 307 conversations")
    page.get_by_role("button", name="Clear").click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_scrolls_sideways_and_everything_can_be_read(page, width, scheme):
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.evaluate("location.hash = ''")
    page.locator(".welcome").wait_for(state="attached")
    page.evaluate("document.getElementById('list').scrollTop = 0")
    page.locator("[aria-posinset='2']").click()
    page.locator("article").wait_for()
    page.keyboard.press("c")
    page.locator(".beside").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(
        "document.getElementById('reader').scrollWidth <= document.getElementById('reader').clientWidth"
    )
    assert page.evaluate(LOWEST_CONTRAST) >= 4.5


LOWEST_CONTRAST = """() => {
  const light = (colour) => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((value) => value / 255);
    const [r, g, b] = parts.map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    const colour = getComputedStyle(element).backgroundColor;
    if (!/rgba\\(.*, 0\\)/.test(colour)) return colour;
    return element.parentElement ? ground(element.parentElement) : "rgb(255, 255, 255)";
  };
  let worst = 99;
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.getClientRects().length || element.closest(":disabled, option")) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(ground(element))].sort((one, other) => other - one);
    worst = Math.min(worst, (a + 0.05) / (b + 0.05));
  }
  return worst;
}"""


def test_ctrl_c_ends_it_without_a_word(page, server):
    _, process = server
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    said = process.stderr.read()
    assert "Traceback" not in said
    page.locator("#notice", has_text="Is `simgym view --web` still running?").wait_for()
