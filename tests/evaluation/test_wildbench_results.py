from __future__ import annotations

import json

import pytest

from simgym.evaluation.wildbench_results import (
    REWARDS,
    WEIGHTS,
    Compared,
    Graded,
    compare_checklists,
    macro_mean,
    penalised,
    wb_reward,
    wb_score,
)
from simgym.statistics import length_controlled_win_rate


def test_the_published_scores_are_reproduced_to_the_last_bit(data_of_others):
    models = json.loads(data_of_others("wildbench_score.json").read_text())["models"]
    for name, model in models.items():
        graded = [Graded(task, grade, (), length, cut) for task, grade, length, cut in model["rows"]]
        summary, published = wb_score(graded, official=True, resamples=99), model["published"]
        assert summary.overall.value == (published["score"] - 5) * 2 * 10, name
        assert summary.overall.value == pytest.approx(published["adjusted_score"] * 10, abs=1e-12), name
        assert summary.counted == published["total"], name
        assert summary.mean_length == published["avg_len"], name
        assert summary.overall.low < summary.overall.value < summary.overall.high


def test_the_published_macro_means_are_reproduced(data_of_others):
    data = json.loads(data_of_others("wildbench_macro_and_reward.json").read_text())
    assert data["weights"] == WEIGHTS
    for name, row in data["score"].items():
        assert macro_mean(row["task_categorized_scores"]) == pytest.approx(row["task_macro_score"], abs=1e-9), name


def test_the_published_rewards_are_reproduced(data_of_others):
    data = json.loads(data_of_others("wildbench_macro_and_reward.json").read_text())["pairwise"]
    for versus, models in data.items():
        for name, row in models.items():
            outcomes = [(outcome, ()) for outcome in REWARDS for _ in range(row[outcome])]
            compared = [Compared(str(n), outcome, groups) for n, (outcome, groups) in enumerate(outcomes)]
            compared += [Compared(f"missing {n}", None) for n in range(row["total"] - len(compared))]
            summary = wb_reward(compared, official=True, resamples=2)
            assert summary.overall.value == pytest.approx(row["reward"], abs=1e-9), (versus, name)
            assert summary.counted == row["total"]
            grouped = [
                Compared(f"{group} {outcome} {n}", outcome, (group,))
                for group, counts in row["task_categorized_results"].items()
                for outcome, count in counts.items()
                for n in range(count)
            ]
            rewards = wb_reward(grouped, resamples=2)
            for group, reward in row["task_categorized_rewards"].items():
                assert rewards.by_group[group].value == pytest.approx(reward, abs=1e-9), (versus, name, group)
            assert rewards.macro == pytest.approx(row["task_macro_reward"], abs=1e-9), (versus, name)


def test_by_default_what_was_cut_off_or_failed_is_counted_and_in_no_figure():
    group = ("Creative Tasks",)
    graded = [Graded("a", 9, group, 10), Graded("b", 1, group, 10, cut_off=True), Graded("c", None, fault="refused: x")]
    clean, official = wb_score(graded), wb_score(graded, official=True)
    assert (clean.overall.value, clean.failures) == (80.0, {"cut_off": 1, "refused": 1})
    assert (official.overall.value, official.by_group["Creative Tasks"].value) == (0.0, 80.0)
    assert clean.macro is None
    compared = [Compared("a", "win", group), Compared("b", None, group)]
    assert wb_reward(compared).overall.value == 0.5
    assert wb_reward(compared, official=True).overall.value == 0.25
    assert wb_reward(compared).failures == {"no_reference": 1}
    assert wb_score([]).overall.value is None


@pytest.mark.parametrize(
    ("outcome", "length", "other", "penalty", "expected"),
    [
        ("win", 1200, 600, 500, "tie"),
        ("win", 1100, 600, 500, "win"),
        ("win_much", 9000, 600, 500, "win_much"),
        ("lose", 600, 1200, 500, "tie"),
        ("lose", 1200, 600, 500, "lose"),
        ("win", 9000, 1, None, "win"),
    ],
)
def test_a_slight_win_by_a_much_longer_answer_is_a_tie(outcome, length, other, penalty, expected):
    assert penalised(outcome, length, other, penalty) == expected


def test_checklists_give_wins_ties_and_an_adjusted_rate():
    first = {"a": (3, 100), "b": (2, 100), "c": (1, 100), "d": None, "e": (1, 5)}
    second = {"a": (2, 300), "b": (2, 100), "c": (4, 100), "d": (1, 5)}
    outcome = compare_checklists(first, second)
    assert (outcome.wins, outcome.ties, outcome.losses, outcome.left_out) == (1, 1, 1, 2)
    assert outcome.adjusted_win_rate.value == 0.5
    assert outcome.mean_length_difference == pytest.approx(-200 / 3)
    assert outcome.length_controlled.value is None
    json.dumps(outcome.to_json(), allow_nan=False)


def test_length_control_takes_away_what_length_alone_won():
    lengths = [100 + 10 * (n % 40) for n in range(400)]
    others = [300] * 400
    by_length = [float(mine > 290) if n % 10 else 0.5 for n, mine in enumerate(lengths)]
    raw, controlled = sum(by_length) / 400, length_controlled_win_rate(by_length, lengths, others)
    assert abs(controlled.value - 0.5) < 0.1
    always = length_controlled_win_rate([1.0, 0.0, 1.0, 1.0] * 30, [100] * 120, [100] * 120)
    assert always.value == pytest.approx(0.75)
    assert raw > 0.4
    assert length_controlled_win_rate([1.0] * 50, [1] * 50, [2] * 50).value is None


def test_two_orders_are_one_task():
    rows = [Compared(str(n), outcome) for n in range(20) for outcome in ("win", "lose")]
    rewards = wb_reward([*rows, *(Compared(f"missing {n}", None) for n in range(20))], resamples=99)
    assert (rewards.overall.value, rewards.counted) == (0, 20)
    better = [Compared(str(n), outcome) for n in range(20) for outcome in ("win", "tie")]
    missing = [Compared(f"missing {n}", None) for n in range(20)]
    assert wb_reward([*better, *missing], official=True, resamples=99).overall.value == pytest.approx(0.125)


def test_where_length_decides_everything_no_rate_is_made_up():
    outcomes = [1.0 if n % 2 else 0.0 for n in range(40)]
    estimate = length_controlled_win_rate(outcomes, [500 if n % 2 else 100 for n in range(40)], [300] * 40)
    assert estimate.value is None
    json.dumps(estimate.to_json(), allow_nan=False)
