"""Collected conversations whole, for other people's tools: a dataset folder for the Hub, and traces of verifiers.

    simgym export run.jsonl --to hf -o dataset          # datasets.load_dataset("dataset")
    simgym export run.jsonl --to verifiers -o run       # run/traces.jsonl, as `vf-eval` writes it

Unlike training files these hold every conversation, failed ones included: a reward that does not exist is null, and the
end reason says why. The hidden intent of the user is among the columns; leave it out of what an assistant sees.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from simgym._version import __version__
from simgym.data.logged import StepSummary
from simgym.data.training_files import ExportOptions, judge_name, read_run
from simgym.output_files import lock_output, write_whole
from simgym.transcripts import COMPLETE, Transcript

_CARD = """\
---
configs:
  - config_name: default
    data_files: data/train.jsonl
tags:
  - simgym
  - user-simulation
---
# Conversations with simulated users

{count} conversations, collected with simgym {version}. Environments: {environments}. Judges: {judges}.

| column | meaning |
|---|---|
| messages | what was said |
| reward | the judge's score in [0, 1]; null: not judged |
| end_reason, fault | why the conversation ended, and what went wrong |
| intent | what the simulated user wanted; hidden from the assistant |
| env_id, scenario_id, seed | what decides the user |
| judge, reasons, components | who judged, what it said, and what the reward is the mean of |
| fingerprints | models, settings and prompt hashes, as JSON |
"""


def write_hf(source: str | Path, output: str | Path, options: ExportOptions) -> StepSummary:
    """A folder that `datasets.load_dataset` reads and the Hub shows, with its card."""
    output = Path(output)
    with lock_output(output, folder=True):
        transcripts = _write_lines(source, output / "data" / "train.jsonl", _dataset_row)
        environments = ", ".join(sorted({transcript.env_id for transcript in transcripts}))
        judges = ", ".join(sorted(set(map(judge_name, transcripts))))
        card = _CARD.format(count=len(transcripts), version=__version__, environments=environments, judges=judges)
        write_whole(output / "README.md", card)
    return _summary(transcripts)


def write_verifiers(source: str | Path, output: str | Path, options: ExportOptions) -> StepSummary:
    """A folder with `traces.jsonl`, one episode of one trace a line, as verifiers 0.4 reads and shows it."""
    output = Path(output)
    with lock_output(output, folder=True):
        transcripts = _write_lines(source, output / "traces.jsonl", _episode)
    return _summary(transcripts)


def _write_lines(source: str | Path, path: Path, row: Callable[[Transcript], Mapping[str, object]]) -> list[Transcript]:
    transcripts = list(read_run(source))
    lines = [json.dumps(row(transcript), ensure_ascii=False, allow_nan=False) for transcript in transcripts]
    write_whole(path, "\n".join([*lines, ""]), errors="replace")
    return transcripts


def _summary(transcripts: list[Transcript]) -> StepSummary:
    unjudged = Counter(transcript.end_reason for transcript in transcripts if not transcript.counts)
    details = {"conversations": len(transcripts), "without_a_reward": unjudged.total()}
    return StepSummary(read=len(transcripts), kept=len(transcripts), skipped={}, details=details)


def _dataset_row(transcript: Transcript) -> dict[str, object]:
    return {
        "env_id": transcript.env_id,
        "scenario_id": transcript.scenario.id,
        "seed": transcript.seed,
        "intent": transcript.scenario.intent,
        "messages": transcript.conversation.to_json(),
        "user_reply": transcript.user_reply,
        "end_reason": transcript.end_reason,
        "reward": transcript.reward,
        "judge": judge_name(transcript),
        "reasons": list(transcript.reasons),
        "components": list(transcript.components),
        "fault": None if transcript.fault is None else str(transcript.fault),
        "fingerprints": json.dumps(transcript.fingerprints, sort_keys=True),
    }


def _episode(transcript: Transcript) -> dict[str, object]:
    """A line of `traces.jsonl`; an unjudged conversation has the reward null, which verifiers leaves out of means."""
    task = {
        "type": "Conversation",
        "key": transcript.scenario.id,
        "data": {"id": transcript.scenario.id, "seed": transcript.seed, "intent": transcript.scenario.goal},
    }
    complete = transcript.end_reason in COMPLETE
    errors = [] if transcript.fault is None else [{"type": transcript.fault.kind, "message": str(transcript.fault)}]
    identity = hashlib.sha256(f"{transcript.env_id}|{transcript.content_hash()}".encode()).hexdigest()[:32]
    nodes = [
        {"parent": number - 1 if number else None, "message": message, "sampled": message["role"] == "assistant"}
        for number, message in enumerate(transcript.conversation.to_json())
    ]
    reward = None if transcript.reward is None else {"score": transcript.reward}
    trace = {
        "id": identity,
        "task": task,
        "agent": {"config": {}, "name": "assistant"},
        "verifiers": {"version": f"exported by simgym {__version__}"},
        "nodes": nodes,
        "rewards": {judge_name(transcript): reward},
        "info": {"end_reason": transcript.end_reason, "user_reply": transcript.user_reply},
        "is_completed": True,
        "ok": complete,
        "stop_condition": transcript.end_reason,
        "errors": errors,
    }
    env = {"id": transcript.env_id}
    return {"id": identity, "env": env, "task": task, "ok": complete, "errors": errors, "traces": [trace]}
