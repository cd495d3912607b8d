"""A notebook shows a conversation, and nothing that was said acts on it."""

from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simgym.conversation import INTENT_PREFIX, Conversation, Scenario
from simgym.transcripts import Transcript


class Tags(HTMLParser):
    """Collects tags and text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = set(), ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


def transcript(said):
    return Transcript(
        env_id="UserSim-Persona-v0",
        scenario=Scenario(id="tea", intent=f"{INTENT_PREFIX}make {said} tea"),
        seed=7,
        conversation=Conversation().add("user", "Hello").add("assistant", said),
        end_reason="turn_limit",
        reward=0.5,
        reasons=(said,),
    )


@given(st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=80))
def test_what_was_said_is_shown_and_never_markup(said):
    page = Tags(transcript(said)._repr_html_())
    assert page.tags == {"div", "small", "table", "tr", "td"}
    assert page.text.count(said) >= 3


def test_an_invisible_character_is_written_out():
    assert "‹U+202E›" in Tags(Conversation().add("user", "a\u202eb")._repr_html_()).text


def test_a_message_without_end_is_cut_and_says_so():
    page = Conversation().add("user", "x" * 1_000_000)._repr_html_()
    assert len(page) < 10_000
    assert "996,000 characters more" in page


CELLS = [
    """
import asyncio, simgym
from simgym.assistants import LanguageModelAssistant
from simgym.rollout import collect
import gymnasium
scripted = dict(judge="relevance", judge_model="scripted:echo", max_turns=2)
assert asyncio.get_event_loop().is_running()
""",
    """
results = simgym.evaluate(simgym.ExperimentConfig(
    assistants={"first": "scripted:clarify"}, envs=("UserSim-Persona-v0",), models=("scripted:seed",), n=30,
    output="run", **scripted))
""",
    """
env = gymnasium.make("UserSim-Persona-v0", model="scripted:seed", **scripted)
talks = collect(LanguageModelAssistant("scripted:clarify"), env, n=4, asynchronous=True)
""",
    """talks = collect(LanguageModelAssistant("scripted:clarify"), env, n=3, progress=False)""",
    "results",
    "talks[0]",
]


@pytest.mark.slow
def test_in_a_notebook_a_run_shows_a_bar_that_is_replaced_and_its_running_loop_is_no_obstacle(tmp_path):
    pytest.importorskip("ipykernel", reason="needs the extra simgym[dev]")
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    updates = Counter()

    class Client(nbclient.NotebookClient):
        def process_message(self, message, cell, index):
            updates[index] += message["msg_type"] == "update_display_data"
            return super().process_message(message, cell, index)

    Client(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [[output.data["text/html"] for output in cell.outputs] for cell in notebook.cells]
    assert [len(of_cell) for of_cell in outputs] == [0, 1, 1, 0, 1, 1]
    assert "30 of 30 conversations" in Tags(outputs[1][0]).text
    assert "4 of 4 conversations" in Tags(outputs[2][0]).text
    assert 1 <= updates[1] < 30
    assert "UserSim-Persona-v0" in outputs[4][0]
    assert "UserSim-Persona-v0" in outputs[5][0]
