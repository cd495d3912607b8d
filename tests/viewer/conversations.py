"""Conversations and run folders that tests of the viewer and of labels share."""

from __future__ import annotations

import json

from simgym.conversation import INTENT_PREFIX, Conversation, Scenario
from simgym.evaluation.labels import Label, LabelledConversation
from simgym.transcripts import ModelCall, Transcript, TranscriptWriter

PERSONA = {
    "simulator": "role_play",
    "model": {"kind": "scripted", "model": "seed"},
    "guideline_hashes": {"default": "1", "impatient": "2", "typos": "3"},
}


def talked(number=0, *, said="hello", answer="hi", reward=0.5, fault=None, env_id="UserSim-Persona-v0", **changes):
    """A conversation of one turn."""
    settings = {
        "env_id": env_id,
        "scenario": Scenario(f"s{number}", f"{INTENT_PREFIX}learn {number}", opening="hello", persona_seed=number),
        "seed": number,
        "conversation": Conversation().add("user", said).add("assistant", answer),
        "end_reason": "turn_limit" if fault is None else "simulator_fault",
        "reward": reward if fault is None else None,
        "fault": fault,
        "reasons": (f"because {answer}",),
        "fingerprints": {"assistant": {"assistant": "language_model"}, "simulator": PERSONA},
        "calls": (
            ModelCall(
                role="assistant",
                turn=0,
                seed=3,
                prompt=json.dumps([{"role": "user", "content": said, "tool_calls": [{"name": "look"}]}]),
                output=answer,
                prompt_tokens=7,
                completion_tokens=2,
                reasoning="let me think",
            ),
        ),
    }
    return Transcript(**{**settings, **changes})


def write(path, *transcripts):
    with TranscriptWriter(path) as writer:
        for transcript in transcripts:
            writer.append(transcript)
    return path


def labelled(transcript, assistant="plain", *, human=False):
    return LabelledConversation(
        scenario=transcript.scenario,
        seed=transcript.seed,
        env_id=transcript.env_id,
        assistant=assistant,
        messages=transcript.conversation.messages,
        human=human,
    )


def label(answer, *conversations, person="ada", blind=True):
    kind = "preference" if len(conversations) == 2 else "origin"
    at = "2026-11-27T08:00:00+00:00"
    return Label(kind=kind, answer=answer, person=person, at=at, blind=blind, conversations=conversations)
