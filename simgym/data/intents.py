"""Intents: a language model reads a logged conversation and says what its user wanted: the hidden goal of a simulator.

The reply must begin with the fixed phrase of arXiv 2605.09808 (`INTENT_PREFIX`); one that does not, or is cut off, or
says nothing but the phrase, is asked for again with another seed, and listed as skipped after the last attempt. The
output is written as the batches are done: run again, the step keeps what it has and asks only for what is missing,
failures of the last run included.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from itertools import islice
from pathlib import Path
from string import Template

from simgym.conversation import INTENT_PREFIX, Conversation, Message
from simgym.data.logged import LoggedConversation, StepOutput, StepSummary, beside, read_logged
from simgym.errors import ConfigurationError, ServerUnavailable
from simgym.faults import Fault, fault_label
from simgym.jsonl import cut_torn_line, read_json
from simgym.language_models.base import Generation, LanguageModel, Request, SamplingParams
from simgym.output_files import is_special, lock_output
from simgym.seeding import derive_seed
from simgym.transcripts import text_hash, write_json
from simgym.typed_json import read_as

LONGEST_INTENT = 600
"""Characters of a usable intent."""
_LONGEST_TURN, _LONGEST_CONVERSATION = 1_000, 6_000
"""Characters shown to the model; the beginning of a turn, and the first turns, say what was wanted."""
_SAMPLING = SamplingParams(temperature=0.7, top_p=0.9, max_new_tokens=128)


def write_intents(
    conversations: Iterable[LoggedConversation],
    model: LanguageModel,
    path: str | Path,
    *,
    batch_size: int = 32,
    max_attempts: int = 3,
    seed: int = 0,
    template: str | None = None,
    advance: Callable[[int], object] = lambda count: None,
) -> StepSummary:
    """Write the conversations with an intent each.

    Args:
        conversations: Those that have an intent already are kept as they are.
        model: Who writes.
        path: The file to write, or to complete.
        batch_size: Conversations per call of the model.
        max_attempts: Tries per conversation, >= 1.
        seed: Of the model's sampling.
        template: Prompt with the placeholders `$prefix` and `$conversation`; None: the built-in one.
        advance: Told how many conversations more are done.

    Returns:
        Counts of the whole file, earlier runs included.

    Raises:
        ConfigurationError: the file was made by another model, prompt or seed, or from other conversations.
        ServerUnavailable: the model's server answers none of a batch; the same call goes on.
    """
    path = Path(path)
    template = template or (resources.files("simgym.data") / "prompts" / "intent.txt").read_text(encoding="utf-8")
    settings = {"prompt_hash": text_hash(template), "model": model.fingerprint(), "seed": seed}
    made_with: dict[str, object] = json.loads(json.dumps(settings))  # as it will be read back
    with lock_output(path):
        done = _take_up(path, made_with)
        with StepOutput(path, resume=True) as output:
            output.forget_skipped()
            output.details.update(made_with)
            write_json(beside(path, ".made_with.json"), made_with)
            known: set[str] = set()

            def missing() -> Iterator[LoggedConversation]:
                for logged in conversations:
                    known.add(logged.id)
                    if logged.id not in done:
                        yield logged

            fresh = missing()
            output.kept = len(done)
            while batch := list(islice(fresh, batch_size)):
                outcomes = _intents(batch, model, template, max_attempts, seed)
                _stop_at_an_outage(outcomes, output.kept)
                for logged, outcome in zip(batch, outcomes, strict=True):
                    if isinstance(outcome, str):
                        output.keep(replace(logged, intent=outcome).to_json())
                    else:
                        output.skip(logged.id, *outcome)
                output.flush()
                advance(len(batch))
            if strangers := done - known:
                raise ConfigurationError(
                    f"{path} holds {len(strangers)} conversations that are not in the input, e.g. {min(strangers)!r}: "
                    "it was made from another file. Give another output, or remove it."
                )
    return output.summary()


def _take_up(path: Path, made_with: Mapping[str, object]) -> set[str]:
    """Make a finished file partial again; returns the ids that need no further intent."""
    _refuse_another_run(path, made_with)
    partial = beside(path, ".partial")
    if path.exists() and not is_special(path):
        path.replace(partial)
    if not partial.exists():
        return set()
    cut_torn_line(partial)  # a kill may have left one
    return {logged.id for logged in read_logged(partial)}


def _refuse_another_run(path: Path, made_with: Mapping[str, object]) -> None:
    """Intents of two models or prompts must not be mixed in one file."""
    header = beside(path, ".made_with.json")
    if not header.is_file() or not (path.exists() or beside(path, ".partial").exists()):
        return
    before = read_as(dict[str, object], read_json(header), str(header))
    if differing := sorted(key for key in made_with if before.get(key) != made_with[key]):
        raise ConfigurationError(
            f"{path} was made with another {', '.join(differing)}. Give another output, or remove it to start over."
        )


def read_intent(text: str) -> str | tuple[str, str]:
    """The intent in a model's reply, or reason and detail of why there is none."""
    lines = [line.strip().strip('"') for line in text.strip().splitlines() if line.strip()]
    if not lines:
        return "empty reply", ""
    intent = " ".join(lines[0].split())
    if intent != INTENT_PREFIX.strip() and not intent.startswith(INTENT_PREFIX):
        return "does not begin with the fixed phrase", lines[0][:120]
    if len(intent) < len(INTENT_PREFIX) + 3:
        return "nothing after the fixed phrase", ""
    if len(intent) > LONGEST_INTENT:
        return f"longer than {LONGEST_INTENT} characters", ""
    return intent


def _intents(
    batch: list[LoggedConversation], model: LanguageModel, template: str, max_attempts: int, seed: int
) -> list[str | tuple[str, str]]:
    outcomes: list[str | tuple[str, str]] = [logged.intent or ("not attempted", "") for logged in batch]
    for attempt in range(max_attempts):
        pending = [index for index, outcome in enumerate(outcomes) if not isinstance(outcome, str)]
        if not pending:
            break
        requests = [
            Request(
                (Message("user", _prompt(batch[index].conversation, template)),),
                _SAMPLING,
                seed=derive_seed(seed, "intent", batch[index].id, attempt),
            )
            for index in pending
        ]
        for index, generation in zip(pending, model.generate(requests), strict=True):
            outcomes[index] = _outcome(generation)
    return outcomes


def _stop_at_an_outage(outcomes: Sequence[str | tuple[str, str]], written: int) -> None:
    """End the run where a server answers none of a batch, instead of listing all the rest as failures."""
    details = [outcome[1] for outcome in outcomes if isinstance(outcome, tuple)]
    if len(details) == len(outcomes) and all(Fault.parse(detail).is_outage for detail in details):
        raise ServerUnavailable(
            f"{details[0]} {written} intents are written; give the same command again when the server is back."
        )


def _outcome(generation: Generation) -> str | tuple[str, str]:
    if generation.fault:
        return fault_label(generation.fault), generation.fault
    if generation.finish_reason == "length" and "\n" not in generation.text.strip():
        return "cut off", generation.text[:120]
    return read_intent(generation.text)


def _prompt(conversation: Conversation, template: str) -> str:
    shown, room = [], _LONGEST_CONVERSATION
    for message in conversation.messages:
        text = message.content if len(message.content) <= _LONGEST_TURN else f"{message.content[:_LONGEST_TURN]} [...]"
        if len(text) > room:
            shown.append("[...]")
            break
        shown.append(f"{message.role.upper()}: {text}")
        room -= len(text)
    return Template(template).substitute(prefix=INTENT_PREFIX.strip(), conversation="\n".join(shown)).strip()
