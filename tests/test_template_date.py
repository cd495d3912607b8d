from __future__ import annotations

import datetime
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

from simgym.chat_template import render
from simgym.conversation import Message
from simgym.errors import ConfigurationError
from simgym.template_date import DEFAULT_DATE, with_date

TALK = [Message("user", "Hi")]
LLAMA = (
    "{%- if strftime_now is defined %}\n  {%- set today = strftime_now('%d %b %Y') %}\n"
    "{%- else %}{%- set today = 'none' %}{%- endif %}\n"
    "<|system|>Today Date: {{ today }}\n\n{% for m in messages %}\n<|{{ m['role'] }}|>{{ m['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""In the manner of Llama 3.2's."""


class Clock(datetime.datetime):
    """A clock that a test sets."""

    day_shown = datetime.datetime(2031, 1, 2)

    @classmethod
    def now(cls, tz=None):
        return cls.day_shown


@pytest.fixture
def tokenizer(tiny_model, monkeypatch):
    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
    chat_template_utils._compile_jinja_template.cache_clear()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = LLAMA
    return tokenizer


def plainly(tokenizer, template):
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], chat_template=template, tokenize=False, add_generation_prompt=True
    )


def test_tomorrow_a_prompt_is_what_it_was_today(tokenizer, monkeypatch):
    """Llama 3.2's template writes the date of the clock, so that a resumed run would say other things."""
    assert "Today Date: 02 Jan 2031" in plainly(tokenizer, LLAMA)  # the clock, if nobody fixes it
    today = render(tokenizer, TALK)
    monkeypatch.setattr(Clock, "day_shown", datetime.datetime(2031, 1, 3))
    assert render(tokenizer, TALK) == today
    assert "Today Date: 26 Jul 2024" in today


@settings(max_examples=30, deadline=None)
@given(st.dates(datetime.date(1990, 1, 1), datetime.date(2090, 1, 1)), st.sampled_from(["", "\n", "  ", "{#- c #}"]))
def test_apart_from_the_date_the_text_is_what_transformers_writes(tiny_model, date, start):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    template = start + LLAMA + "{{ strftime_now('%Y-%m-%d is %A, %B; %e %-d %H:%M') }}"
    day = datetime.datetime.combine(date, datetime.time())
    clock = SimpleNamespace(now=lambda: day)
    chat_template_utils._compile_jinja_template.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_template_utils, "datetime", clock)
        expected = plainly(tokenizer, template)
    assert plainly(tokenizer, with_date(template, date.isoformat())) == expected


def test_a_template_without_a_date_is_left_alone_and_one_is_fixed_once():
    assert with_date("{{ messages }}") == "{{ messages }}"
    once = with_date(LLAMA, "2025-12-31")
    assert with_date(once) == once


@pytest.mark.parametrize("date", ["today", "2024-13-01", "26.7.2024", "2024-7-26", datetime.date(2024, 7, 26)])
def test_what_is_no_date_is_refused_in_a_sentence(date):
    with pytest.raises(ConfigurationError, match=f"expected year, month and day, e.g. '{DEFAULT_DATE}'"):
        with_date(LLAMA, date)
