from __future__ import annotations

import asyncio

import pytest

pytest.importorskip(
    "google.adk.evaluation.simulation.user_simulator", reason="google-adk has an environment of its own"
)
from google.adk.evaluation.eval_case import EvalCase
from google.adk.evaluation.eval_set import EvalSet
from google.adk.evaluation.evaluation_generator import EvaluationGenerator

AGENT = """
from google.adk.agents import LlmAgent
from google.adk.models import BaseLlm, LlmResponse
from google.genai.types import Content, Part

class Says(BaseLlm):
    async def generate_content_async(self, request, stream=False):
        yield LlmResponse(content=Content(role="model", parts=[Part(text="Sure.")]))

root_agent = LlmAgent(name="helper", model=Says(model="says"))
"""


@pytest.fixture
def play(shell, tmp_path, monkeypatch):
    package = tmp_path / "assistant_of_a_rule"
    package.mkdir()
    (package / "__init__.py").write_text("from . import agent\n")
    (package / "agent.py").write_text(AGENT)
    monkeypatch.syspath_prepend(tmp_path)
    names = shell("Google ADK")
    plan = names["plan"]
    case = EvalCase(eval_id="party", conversation_scenario=plan)
    cases = EvalSet(eval_set_id="cases", eval_cases=[case])
    users = []
    seat = names["SimulatedUser"].get_next_user_message

    async def bounded(self, events):
        """ADK has no limit of turns of its own for users that are registered."""
        status = names["Status"].TURN_LIMIT_REACHED
        if len([event for event in events if event.author == "user"]) == 3:
            return names["NextUserMessage"](status=status)
        users.append(await seat(self, events))
        return users[-1]

    monkeypatch.setattr(names["SimulatedUser"], "get_next_user_message", bounded)

    def run(seed=7):
        users.clear()
        config = names["SimgymConfig"](seed=seed)
        generated = EvaluationGenerator.generate_responses(cases, package.name, user_simulator_config=config)
        (played,) = asyncio.run(generated)
        turns = played.responses[0]
        said = [(turn.user_content.role, turn.user_content.parts[0].text) for turn in turns]
        answers = [turn.final_response.parts[0].text for turn in turns]
        return said, answers, users[-1].status.value

    return run


def test_adks_own_loop_meets_the_same_user_for_the_same_seed_in_the_user_role(play):
    said, answers, _ = play()
    assert said[0] == ("user", "Hello, a party!")
    assert [role for role, _ in said] == ["user"] * 3
    assert all(text.startswith("number ") for _, text in said[1:])
    assert answers == ["Sure."] * 3
    assert play()[0] == said != play(seed=8)[0]


def test_a_user_who_leaves_and_a_user_who_fails_end_the_conversation_with_a_status(play, leaving, broken):
    leaving()
    assert play()[1:] == (["Sure."], "stop_signal_detected")
    broken()
    assert play()[1:] == (["Sure."], "no_message_generated")
