"""A notebook shows a conversation, and nothing that was said acts on it."""

from __future__ import annotations

from html.parser import HTMLParser

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
