"""A dry run with the default model: real replies, a banner, a database of its own."""

import time

import httpx2
import pytest
from people import Person

from simgym.study import study_template
from simgym.study.serving import served


@pytest.mark.slow
def test_a_dry_run_answers_with_the_default_model(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(study_template(), encoding="utf-8")
    with (
        served(path, f"sqlite:///{tmp_path}/dry.db", "--dry-run") as (address, _),
        httpx2.Client(base_url=address, follow_redirects=True, timeout=60) as client,
    ):
        person = Person(client)
        assert "Dry run" in person.page
        person.do("consent", agree="yes")
        person.do("instructions")
        person.do("task", task="story", notes="a door that should be locked and is not, at night")
        person.do("message", message="Give me three names for a cat.")
        deadline = time.monotonic() + 240
        while "data-wait" in person.page and time.monotonic() < deadline:
            client.get("/state")
            person.page = client.get("/").text
        assert person.heading == "Which reply helps you more?"
        assert person.page.count('class="reply"') == 2
