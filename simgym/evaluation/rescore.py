"""Stored conversations judged again, by another judge or another version of one, without holding them again.

What is judged are conversations that came to their end; those cut off by a fault of assistant or simulator stay as
they are. The new transcripts go to a file of their own, appended one by one: a second run judges only what is missing
or what the judge has failed on, and transcripts that the same judge version has scored already are copied.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from simgym.errors import ConfigurationError
from simgym.faults import parse_fault
from simgym.fingerprints import describe_difference
from simgym.judges.base import Judge, Judgement
from simgym.output_files import is_special, lock_output
from simgym.rollout.outages import ask_in_batches
from simgym.seeding import derive_seed
from simgym.transcripts import COMPLETE, Transcript, TranscriptWriter, read_transcripts


def rescore(
    source: str | Path,
    judge: Judge,
    path: str | Path,
    *,
    batch_size: int = 32,
    advance: Callable[[int], object] = lambda count: None,
) -> list[Transcript]:
    """Judge the conversations of a file again.

    Args:
        source: JSONL file of transcripts.
        judge: The new judge.
        path: The file to write, or to complete.
        batch_size: Conversations per call.
        advance: Told how many more are done.

    Returns:
        The transcripts in the order of the source, with reward, reasons and judge calls of the new judge.

    Raises:
        ConfigurationError: source and output are the same file, or the output holds other conversations or was judged
            by another judge.
        MalformedFile: a line is not a transcript, or a file holds two runs.
        OutputInUse: another process is writing the output.
    """
    source, path = Path(source), Path(path)
    if source.resolve() == path.resolve():
        raise ConfigurationError(f"{source} would overwrite itself. Give another file for the new judgements.")
    fingerprint = _fingerprint(judge)
    ask, parts = partial(_with_judgements, judge=judge, fingerprint=fingerprint), [("judge", judge)]
    with lock_output(path):
        everything = list(read_transcripts(source))
        done = _already_judged(path, fingerprint, {transcript.key: transcript for transcript in everything}, source)
        missing = [transcript for transcript in everything if transcript.key not in done]
        advance(len(everything) - len(missing))
        with TranscriptWriter(path) as writer:
            for _, new in ask_in_batches(ask, missing, batch_size=batch_size, noun="judgements", parts=parts):
                writer.append(new)
                done[new.key] = new
                advance(1)
    return [done[transcript.key] for transcript in everything]


def _with_judgements(
    batch: Sequence[Transcript], *, judge: Judge, fingerprint: Mapping[str, object]
) -> list[Transcript]:
    again = [transcript for transcript in batch if _has_an_end(transcript) and not _has_judged(fingerprint, transcript)]
    judged: dict[tuple[str, int], Transcript] = {}
    if again:
        judgements = judge.judge(
            [transcript.scenario for transcript in again],
            [transcript.conversation for transcript in again],
            seeds=[derive_seed(transcript.seed, "judge") for transcript in again],
        )
        for transcript, judgement in zip(again, judgements, strict=True):
            judged[transcript.key] = _with(transcript, judgement, fingerprint)
    return [
        judged.get(transcript.key)
        or replace(transcript, fingerprints={**transcript.fingerprints, "judge": fingerprint})
        for transcript in batch
    ]


def _already_judged(
    path: Path, fingerprint: Mapping[str, object], by_key: Mapping[tuple[str, int], Transcript], source: Path
) -> dict[tuple[str, int], Transcript]:
    """What an earlier run has left in the file, which is cut to it: what the judge failed on is judged again."""
    if not path.exists() or is_special(path):
        return {}
    done: dict[tuple[str, int], Transcript] = {}
    for transcript in read_transcripts(path):
        written = dict(transcript.fingerprints.get("judge", {}))
        if written != fingerprint:
            raise ConfigurationError(
                f"{path} was judged by another judge{describe_difference(written, fingerprint)} Choose another file."
            )
        if transcript.key not in by_key or by_key[transcript.key].conversation != transcript.conversation:
            raise ConfigurationError(f"{path} holds other conversations than {source}. Choose another file.")
        if transcript.end_reason != "judge_fault":
            done[transcript.key] = transcript
    _keep_only(path, done)
    return done


def is_left(source: str | Path, judge: Judge, path: str | Path) -> bool:
    """Whether a judge still has to be asked about a conversation of `source`."""
    fingerprint = _fingerprint(judge)
    earlier = read_transcripts(path) if Path(path).exists() else ()
    done = {transcript.key for transcript in earlier if transcript.end_reason != "judge_fault"}
    return any(
        _has_an_end(transcript) and not _has_judged(fingerprint, transcript)
        for transcript in read_transcripts(source)
        if transcript.key not in done
    )


def _fingerprint(judge: Judge) -> dict[str, object]:
    """As files hold it."""
    fingerprint: dict[str, object] = json.loads(json.dumps(judge.fingerprint()))
    return fingerprint


def _keep_only(path: Path, done: Mapping[tuple[str, int], Transcript]) -> None:
    """Write a file anew with the finished transcripts alone, whole or not at all."""
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    with TranscriptWriter(draft) as writer:
        for transcript in done.values():
            writer.append(transcript)
    draft.replace(path)


def _has_judged(fingerprint: Mapping[str, object], transcript: Transcript) -> bool:
    return transcript.reward is not None and dict(transcript.fingerprints.get("judge", {})) == fingerprint


def _has_an_end(transcript: Transcript) -> bool:
    return transcript.end_reason in COMPLETE or transcript.end_reason == "judge_fault"


def _with(transcript: Transcript, judgement: Judgement, fingerprint: Mapping[str, object]) -> Transcript:
    end = transcript.end_reason
    if end == "judge_fault":  # what the conversation itself came to
        limit = transcript.fingerprints.get("env", {}).get("max_turns")
        used_up = len(transcript.conversation.said_by("assistant")) == limit and not transcript.leaving
        end = "turn_limit" if used_up else "user_end"
    return replace(
        transcript,
        end_reason="judge_fault" if judgement.score is None else end,
        reward=judgement.score,
        fault=parse_fault(judgement.fault),
        reasons=judgement.reasons,
        components=judgement.components,
        fingerprints={**transcript.fingerprints, "judge": fingerprint},
        calls=(*(call for call in transcript.calls if call.role != "judge"), *judgement.calls),
    )
