from __future__ import annotations

import json

import pytest
from damage import places, with_other
from hypothesis import given, settings
from hypothesis import strategies as st

from simgym.conversation import INTENT_PREFIX, Conversation, Scenario
from simgym.errors import ConfigurationError
from simgym.evaluation import Plan
from simgym.report import MatrixResults
from simgym.simulation import Dialogue
from simgym.transcripts import ModelCall, Transcript

SCENARIO = Scenario("s", f"{INTENT_PREFIX}rest", opening="hi")
TRANSCRIPT = Transcript(
    env_id="UserSim-Replay-v0",
    scenario=SCENARIO,
    seed=1,
    conversation=Conversation().add("user", "hi").add("assistant", "ho"),
    end_reason="turn_limit",
    reward=0.5,
    fingerprints={"judge": {"kind": "x"}},
    calls=(ModelCall(role="user", turn=0, seed=1, prompt="p", output="o", prompt_tokens=2, completion_tokens=1),),
).to_json()
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300)
@given(st.data(), anything)
def test_a_record_with_anything_anywhere_is_read_or_refused_in_a_sentence(data, other):
    """1 + 300 places and values; what is read can be written again."""
    value = with_other(TRANSCRIPT, data.draw(st.sampled_from(places(TRANSCRIPT)[1:])), other)
    try:
        transcript = Transcript.from_json(value)
    except ConfigurationError:
        return
    json.dumps(transcript.to_json(), allow_nan=False)
    transcript.content_hash()


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_a_number_that_json_has_not_is_refused_at_any_depth(number):
    with pytest.raises(ConfigurationError, match=r"fingerprints.* holds (inf|nan), expected finite numbers"):
        Transcript.from_json({**TRANSCRIPT, "fingerprints": {"judge": {"kind": [1, {"deep": [number]}]}}})


@pytest.mark.parametrize(
    "read", [Transcript.from_json, Scenario.from_json, Dialogue.from_json, MatrixResults.from_json]
)
@given(value=anything)
def test_json_of_any_other_shape_is_refused_in_a_sentence(read, value):
    with pytest.raises(ConfigurationError):
        read(value)


@given(anything)
def test_a_plan_of_any_other_shape_is_refused(value):
    with pytest.raises(ConfigurationError):
        Plan.from_json(value)


@pytest.mark.parametrize("reward", [1.5, -0.1, float("nan"), True, "0.5"])
def test_a_reward_is_a_number_from_0_to_1_or_none(reward):
    with pytest.raises(ConfigurationError, match=r"reward"):
        Transcript.from_json({**TRANSCRIPT, "reward": reward})
    assert Transcript.from_json({**TRANSCRIPT, "reward": None}).reward is None
