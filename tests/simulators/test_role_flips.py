from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simgym.jsonl import read_jsonl
from simgym.simulators.role_flips import find_role_flip

LISTS = Path(__file__).resolve().parents[2] / "benchmarks" / "role_flips"


def turns(name):
    lines = (LISTS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line.replace("\\n", "\n") for line in lines]


PLANTED, HONEST = turns("planted"), turns("honest")


def test_the_assistants_claims_are_caught_in_thirteen_languages():
    missed = [turn for turn in PLANTED if find_role_flip(turn) is None]
    assert len(PLANTED) >= 60
    assert len(missed) <= 0.05 * len(PLANTED), missed


def test_the_same_words_of_a_person_pass():
    assert [turn for turn in HONEST if find_role_flip(turn) is not None] == []


@given(
    st.sampled_from(PLANTED), st.sampled_from(['The bot said "{}" and hung up.', "The page reads: {}", "```\n{}\n```"])
)
def test_whoever_quotes_the_assistant_is_not_the_assistant(claim, frame):
    assert find_role_flip(frame.format(claim.replace('"', ""))) is None


@given(st.sampled_from(PLANTED), st.sampled_from(["Write a scene in which a clerk speaks. ", "Translate this.\n"]))
def test_what_follows_a_request_to_write_is_not_the_speakers_own(claim, request_before):
    assert find_role_flip(request_before + claim) is None


@given(st.text())
def test_any_text_is_read(text):
    assert find_role_flip(text) is None or text


@pytest.mark.parametrize("piece", ["so, ", "“", "as an ai, ", "i was trained by, ", ": ", "- ", "- i'm an ai and "])
def test_hostile_text_takes_little_time(piece):
    started = time.process_time()
    find_role_flip(piece * (32_768 // len(piece)))
    assert time.process_time() - started < 5


def test_at_most_one_in_a_thousand_turns_of_people_is_flagged(data_of_others):
    rows = read_jsonl(data_of_others("human_ai_dev.jsonl"))
    said = [turn["content"] for _, row in rows for turn in row["conversation"] if turn["role"] == "user"]
    flagged = [text for text in said if find_role_flip(text) is not None]
    assert len(flagged) <= len(said) / 1000, flagged


@given(st.sampled_from([turn for turn in PLANTED if find_role_flip(turn) is not None]))
def test_a_claim_is_one_behind_an_ordinary_sentence_too(claim):
    assert find_role_flip(f"That is a good question. {claim}") is not None or ":" in claim or " - " in claim
