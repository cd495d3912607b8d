from __future__ import annotations

import json
import math
import re

import pytest
from typer.testing import CliRunner

from simgym.cli.main import app
from simgym.conversation import INTENT_PREFIX, Conversation
from simgym.data import LoggedConversation, StepOutput
from simgym.errors import ConfigurationError
from simgym.evaluation import load_reference, make_reference, score_realism, simulate_turns
from simgym.language_models import ScriptedLM, TransformersLM
from simgym.report import realism_results, write_realism_report
from simgym.simulators import FineTuned, Replay, RolePlay, persona

WISHES = ["plan a cheap trip to Porto", "mend a bicycle tyre", "bake rye bread", "write a funny wedding toast"]
EVIL = "<script>alert(1)</script>"


def logs(people=12):
    rows = []
    for number in range(people * 2):
        wish, talk = WISHES[number % 4], Conversation()
        for turn in range(3 + number % 2):
            said = f"well {wish.split()[turn % 3]} and so on {number} {'really ' * (number % 5)}ok {turn}"
            talk = talk.add("user", said).add("assistant", f"I see {turn}. {EVIL}")
        if number % 3 == 0:
            talk = talk.add("user", "thanks, bye")
        rows.append(
            LoggedConversation(
                id=f"h{number}",
                user_key=f"u{number % people}",
                country="",
                language="English",
                conversation=talk,
                intent=f"{INTENT_PREFIX}{wish}",
            )
        )
    return rows


@pytest.fixture(scope="module")
def reference():
    return make_reference(logs(), "a test", conversations=20, later_turns=2, seed=3)


def test_a_reference_samples_people_and_knows_who_left(reference):
    assert (reference.conversations, reference.people, len(reference.first)) == (20, 12, 20)
    assert len({moment.key for moment in reference.moments}) == len(reference.moments)
    for moment in reference.moments:
        recorded = moment.scenario.history
        shown = len(moment.history.messages)
        assert moment.history.messages == recorded[:shown]
        assert moment.said == (recorded[shown].content if shown < len(recorded) else None)
        assert shown == 0 or recorded[shown - 1].role == "assistant"
    assert 0 < sum(moment.said is None for moment in reference.later) < len(reference.later)
    again = make_reference(logs(), "a test", conversations=20, later_turns=2, seed=3)
    assert again.content_hash() == reference.content_hash()
    assert make_reference(logs(), "a test", conversations=20, later_turns=2, seed=4) != reference


def test_a_user_who_is_the_person_scores_as_the_person(reference):
    replay = Replay()
    card = score_realism("replay", replay.fingerprint(), reference, simulate_turns(replay, reference), resamples=99)
    for name in ("words_per_turn", "type_token_ratio", "first_turn_diversity", "intent_in_first_turn",
                 "intent_in_later_turn", "intent_adherence", "leaves", "role_adherence"):  # fmt: skip
        figure = card.metric(name)
        assert figure.simulated.value == pytest.approx(figure.human.value), name
    for name in ("length_divergence", "word_divergence"):
        assert card.metric(name).simulated.value == pytest.approx(card.metric(name).human.value)
    assert card.metric("classifier_auc").simulated.value == pytest.approx(0.5)
    control = card.metric("classifier_auc_control")
    assert control.simulated.value == pytest.approx(control.human.value, abs=0.25)
    for name in ("mattr_z", "hdd_z", "yules_k_z"):
        assert card.metric(name).simulated.value == 0, name
    assert card.metric("termination_f1").simulated.value == 1
    assert card.metric("bits_per_byte").simulated is None
    assert "likelihoods" in card.metric("bits_per_byte").why_not


def test_a_study_in_its_own_schema_is_a_reference(tmp_path):
    talk = {"workerId": "w", "intent": "Write a letter.", "ai_responses": ["Here."], "model": "m"}
    path = tmp_path / "study.json"
    path.write_text(json.dumps([{**talk, "user_queries": ["I need a letter to Susan", "thanks"]}, talk | {
        "user_queries": ["A letter to my landlord"], "intent": ""}]))  # fmt: skip
    reference = load_reference(f"simulatorarena:{path}")
    assert reference.source == "study.json, simulatorarena"
    assert (reference.conversations, reference.people) == (2, 1)
    assert {moment.scenario.intent for moment in reference.moments} == {
        f"{INTENT_PREFIX}get what this describes: Write a letter.",
        f"{INTENT_PREFIX}get help with this topic: letter, landlord",
    }
    assert sum(moment.said is None for moment in reference.moments) == 1  # a log that ends with the user does not tell


def test_a_scripted_user_is_found_out(reference):
    scripted = RolePlay(ScriptedLM("I would be most delighted to hear more about that, thank you."))
    card = score_realism("scripted", {}, reference, simulate_turns(scripted, reference), resamples=99)
    assert card.metric("classifier_auc").simulated.value > 0.95
    assert card.metric("first_turn_diversity").simulated.value == 0
    assert card.metric("leaves").simulated.value == 0
    assert card.metric("termination_recall").simulated.value == 0
    assert card.metric("termination_precision").simulated.value is None
    assert card.metric("word_divergence").simulated.value > card.metric("word_divergence").human.value


def test_faults_are_counted_by_kind_and_kept_out_of_the_text_figures(reference):
    broken = RolePlay(ScriptedLM("As an AI language model, I would ask this."), max_attempts=2)
    turns = simulate_turns(broken, reference)
    card = score_realism("broken", {}, reference, turns, resamples=99)
    assert card.first_faults == card.lasting_faults == {"role_flip": len(turns)}
    assert card.metric("role_adherence").simulated.value == 0
    assert card.metric("lasting_faults").simulated.value == 1
    assert card.metric("words_per_turn").simulated.value is None
    json.dumps(card.to_json(), allow_nan=False)


def test_a_simulator_that_takes_real_openings_only_is_not_asked_for_one(reference):
    turns = simulate_turns(persona(ScriptedLM("fine by me")), reference)
    assert [turn.asked for turn in turns] == [bool(moment.history.messages) for moment in reference.moments]
    card = score_realism("persona", {}, reference, turns, resamples=99)
    assert card.metric("first_turn_diversity").why_not == "writes no openings"


def test_human_turns_are_scored_under_the_simulators_own_prompt(reference, tiny_model, tiny_adapter):
    model = TransformersLM(tiny_model)
    cards = {}
    for name, simulator in {
        "tuned": FineTuned(model, adapter=tiny_adapter, max_new_tokens=4),
        "played": RolePlay(model, max_new_tokens=110, max_attempts=1),
    }.items():
        small = make_reference(logs(3), "a test", conversations=2, later_turns=1, seed=3)
        turns = simulate_turns(simulator, small, batch_size=2)
        cards[name] = score_realism(name, {}, small, turns, resamples=49)
        moment, turn = next(pair for pair in zip(small.moments, turns, strict=True) if pair[0].history.messages)
        forced = simulator.force(moment.scenario, moment.history, moment.said)
        prompt = model.prompt_text(forced.request)
        assert moment.scenario.goal in prompt
        (likelihood,) = model.loglikelihood([prompt + forced.prefix], [forced.text], adapter=forced.request.adapter)
        assert turn.logprob == pytest.approx(likelihood.logprob, rel=1e-4)
        assert turn.byte_count == len(moment.said.encode())
        bits = sum(-simulated.logprob for simulated in turns if simulated.logprob is not None) / math.log(2)
        figure = cards[name].metric("bits_per_byte").simulated
        assert figure.value == pytest.approx(bits / sum(simulated.byte_count for simulated in turns))
    assert "<|user|>" in model.prompt_text(FineTuned(model).force(moment.scenario, moment.history, "x").request)


def test_an_interrupted_run_goes_on_and_another_simulator_is_refused(reference, tmp_path):
    path = tmp_path / "turns.jsonl"
    whole = simulate_turns(RolePlay(ScriptedLM("seed")), reference, path=path, batch_size=8)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:12]) + lines[12][:20])
    done = []
    again = simulate_turns(RolePlay(ScriptedLM("seed")), reference, path=path, batch_size=8, advance=done.append)
    assert again == whole
    assert done[0] == 11
    assert sum(done) == len(reference.moments)
    with pytest.raises(ConfigurationError, match="another simulator"):
        simulate_turns(RolePlay(ScriptedLM("echo")), reference, path=path)


def test_sources_that_do_not_serve_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="neither chitchat nor a file"):
        load_reference("nowhere.jsonl")
    with pytest.raises(ConfigurationError, match="no split 'dev'"):
        load_reference("chitchat:dev")
    nameless = [
        LoggedConversation(
            id="h", user_key="u", country="", language="English", conversation=Conversation().add("user", "hi")
        )
    ]
    with pytest.raises(ConfigurationError, match="simgym data intents"):
        make_reference(nameless, "x", conversations=5, later_turns=1, seed=0)


def test_the_command_prints_a_table_and_writes_a_safe_page(tmp_path):
    source = tmp_path / "test.jsonl"
    with StepOutput(source) as output:
        for logged in logs():
            output.keep(logged.to_json())
    out = tmp_path / "out"
    env = ["UserSim-Persona-v0", "UserSim-Replay-v0", "--model", "UserSim-Persona-v0=scripted:fine by me"]
    words = ["realism", *env, "--reference", str(source), "-n", "12", "-o", str(out)]
    outcome = CliRunner().invoke(app, words)
    assert outcome.exit_code == 0, outcome.output
    assert "words per turn" in outcome.stdout
    results = json.loads((out / "results.json").read_text())
    page = (out / "report.html").read_text()
    assert [card["simulator"] for card in results["scorecards"]] == ["Persona", "Replay"]
    assert EVIL not in page
    assert "&lt;script&gt;" in page
    for card in results["scorecards"]:
        value = next(f for f in card["metrics"] if f["name"] == "words_per_turn")["simulated"]["value"]
        assert f"<strong>{value:.{1 if value >= 10 else 2}f}</strong>" in page
    assert not re.search(r"(src|href)=.?http", page)
    assert CliRunner().invoke(app, words).exit_code == 0
    wrong = CliRunner().invoke(app, ["realism", "UserSim-Personal-v0", "-o", str(out)])
    assert wrong.exit_code == 2
    assert "Did you mean 'UserSim-Persona-v0'" in wrong.stderr


def test_the_report_escapes_what_everybody_said(reference, tmp_path):
    simulator = RolePlay(ScriptedLM(EVIL))
    turns = simulate_turns(simulator, reference)
    card = score_realism(EVIL, simulator.fingerprint(), reference, turns, resamples=49)
    results = realism_results(reference, [card], seed=0, version="0")
    write_realism_report(tmp_path / "r.html", results, reference, [card], {EVIL: turns})
    assert EVIL not in (tmp_path / "r.html").read_text()
