"""Runs of simgym as logs of inspect_ai, to be read with `inspect view`.

    simgym export run.jsonl --to inspect -o logs && inspect view --log-dir logs

Each pair of an assistant and an environment is one log, each conversation one sample. A conversation without a
judgement scores NaN and is left out of mean and standard error.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from simgym.data.logged import StepSummary
from simgym.data.training_files import ExportOptions, assistant_name, judge_name, read_run
from simgym.extras import imports_of, require_extra
from simgym.output_files import lock_output
from simgym.transcripts import Transcript, text_hash

with imports_of("inspect", "Writing logs of inspect_ai"):
    from inspect_ai.log import (
        EvalConfig,
        EvalDataset,
        EvalLog,
        EvalMetric,
        EvalResults,
        EvalSample,
        EvalScore,
        EvalSpec,
        write_eval_log,
    )
    from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageUser, ModelOutput, ModelUsage
    from inspect_ai.scorer import Score

_EPOCH = "1970-01-01T00:00:00+00:00"
"""Transcripts do not say when they were collected; a made-up time would be worse than this one."""


def write_inspect(source: str | Path, output: str | Path, options: ExportOptions) -> StepSummary:
    """A folder of `.eval` files.

    Raises:
        MissingDependency: inspect_ai is not installed, or in a version that was not tested.
        ConfigurationError: the source is no run.
    """
    require_extra("inspect", "Writing logs of inspect_ai")
    output = Path(output)
    groups: dict[tuple[str, str], list[Transcript]] = {}
    for transcript in read_run(source):
        groups.setdefault((assistant_name(transcript), transcript.env_id), []).append(transcript)
    with lock_output(output, folder=True):
        for (assistant, env_id), transcripts in groups.items():
            name = re.sub(r"[^\w.-]+", "-", f"{assistant}--{env_id}").strip("-.")
            write_eval_log(_log(assistant, env_id, transcripts), str(output / f"{name}.eval"))
    count = sum(map(len, groups.values()))
    return StepSummary(read=count, kept=count, skipped={}, details={"logs": len(groups)})


def _log(assistant: str, env_id: str, transcripts: Sequence[Transcript]) -> EvalLog:
    judge = judge_name(transcripts[0])
    epochs: dict[str, int] = {}
    samples = []
    for transcript in transcripts:
        epochs[transcript.scenario.id] = epochs.get(transcript.scenario.id, 0) + 1
        samples.append(_sample(transcript, epochs[transcript.scenario.id], judge))
    rewards = [transcript.reward for transcript in transcripts if transcript.reward is not None]
    return EvalLog(
        status="success",
        eval=EvalSpec(
            created=_EPOCH,
            task=env_id,
            task_id=text_hash(env_id),
            dataset=EvalDataset(name=env_id, samples=len(epochs), sample_ids=list(epochs)),
            model=f"simgym/{assistant}",
            config=EvalConfig(epochs=max(epochs.values())),
            metadata={"fingerprints": dict(transcripts[0].fingerprints)},
        ),
        results=EvalResults(
            total_samples=len(samples),
            completed_samples=len(samples),
            scores=[EvalScore(name=judge, scorer=judge, metrics=_metrics(rewards), scored_samples=len(rewards))],
        ),
        samples=samples,
    )


def _metrics(rewards: Sequence[float]) -> dict[str, EvalMetric]:
    mean = statistics.fmean(rewards) if rewards else math.nan
    stderr = statistics.stdev(rewards) / math.sqrt(len(rewards)) if len(rewards) > 1 else math.nan
    return {name: EvalMetric(name=name, value=value) for name, value in (("mean", mean), ("stderr", stderr))}


def _sample(transcript: Transcript, epoch: int, judge: str) -> EvalSample:
    kinds = {"user": ChatMessageUser, "assistant": ChatMessageAssistant}
    messages: list[ChatMessage] = [
        kinds[message.role](content=message.content) for message in transcript.conversation.messages
    ]
    outcome: dict[str, object] = {
        "end_reason": transcript.end_reason,
        "fault": None if transcript.fault is None else str(transcript.fault),
        "components": list(transcript.components),
        "parting_word": transcript.user_reply if transcript.end_reason == "user_end" else "",
    }
    said = transcript.conversation.said_by("assistant")
    return EvalSample(
        id=transcript.scenario.id,
        epoch=epoch,
        input=transcript.scenario.opening or "(the user opens)",
        target="",
        messages=messages,
        output=ModelOutput.from_content("simgym", said[-1] if said else ""),
        scores={
            judge: Score(
                value=math.nan if transcript.reward is None else transcript.reward,
                answer=str(transcript.end_reason),
                explanation="\n\n".join(transcript.reasons),
                metadata=outcome,
            )
        },
        metadata={
            "seed": transcript.seed,
            "intent": transcript.scenario.intent,
            "env_id": transcript.env_id,
            **outcome,
        },
        model_usage={role: _usage(counts) for role, counts in transcript.tokens().items()},
    )


def _usage(counts: Mapping[str, int]) -> ModelUsage:
    read, written = counts["prompt"], counts["completion"]
    return ModelUsage(input_tokens=read, output_tokens=written, total_tokens=read + written)
