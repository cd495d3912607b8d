"""Collected conversations as the files that trainers read: supervised (SFT), preferences (DPO), and liked or not (KTO).

    simgym export run.jsonl --to dpo -o pairs.jsonl

Rows have TRL's columns in its conversational form. A row trains one assistant turn: what came before is the prompt, and
the turn alone is the completion, so that a loss on completions covers the assistant's words and never the user's. Only
conversations that ended as conversations end and were judged are used; the others are counted by reason, never scored
as 0. Rows say where they come from: environment, scenario, seed, judge and reward.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simgym.conversation import Message
from simgym.data.logged import StepOutput, StepSummary
from simgym.errors import ConfigurationError, MalformedFile
from simgym.faults import fault_label
from simgym.transcripts import COMPLETE, Transcript, read_transcripts, text_hash, transcript_files


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What goes into an exported file; a format ignores what does not concern it."""

    min_reward: float | None = None
    """SFT: leave out conversations with a lower reward, in [0, 1]; None: keep all that were judged."""
    min_margin: float = 0.0
    """DPO: leave out pairs whose rewards differ by this or less, in [0, 1)."""
    threshold: float | None = None
    """KTO: a reward of at least this is a good reply, in [0, 1]; None: the median reward of the run."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """OpenEnv: arguments of the environment, as JSON values."""

    def __post_init__(self) -> None:
        for name in ("min_reward", "min_margin", "threshold"):
            number = getattr(self, name)
            if number is not None and not 0 <= number <= 1:
                raise ConfigurationError(f"{name} is {number}, expected a number in [0, 1], as rewards are.")


def read_run(source: str | Path) -> Iterator[Transcript]:
    """The conversations of a file of transcripts, or of all files of a matrix, in the order of their names.

    Raises:
        ConfigurationError: there is no such file, or no transcripts in the folder.
        MalformedFile: a line is not a transcript; the message names it.
    """
    files = transcript_files(source)
    if not files:
        raise ConfigurationError(
            f"{source} is no run. Give the file that `simgym rollout` wrote, or the folder of a `simgym matrix`."
        )
    for file in files:
        yield from read_transcripts(file)


def write_sft(source: str | Path, output: str | Path, options: ExportOptions) -> StepSummary:
    """Every assistant turn of the judged conversations, as prompt and completion."""
    with StepOutput(output) as step:
        for transcript in _judged(source, step):
            if options.min_reward is not None and (transcript.reward or 0.0) < options.min_reward:
                step.skip(_name(transcript), f"reward below {options.min_reward:g}")
                continue
            for prompt, reply in _turns(transcript):
                step.keep({"prompt": prompt, "completion": [reply], **_provenance(transcript)})
    return step.summary()


def write_kto(source: str | Path, output: str | Path, options: ExportOptions) -> StepSummary:
    """Every assistant turn with the label of its conversation: whether the reward reaches the threshold."""
    threshold = options.threshold
    if threshold is None:
        rewards = [transcript.reward for transcript in read_run(source) if transcript.counts]
        threshold = statistics.median(reward for reward in rewards if reward is not None) if rewards else 0.0
    with StepOutput(output) as step:
        step.details["threshold"] = threshold
        for transcript in _judged(source, step):
            label = (transcript.reward or 0.0) >= threshold
            for prompt, reply in _turns(transcript):
                step.keep({"prompt": prompt, "completion": [reply], "label": label, **_provenance(transcript)})
    return step.summary()


def write_dpo(source: str | Path, output: str | Path, options: ExportOptions) -> StepSummary:
    """One preference pair of each group: the replies by which the best and the worst conversation part.

    A group are the conversations that began alike with the same person: one scenario in one environment, the same
    first user turn, one judge. They come from several seeds of a scenario or from several assistants. The pair is the
    first assistant turn that differs; later turns answer different users and have no common prompt.
    """
    groups: dict[tuple[str, ...], tuple[Transcript, Transcript]] = {}
    sizes: dict[tuple[str, ...], int] = {}
    with StepOutput(output) as step:
        for transcript in _judged(source, step):
            key = _group(transcript)
            worst, best = groups.get(key, (transcript, transcript))
            sizes[key] = sizes.get(key, 0) + 1
            groups[key] = (
                min(worst, transcript, key=lambda candidate: candidate.reward or 0.0),
                max(best, transcript, key=lambda candidate: candidate.reward or 0.0),
            )
        for key, (worst, best) in groups.items():
            row = _pair(worst, best)
            if sizes[key] == 1:
                step.skip(_name(best), "alone in its group")
            elif row is None:
                step.skip(_name(best), "best and worst say the same")
            elif row["margin"] <= options.min_margin:
                step.skip(_name(best), f"margin of {options.min_margin:g} or less")
            else:
                step.keep(row)
        step.details["groups"] = len(groups)
    return step.summary()


def _judged(source: str | Path, step: StepOutput) -> Iterator[Transcript]:
    """Conversations that may be learned from; the others are listed with the reason."""
    count = 0
    for transcript in read_run(source):
        if transcript.counts:
            count += 1
            yield transcript
        else:
            reason = "not judged" if transcript.end_reason in COMPLETE else transcript.end_reason
            step.skip(_name(transcript), reason, fault_label(transcript.fault) if transcript.fault else "")
    step.details["conversations"] = count
    if not count:
        raise MalformedFile(f"{source} holds no conversation that was judged. See why with `simgym view`.")


def _turns(transcript: Transcript) -> Iterator[tuple[list[dict[str, str]], dict[str, str]]]:
    """What came before each assistant turn, and the turn."""
    messages = transcript.conversation.to_json()
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            yield messages[:number], message


def _pair(worst: Transcript, best: Transcript) -> dict[str, Any] | None:
    """Best and worst as a preference; None if they do not part at an assistant turn."""
    sides = (best.conversation.messages, worst.conversation.messages)
    shared = _length_of_shared_start(*sides)
    if any(len(side) <= shared or side[shared].role != "assistant" for side in sides):
        return None
    return {
        "prompt": [message.to_json() for message in sides[0][:shared]],
        "chosen": [sides[0][shared].to_json()],
        "rejected": [sides[1][shared].to_json()],
        "score_chosen": best.reward,
        "score_rejected": worst.reward,
        "margin": (best.reward or 0.0) - (worst.reward or 0.0),
        "judge": judge_name(best),
        "env_id": best.env_id,
        "scenario_id": best.scenario.id,
        "seed_chosen": best.seed,
        "seed_rejected": worst.seed,
    }


def _length_of_shared_start(first: Sequence[Message], second: Sequence[Message]) -> int:
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _group(transcript: Transcript) -> tuple[str, ...]:
    opening = transcript.conversation.messages[0].content if transcript.conversation.messages else ""
    judge = transcript.fingerprints.get("judge", {})
    return (transcript.env_id, transcript.scenario.id, text_hash(repr(sorted(judge.items()))), opening)


def _provenance(transcript: Transcript) -> dict[str, object]:
    return {
        "reward": transcript.reward,
        "judge": judge_name(transcript),
        "env_id": transcript.env_id,
        "scenario_id": transcript.scenario.id,
        "seed": transcript.seed,
    }


def judge_name(transcript: Transcript) -> str:
    """Registered name of who judged, as its fingerprint says it."""
    return str(transcript.fingerprints.get("judge", {}).get("judge", "unknown"))


def assistant_name(transcript: Transcript) -> str:
    """A name for who answered: the model where the fingerprint has one, and what tells it from others."""
    fingerprint = transcript.fingerprints.get("assistant", {})
    model = fingerprint.get("model", {})
    named = model.get("model") or model.get("name") if isinstance(model, Mapping) else model
    name = str(named or fingerprint.get("assistant") or "assistant")
    return f"{Path(name).name[:40]}-{text_hash(repr(sorted(fingerprint.items())))[:6]}"


def _name(transcript: Transcript) -> str:
    return f"{transcript.scenario.id}, seed {transcript.seed}"
