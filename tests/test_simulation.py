from __future__ import annotations

import ast
import copy
import json
import pickle
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simgym.assistants import AssistantTurn
from simgym.conversation import INTENT_PREFIX, Scenario
from simgym.errors import ConfigurationError, EpisodeError, InvalidAction
from simgym.faults import Fault, FaultKind
from simgym.judges import Judgement
from simgym.seeding import derive_seed
from simgym.simulation import Dialogue, Simulation
from simgym.simulators import UserTurn
from simgym.transcripts import ModelCall, Transcript

ROOT = Path(__file__).resolve().parents[1]
SCENARIOS = [Scenario(f"s{number}", f"{INTENT_PREFIX}rest for a while today", opening="hi") for number in range(4)]


class Fickle:
    """A user who speaks, leaves or fails, by the seed."""

    def __init__(self):
        self.calls = 0

    def open(self, scenarios, *, seeds):
        self.calls += 1
        return [self.turn(seed, seed % 5 == 0, False) for seed in seeds]

    def reply(self, scenarios, conversations, *, seeds):
        self.calls += 1
        return [self.turn(seed, seed % 7 == 0, seed % 3 == 0) for seed in seeds]

    def turn(self, seed, fails, leaves):
        call = ModelCall(role="user", turn=0, seed=seed, prompt="p", output="o", prompt_tokens=1, completion_tokens=1)
        if fails:
            return UserTurn("", fault=("context_overflow: full", "role_flip: x", "own: y")[seed % 3], calls=(call,))
        return UserTurn(f"user {seed}", ended=leaves, calls=(call,))

    def fingerprint(self):
        return {"simulator": "fickle"}


class Moody:
    """A judge who grades or fails, by the seed."""

    def __init__(self):
        self.calls = 0

    def judge(self, scenarios, conversations, *, seeds):
        self.calls += 1
        return [
            Judgement(None, fault="refused: no")
            if seed % 4 == 0
            else Judgement(0.5, reasons=("so so",), components=(0.25, 0.75))
            for seed in seeds
        ]

    def fingerprint(self):
        return {"judge": "moody"}


def make(max_turns=3):
    return Simulation(Fickle(), judge=Moody(), scenarios=SCENARIOS, max_turns=max_turns, max_length=60)


def turn_of(dialogue):
    """What the assistant does by the dialogue's seed: speak, fail, say nothing, or say too much."""
    number = dialogue.assistant_seed
    failing = {0: AssistantTurn("", "empty"), 1: AssistantTurn(" "), 2: AssistantTurn("x" * 61)}
    return failing.get(number % 9) or AssistantTurn(f"assistant {number}")


def everything(dialogue):
    """All fields, those that are not compared included."""
    return copy.deepcopy([getattr(dialogue, part.name) for part in fields(Dialogue)])


def run(simulation, seeds):
    """All states of some conversations, round by round."""
    rounds = [simulation.open(seeds)]
    while running := [dialogue for dialogue in rounds[-1] if not dialogue.ended]:
        rounds.append(simulation.step(running, [turn_of(dialogue) for dialogue in running]))
    return rounds


seeds_N = st.lists(st.integers(0, 2**53 - 1), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(seeds=seeds_N)
def test_a_step_changes_nothing_and_gives_the_same_twice(seeds):
    simulation = make()
    for round_ in run(simulation, seeds):
        running = [dialogue for dialogue in round_ if not dialogue.ended]
        before = [everything(dialogue) for dialogue in running]
        turns = [turn_of(dialogue) for dialogue in running]
        first, second = simulation.step(running, turns), simulation.step(running, turns)
        assert first == second
        assert [everything(dialogue) for dialogue in running] == before
        assert all(untouched is not other for untouched, other in zip(running, first, strict=True))


@settings(max_examples=60, deadline=None)
@given(seeds=seeds_N)
def test_a_fork_is_the_same_value_used_twice_and_each_branch_is_a_conversation_of_its_own(seeds):
    simulation = make()
    running = [dialogue for dialogue in simulation.open(seeds) if not dialogue.ended]
    forked = simulation.step(
        [*running, *running],
        [AssistantTurn("one way")] * len(running) + [AssistantTurn("another")] * len(running),
    )
    branches = [(forked[: len(running)], "one way"), (forked[len(running) :], "another")]
    for branch, said in branches:
        assert branch == simulation.step(running, [AssistantTurn(said)] * len(running))
        assert all(dialogue.conversation.said_by("assistant") == [said] for dialogue in branch)


@settings(max_examples=60, deadline=None)
@given(seeds=seeds_N)
def test_a_dialogue_does_not_depend_on_its_neighbours(seeds):
    simulation = make()
    together = run(simulation, seeds)
    for seed in seeds:
        alone = run(simulation, [seed])[-1][0]
        assert any(alone in round_ for round_ in together)


@settings(max_examples=60, deadline=None)
@given(seeds=seeds_N)
def test_every_state_goes_to_json_and_to_a_transcript_and_back(seeds):
    for round_ in run(make(), seeds):
        for dialogue in round_:
            again = Dialogue.from_json(json.loads(json.dumps(dialogue.to_json(), allow_nan=False)))
            assert everything(again) == everything(dialogue)
            assert pickle.loads(pickle.dumps(dialogue)) == dialogue
            assert hash(again) == hash(dialogue)
            if dialogue.ended:
                line = json.dumps(dialogue.to_transcript("UserSim-X-v0", {"judge": {}}).to_json(), allow_nan=False)
                assert Dialogue.from_transcript(Transcript.from_json(json.loads(line))) == dialogue


def test_a_step_costs_one_simulator_call_and_one_judge_call_however_many_take_part():
    simulation = make(max_turns=1)
    dialogues = [dialogue for dialogue in simulation.open(range(1, 40)) if not dialogue.ended]
    assert (simulation.simulator.calls, simulation.judge.calls) == (1, 0)
    simulation.step(dialogues, [AssistantTurn("well")] * len(dialogues))
    assert (simulation.simulator.calls, simulation.judge.calls) == (1, 1)
    simulation = make(max_turns=2)
    stepped = simulation.step(dialogues, [AssistantTurn("well")] * len(dialogues))
    assert (simulation.simulator.calls, simulation.judge.calls) == (1, 0)
    running = [dialogue for dialogue in stepped if not dialogue.ended]
    assert {dialogue.leaving for dialogue in running} == {True, False}
    simulation.step(running, [AssistantTurn("well")] * len(running))
    assert (simulation.simulator.calls, simulation.judge.calls) == (1, 1)


def open_one(simulation):
    """A dialogue that runs."""
    return next(dialogue for dialogue in simulation.open(range(20)) if not dialogue.ended)


@pytest.mark.parametrize(
    ("turn", "end_reason", "kind"),
    [
        (AssistantTurn("", "empty"), "assistant_fault", FaultKind.EMPTY),
        (AssistantTurn("", "server: no connection"), "assistant_fault", FaultKind.SERVER),
        (AssistantTurn("", "context_overflow: full"), "context_overflow", FaultKind.CONTEXT_OVERFLOW),
        (AssistantTurn("\ud83d"), "assistant_fault", FaultKind.INVALID),
        (AssistantTurn("x" * 61), "assistant_fault", FaultKind.INVALID),
    ],
)
def test_an_assistant_that_fails_ends_its_conversation_and_asks_nobody(turn, end_reason, kind):
    simulation = make()
    running = open_one(simulation)
    calls = simulation.simulator.calls
    (dialogue,) = simulation.step([running], [turn])
    assert (dialogue.end_reason, dialogue.fault.kind, dialogue.truncated) == (end_reason, kind, True)
    assert (dialogue.reward, dialogue.conversation) == (None, running.conversation)
    assert (simulation.simulator.calls, simulation.judge.calls) == (calls, 0)


def test_what_a_policy_thinks_is_nobodys_to_hear():
    """Trainers hand over what was sampled, thoughts included, as a plain string."""
    simulation = make()
    running = open_one(simulation)
    (dialogue,) = simulation.step([running], ["<think>They must not know.</think>\nWhich cake?"])
    assert dialogue.conversation.said_by("assistant") == ["Which cake?"]
    with pytest.raises(InvalidAction, match="thoughts alone"):
        simulation.step([running], ["<think>They must not know.</think>"], refuse_invalid=True)


def test_a_turn_that_cannot_be_taken_can_be_refused_before_anybody_is_asked():
    simulation = make()
    running = [dialogue for dialogue in simulation.open(range(20)) if not dialogue.ended]
    calls = simulation.simulator.calls
    turns = [AssistantTurn("fine")] * (len(running) - 1) + [AssistantTurn(" ")]
    with pytest.raises(InvalidAction, match="empty"):
        simulation.step(running, turns, refuse_invalid=True)
    assert simulation.simulator.calls == calls


def test_an_ended_conversation_takes_no_turn():
    simulation = make()
    ended = next(dialogue for dialogue in run(simulation, list(range(9)))[-1] if dialogue.ended and dialogue.turn)
    with pytest.raises(EpisodeError, match="has ended"):
        simulation.step([ended], [AssistantTurn("hello?")])


def test_states_of_the_first_version_of_simgym_are_read():
    state = {
        "state_version": 1,
        "scenario": SCENARIOS[0].to_json(),
        "seed": 4,
        "messages": [{"role": "user", "content": "hi"}],
        "user_reply": "",
        "turn": 0,
        "reward": None,
        "end_reason": "simulator_fault",
        "fault": "strange_old_thing: with: colons",
        "reasons": [],
        "judge_values": [0.5],
    }
    dialogue = Dialogue.from_json(state)
    assert dialogue.fault == Fault(FaultKind.OTHER, "strange_old_thing: with: colons")
    assert dialogue.components == (0.5,)
    assert {key: dialogue.to_json()[key] for key in state} == state
    for key in state.keys() - {"judge_values"}:
        with pytest.raises(ConfigurationError, match="get_state"):
            Dialogue.from_json({name: value for name, value in state.items() if name != key})


def test_scenarios_are_drawn_by_the_seed_or_asked_for():
    simulation = make()
    drawn = simulation.open([1, 2, 3])
    assert [dialogue.scenario for dialogue in drawn] == [
        SCENARIOS[derive_seed(seed, "scenario") % len(SCENARIOS)] for seed in (1, 2, 3)
    ]
    asked = simulation.open([1, 2, 3], ["s3", None, SCENARIOS[1]])
    assert [dialogue.scenario.id for dialogue in asked] == ["s3", drawn[1].scenario.id, "s1"]
    with pytest.raises(ConfigurationError, match="Did you mean 's2'"):
        simulation.open([1], ["s22"])


def dialogues_made_in(source):
    """Lines that construct a dialogue, or change one."""
    names = {part.name for part in fields(Dialogue)}
    makers = ("Dialogue", "_Draft", "replace", "__setattr__", "setattr")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            maker = ast.unparse(node.func).rpartition(".")[2]
            changed = ast.unparse(node.args[0]).lower() if node.args else ""
            if maker in makers[:2] or (maker in makers and "dialogue" in changed):
                yield f"{node.lineno} {ast.unparse(node)[:60]}"
        stores = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr in names
        if stores and "dialogue" in ast.unparse(node.value).lower():
            yield f"{node.lineno} {ast.unparse(node)}"


def test_nobody_but_the_simulation_makes_a_next_dialogue():
    """Environments, integrations, servers and recipes are adapters: what happens next is decided in one place."""
    paths = [path for folder in ("simgym", "agents", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    assert {"trl.py", "stable_baselines3.py", "features.py"} <= {path.name for path in paths}
    offences = [
        f"{path.relative_to(ROOT)}:{offence}"
        for path in paths
        if path not in (ROOT / "simgym" / "simulation.py", ROOT / "simgym" / "dialogue.py")
        for offence in dialogues_made_in(path.read_text(encoding="utf-8"))
    ]
    assert not offences, "A dialogue moves on in Simulation.step alone."


@pytest.mark.parametrize(
    "source",
    [
        "after = Dialogue(scenario=a, seed=1)",
        "after = replace(dialogue, turn=2)",
        "row.dialogue.turn += 1",
        "object.__setattr__(dialogue, 'turn', 2)",
    ],
)
def test_code_that_makes_a_dialogue_is_noticed(source):
    assert list(dialogues_made_in(source))


def test_a_dialogue_of_an_earlier_version_goes_on(scenarios):
    saved = json.loads((Path(__file__).parent / "earlier_files" / "dialogue.json").read_text())
    dialogue = Dialogue.from_json(saved)
    assert dialogue.to_json() == saved
    (after,) = Simulation("replay", judge=Moody(), scenarios=scenarios, max_turns=2).step([dialogue], ["Patch it."])
    assert (after.turn, after.end_reason) == (2, "turn_limit")
