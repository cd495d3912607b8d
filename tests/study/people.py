"""A small study, its app with scripted assistants, and a participant without a browser who goes through it."""

from __future__ import annotations

import html
import re
import time
from html.parser import HTMLParser

from simgym.study import Study, study_template
from simgym.study.app import create_app
from simgym.study.config import read_study
from simgym.study.scripted import ScriptedAssistant
from simgym.study.store import Store


def small_study(**changes) -> Study:
    """One exchange of practice, two or three real ones, a short document."""
    settings = {
        "turns": {"training": 1, "minimum": 2, "maximum": 3},
        "minimum_words": {"notes": 2, "message": 1, "reason": 1, "document": 5},
        "recruitment": {"unique": None},
    }
    return Study.model_validate(read_study(study_template(), "template").model_dump() | settings | changes)


def make_app(study, tmp_path, assistants=None, url=None, **options):
    assistants = assistants or {name: ScriptedAssistant(number) for number, name in enumerate(study.assistants)}
    return create_app(study, Store(url or f"sqlite:///{tmp_path}/study.db"), assistants, **options)


class Forms(HTMLParser):
    """Forms of a page with their hidden fields."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.forms: dict[str, dict[str, str]] = {}
        self._fields: dict[str, str] | None = None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "form":
            self._fields = self.forms.setdefault(values["action"].rpartition("/")[2], {})
        elif tag == "input" and values.get("type") == "hidden" and self._fields is not None:
            self._fields[values["name"]] = values.get("value") or ""

    def handle_endtag(self, tag):
        if tag == "form":
            self._fields = None


class Person:
    """A participant without a browser: fetches pages, posts forms."""

    def __init__(self, client, address: str = "/") -> None:
        self.client = client
        self.page = client.get(address).text

    @property
    def heading(self) -> str:
        return html.unescape(re.search(r"<h1>(.*?)</h1>", self.page).group(1))

    def fields(self, action: str, **typed: str) -> dict[str, str]:
        return {**Forms(self.page).forms[action], **typed}

    def do(self, action: str, **typed: str):
        answer = self.client.post(f"/do/{action}", data=self.fields(action, **typed))
        self.page = answer.text
        return answer

    def wait(self) -> None:
        deadline = time.monotonic() + 20
        while "data-wait" in self.page and time.monotonic() < deadline:
            time.sleep(0.02)
            self.page = self.client.get("/").text
        assert "data-wait" not in self.page

    def begin(self) -> None:
        """To the first message."""
        self.do("consent", agree="yes")
        self.do("instructions")
        self.do("task", task="advice", notes="some notes")

    def exchange(self, pick: str = "left", message: str = "What now?") -> None:
        self.do("message", message=message)
        self.wait()
        if "choice" in Forms(self.page).forms:
            self.do("choice", pick=pick, reason="because")

    def to_document(self) -> None:
        self.begin()
        for _ in range(3):
            self.exchange()
        self.do("finish")
