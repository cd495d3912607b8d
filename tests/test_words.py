"""Words in every script: spaced scripts are counted as ever, and the others are not one word a sentence.

Sources of the rule that a letter counts as a word where no spaces stand: otwarchive (AO3's word count) and check-api.
"""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simgym.conversation import INTENT_PREFIX, Conversation, Scenario
from simgym.data._preprocess import _MULTIPLIERS, NGRAM, FrequentNgrams, ngram_hashes
from simgym.data.openings import unusable_opening
from simgym.evaluation import turn_metrics
from simgym.simulators.faults import find_fault
from simgym.words import UNSPACED, count_words, english_words, letter_pairs, spaced, words

SENTENCES = {
    "Chinese": "请帮我写一篇关于春天的短文，谢谢你",
    "Japanese": "明日の東京行きの電車を予約してください",
    "Thai": "ช่วยเขียนเรื่องสั้นเกี่ยวกับทะเลให้หน่อย",
    "Khmer": "សូមជួយសរសេររឿងខ្លីអំពីសមុទ្រ",
    "Burmese": "ပင်လယ်အကြောင်းဝတ္ထုတိုရေးပေးပါ",
}
SPACED = {
    "Пожалуйста, напиши короткий рассказ о старом доме у моря": [
        5652938534390475094, 15397752075753047256, 17025223542624261231,
    ],
    "나는 오늘 친구와 함께 서울에서 아주 맛있는 점심을 먹었다": [
        1961783301274094223, 11923317146190807199, 13864908254539332963,
    ],
    "मुझे कल सुबह दिल्ली जाने वाली ट्रेन की टिकट चाहिए": [
        928265459821073173, 8774492084367337384, 11762578187580914172, 18101742514414889212,
    ],
}  # fmt: skip


def other_letters():
    """Texts without letters of the scripts that have no spaces."""
    import regex

    unspaced = regex.compile("[" + "".join(rf"\p{{Script={name}}}" for name in UNSPACED) + "]")
    return st.text().filter(lambda text: not unspaced.search(text))


def hashes_as_ever(text):
    """The hashes of versions that split at white space alone."""
    crcs = [zlib.crc32(word) for word in text.casefold().encode("utf-8", "surrogatepass").split()]
    if len(crcs) < NGRAM:
        return []
    spread = (np.array(crcs, dtype=np.uint64) + np.uint64(1)) * np.uint64(0xD6E8FEB86659FD93)
    spread ^= spread >> np.uint64(32)
    mixed = (np.lib.stride_tricks.sliding_window_view(spread, NGRAM) * _MULTIPLIERS).sum(axis=1, dtype=np.uint64)
    return np.unique(mixed ^ (mixed >> np.uint64(29))).tolist()


@pytest.mark.parametrize("text", SPACED)
def test_texts_with_spaces_have_the_hashes_that_they_had(text):
    assert ngram_hashes(text).tolist() == SPACED[text]


@settings(max_examples=200, deadline=None)
@given(st.lists(other_letters(), max_size=15))
@example(["\U0002ee5e"])  # unassigned, between two blocks of Han
def test_texts_of_other_scripts_come_out_as_they_went_in(parts):
    text = " ".join(parts)
    assert spaced(text) == text
    assert ngram_hashes(text).tolist() == hashes_as_ever(text)
    assert letter_pairs(text) == []
    assert english_words(words(text)) == count_words(text)


@pytest.mark.parametrize("language", SENTENCES)
def test_a_mass_produced_opening_is_noticed_in_any_script(language):
    openings = [f"{SENTENCES[language]}{number}" for number in range(150)]
    frequent = FrequentNgrams()
    for text in openings:
        frequent.add(text)
    assert frequent.any_candidates
    for text in openings:
        frequent.count(text)
    assert all(frequent.holds_one(text) for text in openings)
    assert not frequent.holds_one(SENTENCES["Thai" if language == "Chinese" else "Chinese"])


@pytest.mark.parametrize("language", SENTENCES)
def test_copies_and_echoes_are_noticed_in_any_script(language):
    sentence = SENTENCES[language]
    scenario = Scenario("s", INTENT_PREFIX + sentence)
    begun = Conversation().add("user", "嗨").add("assistant", sentence)
    assert find_fault(f"好。{sentence}！", scenario, Conversation()) == "intent_copied"
    assert (
        find_fault(f"{sentence}!", Scenario("s", f"{INTENT_PREFIX}rest"), begun) == "role_flip: repeats the assistant"
    )


@pytest.mark.parametrize(("goal", "said"), [("学烤面包", "我想学烤面包"), ("写一首诗", "请写一首诗给我")])
def test_short_goals_turn_up_in_honest_messages_in_any_script(goal, said):
    assert find_fault(said, Scenario("s", INTENT_PREFIX + goal), Conversation()) is None


def test_a_short_answer_is_no_echo():
    begun = Conversation().add("user", "嗨").add("assistant", "谢谢你")
    assert find_fault("谢谢你", Scenario("s", f"{INTENT_PREFIX}rest"), begun) is None


@pytest.mark.parametrize("language", SENTENCES)
def test_lengths_and_revealed_words_are_those_of_a_text_with_words(language):
    sentence = SENTENCES[language]
    assert len(turn_metrics.words(sentence)) >= 10
    assert unusable_opening(sentence) is None
    assert turn_metrics.revealed(sentence, sentence) == 1
    assert turn_metrics.revealed(sentence, "hello") == 0
    goals = [*SENTENCES.values()]
    assert turn_metrics.adherence(goals, goals).tolist() == [1.0] * len(goals)


def test_marks_stay_with_their_letters_and_latin_words_whole():
    assert words("ดี abc你好def") == ["ดี", "abc", "你", "好", "def"]
    assert letter_pairs("你好，世界") == ["你好", "世界"]
    assert words("𠀀𠀁") == ["𠀀", "𠀁"]
