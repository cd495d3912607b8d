"""Does a plug-in keep its promises? One check each for language models, simulators, judges and assistants.

In the manner of Gymnasium's environment checker: call it in a test of your package; it returns nothing when all is well
and raises a `ConfigurationError` whose sentence names the broken rule. The rules are those that the rest of simgym
relies on: as many results as inputs, in the same order; the same seed gives the same result, alone and in a batch;
texts without lone surrogates; fingerprints that are strict JSON; failures as faults rather than made-up values.

    check_simulator(MySimulator(ScriptedLM("seed")))

Scenario sets and environments are checked by `environment_checks`. The checks make a dozen small requests. They
do not say whether a simulator is realistic or a judge right.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from simgym.assistants.base import Assistant, AssistantTurn
from simgym.conversation import Conversation, Message, Scenario
from simgym.errors import ConfigurationError
from simgym.judges.base import Judge, Judgement
from simgym.language_models.base import (
    Generation,
    LanguageModel,
    Likelihood,
    Request,
    SamplingParams,
    object_schema,
)
from simgym.simulators.base import UserSimulator, UserTurn
from simgym.testing._rules import (
    TOLERANCE,
    at_least_two,
    check_calls,
    check_fingerprint,
    check_protocol,
    check_repeatable,
    check_text,
    fail,
    made_up_conversation,
    run_batch,
)

_ASKED = (
    "Say hello.",
    "What is the capital of Portugal, and how do I get there from Vienna without flying?",
    "Naïve question: 二 + 二 = ? 🙂",
)
_SCHEMA = object_schema(agreed={"type": "boolean"})


def check_language_model(model: LanguageModel, *, reproducible: bool = True) -> None:
    """Check that an object keeps the rules of `LanguageModel`.

    Args:
        model: What to check; it gets about twenty short requests.
        reproducible: Whether the same seed must give the same text, alone and in a batch; False for servers that do not
            promise it.

    Raises:
        ConfigurationError: a rule is broken; the message names it.
    """
    name = check_protocol(model, LanguageModel, "generate, loglikelihood and fingerprint")
    check_fingerprint(name, model.fingerprint)
    sampling = SamplingParams(max_new_tokens=8)
    requests = [Request((Message("user", text),), sampling, seed=seed) for seed, text in enumerate(_ASKED, 11)]
    generations = run_batch(f"{name}.generate", model.generate, requests, Generation)
    for generation in generations:
        _check_generation(name, generation, sampling)
    if reproducible:
        check_repeatable(f"{name}.generate", model.generate, requests, lambda generation: generation.text)
    asked = Request(requests[0].messages, SamplingParams(temperature=0, max_new_tokens=64), json_schema=_SCHEMA)
    _check_json(name, model.generate([asked])[0])
    _check_loglikelihoods(name, model)


def check_simulator(simulator: UserSimulator, scenarios: Sequence[Scenario] | None = None) -> None:
    """Check that an object keeps the rules of `UserSimulator`.

    Args:
        simulator: What to check; it plays three short conversations a few times over.
        scenarios: At least two to check on; None: three made up here, with openings and recorded turns.

    Raises:
        ConfigurationError: a rule is broken; the message names it.
    """
    name = check_protocol(simulator, UserSimulator, "open, reply and fingerprint")
    check_fingerprint(name, simulator.fingerprint)
    chosen = at_least_two(scenarios)
    conversations = [made_up_conversation(scenario) for scenario in chosen]
    opening = [(scenario, seed) for seed, scenario in enumerate(chosen, 21)]
    replying = [(*pair, conversation) for pair, conversation in zip(opening, conversations, strict=True)]

    def start(rows: Sequence[tuple[Scenario, int]]) -> list[UserTurn]:
        return simulator.open([scenario for scenario, _ in rows], seeds=[seed for _, seed in rows])

    def go_on(rows: Sequence[tuple[Scenario, int, Conversation]]) -> list[UserTurn]:
        return simulator.reply([row[0] for row in rows], [row[2] for row in rows], seeds=[row[1] for row in rows])

    for turn in run_batch(f"{name}.open", start, opening, UserTurn):
        _check_turn(f"{name}.open", turn)
        if turn.ended and turn.fault is None:
            fail(f"{name}.open ends the conversation before it began. Report a fault, or say something first")
    for turn in run_batch(f"{name}.reply", go_on, replying, UserTurn):
        _check_turn(f"{name}.reply", turn)
    check_repeatable(f"{name}.open", start, opening, _said)
    check_repeatable(f"{name}.reply", go_on, replying, _said)


def check_judge(judge: Judge, scenarios: Sequence[Scenario] | None = None) -> None:
    """Check that an object keeps the rules of `Judge`.

    Args:
        judge: What to check; it judges three short conversations a few times over.
        scenarios: At least two to check on; None: three made up here.

    Raises:
        ConfigurationError: a rule is broken; the message names it.
    """
    name = check_protocol(judge, Judge, "judge and fingerprint")
    check_fingerprint(name, judge.fingerprint)
    chosen = at_least_two(scenarios)
    rows = [(scenario, made_up_conversation(scenario), seed) for seed, scenario in enumerate(chosen, 31)]

    def grade(items: Sequence[tuple[Scenario, Conversation, int]]) -> list[Judgement]:
        return judge.judge([row[0] for row in items], [row[1] for row in items], seeds=[row[2] for row in items])

    for judgement in run_batch(f"{name}.judge", grade, rows, Judgement):
        _check_judgement(name, judgement)
    check_repeatable(f"{name}.judge", grade, rows, lambda judgement: judgement.score)
    try:
        judge.judge(chosen, [rows[0][1]], seeds=[row[2] for row in rows])
    except ValueError:
        return
    fail(f"{name}.judge accepts {len(chosen)} scenarios with 1 conversation. Raise a ValueError; zip(strict=True) does")


def check_assistant(
    assistant: Assistant, scenarios: Sequence[Scenario] | None = None, *, reproducible: bool = True
) -> None:
    """Check that an object keeps the rules of `Assistant`.

    Args:
        assistant: What to check; it answers three short conversations a few times over.
        scenarios: At least two, whose openings it answers; None: three made up here.
        reproducible: Whether the same seed must give the same turn, alone and in a batch; False for servers that do not
            promise it.

    Raises:
        ConfigurationError: a rule is broken; the message names it.
    """
    name = check_protocol(assistant, Assistant, "respond and fingerprint")
    check_fingerprint(name, assistant.fingerprint)
    rows: list[tuple[Conversation, int]] = []
    for seed, scenario in enumerate(at_least_two(scenarios), 41):
        opened = Conversation().add("user", scenario.opening or "hello")
        longer = made_up_conversation(scenario).add("user", "and then?")
        rows.append((opened if seed % 2 else longer, seed))

    def answer(chosen: Sequence[tuple[Conversation, int]]) -> list[AssistantTurn]:
        return assistant.respond([conversation for conversation, _ in chosen], seeds=[seed for _, seed in chosen])

    for turn in run_batch(f"{name}.respond", answer, rows, AssistantTurn):
        check_text(f"{name}.respond", turn.text)
        check_calls(f"{name}.respond", turn.calls, "assistant")
        if turn.fault is not None and turn.text:
            fail(f"{name}.respond returned a fault ({turn.fault}) and a text. A turn with a fault has no text")
        if turn.fault is None and not turn.text.strip():
            fail(f"{name}.respond returned an empty text without a fault. Report a fault; the assistant has to speak")
    if reproducible:
        check_repeatable(f"{name}.respond", answer, rows, lambda turn: (turn.text, turn.fault))


def _check_generation(name: str, generation: Generation, sampling: SamplingParams) -> None:
    if generation.fault is not None:
        fail(f"{name}.generate could not answer a plain request ({generation.fault})")
    check_text(f"{name}.generate", generation.text)
    if generation.finish_reason not in ("stop", "length"):
        fail(f"{name}.generate has finish_reason {generation.finish_reason!r} without a fault, expected stop or length")
    if len(generation.token_ids) > sampling.max_new_tokens:
        fail(
            f"{name}.generate wrote {len(generation.token_ids)} tokens, at most {sampling.max_new_tokens} were allowed"
        )
    if min(generation.prompt_tokens, generation.completion_tokens) < 0:
        fail(f"{name}.generate counts a negative number of tokens")
    if generation.logprobs and len(generation.logprobs) != len(generation.token_ids):
        fail(f"{name}.generate has {len(generation.logprobs)} logprobs for {len(generation.token_ids)} token ids")
    if any(not value <= TOLERANCE for value in generation.logprobs):
        fail(f"{name}.generate has a logprob above 0 or NaN, expected natural logarithms of probabilities")


def _check_json(name: str, generation: Generation) -> None:
    if generation.fault is not None or generation.finish_reason == "length":
        return
    try:
        value = json.loads(generation.text)
    except ValueError:
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("agreed"), bool):
        fail(
            f"{name}.generate answered a request with json_schema by {generation.text[:60]!r}, "
            "expected JSON of the schema"
        )


def _check_loglikelihoods(name: str, model: LanguageModel) -> None:
    pairs = [("The sky is", " blue."), ("One and one is", " two, as everybody knows."), ("", "Hello")]

    def loglikelihood(pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
        return model.loglikelihood([prompt for prompt, _ in pairs], [continuation for _, continuation in pairs])

    try:
        model.loglikelihood(["a"], ["b"])
    except ConfigurationError:
        return  # a model that has none says so
    for likelihood in run_batch(f"{name}.loglikelihood", loglikelihood, pairs, Likelihood):
        if not (math.isfinite(likelihood.logprob) and likelihood.logprob <= TOLERANCE and likelihood.token_count >= 1):
            fail(f"{name}.loglikelihood returned {likelihood}, expected a finite logprob <= 0 of at least one token")
    check_repeatable(f"{name}.loglikelihood", loglikelihood, pairs, lambda likelihood: likelihood.logprob)
    try:
        model.loglikelihood(["a", "b"], ["c"])
    except ConfigurationError:
        return
    fail(f"{name}.loglikelihood accepts 2 prompts with 1 continuation. Raise a ConfigurationError")


def _check_turn(what: str, turn: UserTurn) -> None:
    check_text(what, turn.text)
    check_calls(what, turn.calls, "user")
    if turn.fault is not None and turn.text:
        fail(f"{what} returned a fault ({turn.fault}) and the text {turn.text[:40]!r}. A turn with a fault has no text")
    if turn.fault is None and not turn.ended and not turn.text.strip():
        fail(f"{what} returned an empty text without a fault. Report a fault, or set ended when the user leaves")


def _check_judgement(name: str, judgement: Judgement) -> None:
    check_calls(f"{name}.judge", judgement.calls, "judge")
    for reason in judgement.reasons:
        check_text(f"{name}.judge", reason)
    if (judgement.score is None) == (judgement.fault is None):
        fail(f"{name}.judge returned score {judgement.score} with fault {judgement.fault!r}. Give the one or the other")
    if judgement.score is not None and not 0 <= judgement.score <= 1:
        fail(f"{name}.judge returned the score {judgement.score}, expected a number in [0, 1]")
    if not all(isinstance(part, float) and 0 <= part <= 1 for part in judgement.components):
        fail(f"{name}.judge returned the components {judgement.components}, expected numbers in [0, 1]")


def _said(turn: UserTurn) -> tuple[str, bool, str | None]:
    return (turn.text, turn.ended, turn.fault)
