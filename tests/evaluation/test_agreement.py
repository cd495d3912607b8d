from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simgym.errors import ConfigurationError
from simgym.evaluation.agreement import PeopleRating, Reward, compare_with_people, units_needed
from simgym.evaluation.rated_conversations import judge_rated, read_rated_conversations
from simgym.judges import Judgement


def study(quality, *, people=40, noise=1.0, seed=0):
    """Every person rates every assistant; the same quality decides the rewards."""
    rng = np.random.default_rng(seed)
    ratings = [PeopleRating(f"p{person}", system, value + noise * rng.normal())
               for person in range(people) for system, value in quality.items()]  # fmt: skip
    rewards = [Reward(system, value + 0.5 * rng.normal()) for system, value in quality.items() for _ in range(40)]
    return ratings, rewards


def test_the_same_order_is_found_and_another_one_is_not():
    quality = {f"s{number}": 0.4 * number for number in range(8)}
    ratings, rewards = study(quality)
    alike = compare_with_people(ratings, rewards)
    assert alike.systems.spearman.value > 0.9
    assert alike.systems.spearman.low > 0.6
    assert alike.ordered_alike.low > 0.8
    turned = compare_with_people(ratings, [Reward(reward.system, -reward.value) for reward in rewards])
    assert turned.systems.kendall.value == pytest.approx(-alike.systems.kendall.value)
    assert turned.ordered_alike.high < 0.2


def test_few_assistants_tell_the_order_of_these_and_nothing_of_others():
    agreement = compare_with_people(*study({"a": 0.0, "b": 0.4, "c": 0.5}))
    assert agreement.systems.spearman.doubt == "3 assistants, fewer than 6"
    assert agreement.ordered_alike.reliable
    assert agreement.ordered_alike.low < 1.0
    assert agreement.n_people == 40


def test_noise_of_people_lowers_the_correlation_and_is_accounted_for():
    rng = np.random.default_rng(0)
    worth = rng.normal(size=400)
    ratings = [PeopleRating(f"{item}-{rater}", "a", worth[item] + rng.normal(), f"{item}")
               for item in range(400) for rater in range(3)]  # fmt: skip
    agreement = compare_with_people(ratings, [Reward("a", worth[item], f"{item}") for item in range(400)]).instances
    assert agreement.reliability == pytest.approx(0.5, abs=0.08)
    assert agreement.spearman.value == pytest.approx(math.sqrt(0.5), abs=0.06)
    assert agreement.without_noise == pytest.approx(1.0, abs=0.06)


def test_an_assistant_that_one_person_rated_does_not_hide_how_noisy_people_are():
    ratings, rewards = study({f"s{number}": 2.0 * number for number in range(7)}, people=12)
    alone = [*ratings, PeopleRating("p0", "rare", 3.0)]
    agreement = compare_with_people(alone, [*rewards, Reward("rare", 3.0)], resamples=19).systems
    assert 0.8 < agreement.reliability < 1
    unrepeated = compare_with_people(ratings[:7], rewards, resamples=19).systems  # of one person
    assert unrepeated.reliability is None


@pytest.mark.parametrize(
    ("ratings", "rewards", "doubt"),
    [
        ([], [], "0 assistants with ratings and rewards"),
        ([PeopleRating("p", "a", 3)], [Reward("a", 1)], "1 assistant with ratings and rewards"),
        ([PeopleRating(f"p{n}", s, 5) for n in range(9) for s in "ab"], [Reward("a", 1), Reward("b", 0)],
         "all means of people, or all of the rewards, are equal"),
        ([PeopleRating("p", "a", 1), PeopleRating("p", "b", 2)], [Reward("a", 1), Reward("b", 2)],
         "1 person, fewer than 6"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_not_told(ratings, rewards, doubt):
    agreement = compare_with_people(ratings, rewards)
    assert agreement.ordered_alike.doubt == doubt
    assert not agreement.systems.spearman.reliable
    json.dumps(agreement.to_json(), allow_nan=False)


@given(st.lists(st.tuples(st.sampled_from("abcdefg"), st.sampled_from([1.0, 2.0, math.nan])), max_size=12),
       st.lists(st.tuples(st.sampled_from("abcdefg"), st.sampled_from([0.0, 0.5, math.nan])), max_size=12))  # fmt: skip
def test_figures_stay_in_range_whatever_is_given(rated, given_rewards):
    agreement = compare_with_people(
        [PeopleRating(f"p{number}", *entry, f"{number % 4}") for number, entry in enumerate(rated)],
        [Reward(*entry, f"{number % 4}") for number, entry in enumerate(given_rewards)],
        resamples=20,
    )
    json.dumps(agreement.to_json(), allow_nan=False)
    for estimate in (agreement.systems.spearman, agreement.systems.kendall):
        assert estimate.value is None or -1 - 1e-9 <= estimate.value <= 1 + 1e-9


def test_a_weak_correlation_takes_many_units():
    assert units_needed(0.3) == 90  # 85 for Pearson's, times Fieller's factor
    assert units_needed(0.0) is None
    assert units_needed(1 - 1e-16) is None
    assert units_needed(None) is None


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(rating=7, model="gpt", turns=(("user", "hello"), ("assistant", "yes?")), **more):
    return {"conversation": [{"role": role, "content": text} for role, text in turns],
            "annotations": {"model": model, "overall_rating": rating}, **more}  # fmt: skip


def test_rows_that_cannot_be_used_are_counted_by_reason(tmp_path):
    path = write(
        tmp_path / "log.jsonl",
        row(),
        row(rating=11),
        row(rating="good"),
        row(turns=[("assistant", "hello")]),
        row(turns=[("user", "hello"), ("tool", "{}"), ("assistant", "yes")]),
        row(model=None),
        row(turns=[("user", "\ud800"), ("assistant", "yes")]),
        {"conversation": [], "annotations": None},
    )
    rated = read_rated_conversations(path)
    assert [entry.rating.value for entry in rated.conversations] == [7.0]
    assert rated.left_out == {"rating outside 1 to 10": 1, "rating is not a number": 1, "without user": 1,
                              "with turns of tools": 1, "without the assistant's name": 1, "not Unicode": 1,
                              "without annotations": 1}  # fmt: skip
    with pytest.raises(ConfigurationError, match="1 rating outside 1 to 10"):
        read_rated_conversations(write(tmp_path / "bad.jsonl", row(rating=0)))


class Length:
    def judge(self, scenarios, conversations, *, seeds):
        texts = [" ".join(talk.said_by("assistant")) for talk in conversations]
        return [Judgement(None, fault="refused: no") if "secret" in text else Judgement(len(text) / 100)
                for text in texts]  # fmt: skip

    def fingerprint(self):
        return {"judge": "length"}


def test_a_judge_is_compared_on_the_same_conversations(tmp_path):
    rows = [row(rating=1 + number, model=f"m{number % 7}", turns=[("user", "go on"), ("assistant", "x" * (number + 1))])
            for number in range(10)]  # fmt: skip
    rated = read_rated_conversations(
        write(tmp_path / "log.jsonl", *rows, row(turns=[("user", "a"), ("assistant", "secret")]))
    ).conversations
    rewards, faults = judge_rated(Length(), rated, batch_size=3)
    assert faults == {"refused": 1}
    agreement = compare_with_people([entry.rating for entry in rated], rewards)
    assert agreement.instances.spearman.value == pytest.approx(1.0)
    assert agreement.instances.spearman.n == 10
    assert agreement.instances.reliability is None  # each was rated once


class Counting(Length):
    def __init__(self):
        self.asked = []

    def judge(self, scenarios, conversations, *, seeds):
        self.asked += [talk.said_by("user")[0] for talk in conversations]
        return super().judge(scenarios, conversations, seeds=seeds)


def test_scores_are_kept_so_that_only_the_missing_are_judged(tmp_path):
    rows = [row(turns=[("user", f"question {number}"), ("assistant", "x" * number)]) for number in (9, 1, 5)]
    log, scores = write(tmp_path / "log.jsonl", *rows), tmp_path / "scores.jsonl"
    alone = judge_rated(Length(), read_rated_conversations(log).conversations)
    judge, done = Counting(), []
    judge_rated(judge, read_rated_conversations(log, limit=2).conversations, path=scores)
    assert len(judge.asked) == 2
    resumed = judge_rated(judge, read_rated_conversations(log).conversations, path=scores, advance=done.append)
    assert sorted(judge.asked) == ["question 1", "question 5", "question 9"]
    assert done == [2, 1]
    assert resumed == alone
    with pytest.raises(ConfigurationError, match="made with another seed"):
        judge_rated(judge, read_rated_conversations(log).conversations, path=scores, seed=1)


def test_nobody_counts_twice(tmp_path):
    rated = read_rated_conversations(write(tmp_path / "log.jsonl", row(), row(rating=3), row()))
    assert [entry.rating.value for entry in rated.conversations] == [7.0, 3.0]
    assert rated.left_out == {"repeated": 1}


def test_annotations_of_simulator_arena_are_read(data_of_others):
    rated = read_rated_conversations(data_of_others("human_ai_dev.jsonl"))
    assert len(rated.conversations) == 48
    assert len({entry.rating.system for entry in rated.conversations}) > 5
