"""From records to estimates: known truth comes back, exclusions are blind, other apps' records are read."""

import json

import numpy as np
import pytest

from simgym.errors import ConfigurationError, MalformedFile
from simgym.report import write_study_report
from simgym.statistics import draw_votes
from simgym.statistics.votes import VoteDistribution
from simgym.study import analyse, read_records, votes_of
from simgym.study.analysis import AnalysisPlan
from simgym.study.config import Rule
from simgym.study.exclusions import BlindRecord, blind, exclude


def records(participants=80, *, win_rate=0.7, names=("new", "old"), seed=0, **more):
    """As `simgym study export` writes them; half of the participants have the pair the other way round."""
    rng = np.random.default_rng(seed)
    votes = draw_votes(participants, 5, VoteDistribution(win_rate), rng=rng)
    rows = []
    for number, row in enumerate(votes):
        turned = number % 2 == 1
        turns = []
        for turn, value in enumerate(row, 1):
            preference = {1.0: "model1", 0.0: "model2", 0.5: "tie"}[float(1 - value if turned else value)]
            left = "model1" if rng.random() < 0.5 else "model2"
            pick = "tie" if preference == "tie" else "left" if preference == left else "right"
            turns.append(
                {
                    "turn": turn,
                    "preference": preference,
                    "left": left,
                    "pick": pick,
                    "reason": "clear and short",
                    "seconds_to_choice": 20.0,
                    "model1_response": "word " * int(rng.integers(5, 50)),
                    "model2_response": "word " * int(rng.integers(5, 50)),
                }
            )
        first, second = names[::-1] if turned else names
        talk = {"is_training": False, "model1_name": first, "model2_name": second, "turns": turns}
        practice = {"turn": 1, "preference": "model2" if turned else "model1"}
        training = {**talk, "is_training": True, "turns": [practice]}
        record = {"participant": f"{names}{number}", "conversations": [training, talk], "document": "word " * 250}
        rows.append(record | {"steps": {"opened": 0, "completed": 900}, "kind": "real"} | more)
    return rows


def test_a_known_preference_comes_back_whichever_way_round_it_was_recorded():
    (pair,) = analyse(records(400), plan=AnalysisPlan(pairs=(("new", "old"),))).pairs
    main = pair.rows[0]
    assert (pair.first, pair.second) == ("new", "old")
    assert main.votes == 2000  # practice is left out
    assert main.rate.low < 0.7 < main.rate.high
    assert pair.p_adjusted < 1e-6
    assert 0.1 < pair.icc.value < 0.3
    assert pair.left.rate.low < 0.5 < pair.left.rate.high
    assert {row.name for row in pair.rows} == {
        "main", "everybody", "first_exchange", "unflagged", "robust", "equal_length"
    }  # fmt: skip
    assert next(row for row in pair.rows if row.name == "first_exchange").votes == 400
    (turned,) = analyse(records(400), plan=AnalysisPlan(pairs=(("old", "new"),))).pairs
    assert turned.rows[0].rate.value == pytest.approx(1 - main.rate.value)


def test_equal_assistants_are_shown_to_be_equivalent_only_with_enough_people():
    small = analyse(records(20, win_rate=0.5)).pairs[0].equivalence
    large = analyse(records(1500, win_rate=0.5, seed=1), resamples=199).pairs[0].equivalence
    assert not small.equivalent
    assert large.equivalent


def test_length_is_held_equal():
    """People who follow length alone seem to prefer the assistant that writes more, until length is held equal."""
    rng = np.random.default_rng(0)
    participants = records(300)
    for record in participants:
        talk = record["conversations"][1]
        for turn in talk["turns"]:
            lengths = {talk["model1_name"]: 0, talk["model2_name"]: 0}
            lengths["new"], lengths["old"] = rng.integers(40, 100), rng.integers(20, 80)
            turn["model1_response"] = "x" * int(lengths[talk["model1_name"]])
            turn["model2_response"] = "x" * int(lengths[talk["model2_name"]])
            longer = len(turn["model1_response"]) - len(turn["model2_response"]) + rng.normal(0, 20)
            turn["preference"] = "model1" if longer > 0 else "model2"
    rows = {
        row.name: row
        for row in analyse(participants, plan=AnalysisPlan(pairs=(("new", "old"),)), resamples=199).pairs[0].rows
    }
    assert rows["main"].rate.low > 0.6
    assert rows["equal_length"].rate.low < 0.5 < rows["equal_length"].rate.high


def test_exclusion_rules_cannot_see_whom_a_participant_preferred():
    before = records(10)
    after = json.loads(json.dumps(before))
    for record in after:
        for talk in record["conversations"]:
            talk["model1_name"], talk["model2_name"] = talk["model2_name"], talk["model1_name"]
            for turn in talk["turns"]:
                turn["preference"] = {"model1": "model2", "model2": "model1"}.get(turn["preference"], "tie")
    assert list(map(blind, before)) == list(map(blind, after))
    assert not {"preference", "model1_name"} & set(BlindRecord.__slots__)


def test_rules_exclude_and_are_counted_once_and_both_analyses_are_given():
    participants = records(30)
    participants[0]["document"] = "short"
    participants[1]["steps"] = {"opened": 0}
    for turn in participants[2]["conversations"][1]["turns"]:
        turn["pick"] = "left"
    rules = [Rule(rule="document_words", minimum=200), Rule(rule="same_side_share", maximum=0.95)]
    kept, counts = exclude(participants, rules)
    assert counts["did not complete"] == 1
    assert counts["words in the final text below 200"] == 1
    assert len(kept) + sum(counts.values()) == 30
    results = analyse(participants, plan=AnalysisPlan(rules=tuple(rules)))
    rows = {row.name: row for row in results.pairs[0].rows}
    assert rows["everybody"].participants == 30
    assert rows["main"].participants == results.included == len(kept)


def test_records_of_the_original_app_are_read(tmp_path):
    turns = [
        {"preference": "model1", "is_training": True},
        {"preference": "model2"},
        {"preference": "tie"},
        {"message": "left before choosing"},
    ]
    people = [{"conversations": [{"model1_name": "sft", "model2_name": "init", "turns": turns}]} for _ in range(4)]
    for path, text in (
        (tmp_path / "all.json", json.dumps(people)),
        (tmp_path / "keyed.json", json.dumps({"participants": {str(at): person for at, person in enumerate(people)}})),
        (tmp_path / "lines.jsonl", "\n".join(map(json.dumps, people))),
    ):
        path.write_text(text, encoding="utf-8")
        votes = votes_of(read_records(path))
        assert [(vote.outcome, vote.turn) for vote in votes] == [(0.0, 1), (0.5, 2)] * 4
        assert len({vote.participant for vote in votes}) == 4
    assert analyse(read_records(tmp_path / "all.json")).kind == "unknown"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("nothing", "not JSON"),
        ('[{"participant": 1}]', "participant 1: participant lacks the key .conversations."),
        (
            '[{"conversations": [{"turns": [{"preference": "A"}]}]}]',
            "preference is .A., expected one of model1",
        ),
        ('[{"conversations": [{"turns": [{"preference": "tie"}]}]}]', "has no model1_name"),
    ],
)
def test_records_that_cannot_be_read_are_named(tmp_path, text, match):
    path = tmp_path / "records.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(MalformedFile, match=match):
        votes_of(read_records(path))


def test_synthetic_and_real_records_are_not_mixed_and_none_are_an_error():
    with pytest.raises(ConfigurationError, match="Analyse each kind separately"):
        analyse([*records(3), *records(3, kind="synthetic")])
    with pytest.raises(ConfigurationError, match="no participants"):
        analyse([])


def test_rules_that_were_not_fixed_before_the_data_are_warned_of():
    participants = [{**record, "study_hash": "a" * 16} for record in records(4)]
    assert analyse(participants, plan=AnalysisPlan(study_hash="a" * 16), resamples=199).warnings == ()
    (warning,) = analyse(participants, plan=AnalysisPlan(study_hash="b" * 16), resamples=199).warnings
    assert "another version of the study" in warning


def test_three_assistants_have_strengths_and_pairs_are_corrected_for_being_three():
    rows = [
        *records(60, win_rate=0.7, names=("a", "b")),
        *records(60, win_rate=0.6, names=("b", "c")),
        *records(60, win_rate=0.8, names=("a", "c")),
    ]
    results = analyse(rows, resamples=199)
    assert results.strengths["a"].value == 0
    assert results.strengths["b"].value > results.strengths["c"].value
    for pair in results.pairs:
        assert pair.p_adjusted >= pair.rows[0].test.p_value


def test_the_report_shows_the_numbers_escaped_and_says_what_is_synthetic(tmp_path):
    results = analyse(records(40, kind="synthetic", names=("<b>new</b>", "old")))
    write_study_report(tmp_path / "report.html", results, title="<script>alert(1)</script>")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Synthetic: scripted participants" in page
    assert "<script" not in page
    assert "<b>new" not in page
    for row in results.pairs[0].rows:
        assert f"{100 * row.rate.value:.1f} %" in page
        assert f"{100 * row.rate.low:.1f} to {100 * row.rate.high:.1f}" in page
    json.dumps(results.to_json(), allow_nan=False)


def test_a_handful_of_people_gives_values_without_confidence(tmp_path):
    rows = [
        {**record, "rating": {"rating": 5 + number % 3}, "arm": [names[0]]}
        for names in (("a", "b"), ("b", "c"), ("a", "c"))
        for number, record in enumerate(records(5, win_rate=0.6, names=names))
    ]
    results = analyse(rows, resamples=99)
    doubt = "5 clusters, fewer than 6"
    for pair in results.pairs:
        assert (pair.equivalence.rate.doubt, pair.equivalence.p_value, pair.p_adjusted) == (doubt, None, None)
        assert all(row.test is None for row in pair.rows)
        assert all("Wilson" in row.rate.method for row in pair.rows if row.rate.reliable)
    for difference in results.rating_differences:
        assert difference.difference.doubt == "5 ratings, fewer than 6"
        assert (difference.test, difference.p_adjusted) == (None, None)
    write_study_report(tmp_path / "report.html", results, title="few")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"indistinguishable cannot be told: {doubt}" in page
    assert "p = " not in page


def test_assistants_whom_everybody_rates_alike_have_no_interval():
    rows = [
        {**record, "rating": {"rating": rating}, "arm": [name]}
        for name, rating in (("a", 10), ("b", 1))
        for record in records(9, names=(name, "x"))
    ]
    (difference,) = analyse(rows, resamples=99).rating_differences
    assert (difference.difference.value, difference.difference.low) == (9, None)
    assert difference.difference.doubt == "all ratings of a and of b are equal"


def test_rules_on_texts_are_refused_where_there_are_none():
    with_texts = {"conversations": [{"turns": [{"reason": "clear", "model1_response": "a", "model2_response": "b"}]}]}
    without = {"conversations": [{"turns": [{"reason": 1, "model1_response": 1, "model2_response": 1}]}]}
    rule = Rule(rule="reason_words", minimum=3)
    assert exclude([with_texts], [rule])[0] == []
    with pytest.raises(ConfigurationError, match="without texts"):
        exclude([without], [rule])
    assert exclude([without], [Rule(rule="tie_share", maximum=0.9)])[0] == [without]
