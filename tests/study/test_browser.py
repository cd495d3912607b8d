"""A participation in headless Chromium: reload, double click, back button, two tabs, and a server that is killed."""

import asyncio
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from people import small_study

from simgym.study.records import export
from simgym.study.serving import free_port, served
from simgym.study.store import Store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
    pytest.mark.usefixtures("warm_servers"),
]


@pytest.fixture
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def study_file(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(small_study().model_dump(mode="json")), encoding="utf-8")
    return path


def records_of(database):
    async def read():
        store = Store(database)
        try:
            return await export(store)
        finally:
            await store.close()

    with ThreadPoolExecutor(1) as pool:  # Playwright runs an event loop in this thread
        return pool.submit(asyncio.run, read()).result()


def to_first_message(page):
    page.get_by_label("I have read this").check()
    page.get_by_role("button", name="Begin").click()
    page.get_by_role("button", name="Go on").click()
    page.get_by_label("Advice for somebody you know").check()
    page.get_by_label("Your notes").fill("to my friend")
    page.get_by_role("button", name="Go on").click()


def send(page, text):
    page.get_by_label("Your message").fill(text)
    page.get_by_role("button", name="Send").click()
    page.get_by_role("heading", name="Which reply helps you more?").wait_for()


def choose(page, label="A is better"):
    page.get_by_label(label).check()
    page.get_by_label("Why?").fill("it is clearer")


def test_nothing_is_lost_or_doubled_in_a_browser(browser, study_file, tmp_path):
    database = f"sqlite:///{tmp_path}/study.db"
    port = free_port()

    def server():
        return served(study_file, database, "--synthetic", port=port)

    with server() as (address, process):
        context = browser.new_context(viewport={"width": 360, "height": 740})
        page = context.new_page()
        problems = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.goto(f"{address}/?PROLIFIC_PID=browser-1")
        to_first_message(page)
        send(page, "practice")
        assert page.locator(".reply").count() == 2
        page.reload()  # in the middle of an exchange
        choose(page)
        page.get_by_role("button", name="Save my choice").dblclick()
        page.get_by_role("heading", name="Talk with the assistant").wait_for()

        # a draft survives a reload
        page.get_by_label("Your message").type("half a thou")
        with page.expect_response(lambda response: response.url.endswith("/draft")):
            page.get_by_label("Your message").blur()
        page.reload()
        assert page.get_by_label("Your message").input_value() == "half a thou"
        send(page, "first real message")

        # back, and what the history shows is sent again
        choose(page, "Equally good")
        page.get_by_role("button", name="Save my choice").click()
        page.get_by_role("heading", name="Talk with the assistant").wait_for()
        page.go_back()
        page.goto(address)
        page.get_by_role("heading", name="Talk with the assistant").wait_for()
        assert page.locator(".turn").count() == 2

        # two tabs: the second still shows the question that the first has answered
        other = context.new_page()
        other.goto(address)
        send(page, "second real message")
        other.get_by_label("Your message").fill("second real message, other tab")
        other.get_by_role("button", name="Send").click()
        other.get_by_role("heading", name="Which reply helps you more?").wait_for()
        choose(page, "B is better")
        choose(other, "A is better")

        # the server dies between two requests
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wide = page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert wide, "the page is wider than 360 pixels"
    assert not [
        problem for problem in problems if "Content Security Policy" in problem or "Error" in problem.split(":")[0]
    ]
    with server():
        page.get_by_role("button", name="Save my choice").click()
        page.get_by_role("button", name="Finish the conversation").wait_for()
        other.get_by_role("button", name="Save my choice").click()
        other.get_by_role("button", name="Finish the conversation").click()
        other.get_by_label("Your text").fill("a text of exactly six words")
        other.get_by_role("button", name="Hand in").click()
        code = other.locator(".code code").inner_text()
        page.goto(address)
        assert page.locator(".code code").inner_text() == code
    (record,) = records_of(database)
    training, real = record["conversations"]
    assert [turn["pick"] for turn in training["turns"]] == ["left"]
    assert [(turn["message"], turn["pick"]) for turn in real["turns"]] == [
        ("first real message", "tie"),
        ("second real message", "right"),
    ]
    assert record["document"] == "a text of exactly six words"


def test_the_keyboard_alone_is_enough(browser, study_file, tmp_path):
    with served(study_file, f"sqlite:///{tmp_path}/study.db", "--synthetic") as (address, _):
        page = browser.new_page()
        page.goto(address)

        def tab_to(selector):
            for _ in range(40):
                page.keyboard.press("Tab")
                if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                    return
            raise AssertionError(f"{selector} cannot be reached")

        def submit(selector="form button"):
            before = page.locator("h1").inner_text()
            tab_to(selector)
            page.keyboard.press("Enter")
            deadline = time.monotonic() + 20
            while page.locator("h1").inner_text() == before and time.monotonic() < deadline:
                page.wait_for_timeout(50)

        tab_to("input[type=checkbox]")
        page.keyboard.press("Space")
        submit()
        submit()
        tab_to("input[type=radio]")
        page.keyboard.press("Space")
        tab_to("textarea")
        page.keyboard.type("two words")
        submit()
        tab_to("textarea")
        page.keyboard.type("practice")
        tab_to("form button")
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Which reply helps you more?").wait_for()
        tab_to("input[type=radio]")
        page.keyboard.press("ArrowRight")
        tab_to("textarea")
        page.keyboard.type("fine")
        submit()
        assert page.locator("h1").inner_text() == "Talk with the assistant"


def test_without_javascript_the_study_works(browser, study_file, tmp_path):
    with served(study_file, f"sqlite:///{tmp_path}/study.db", "--synthetic") as (address, _):
        page = browser.new_context(java_script_enabled=False).new_page()
        page.goto(address)
        to_first_message(page)
        send(page, "practice")
        choose(page)
        page.get_by_role("button", name="Save my choice").click()
        page.get_by_role("heading", name="Talk with the assistant").wait_for()
