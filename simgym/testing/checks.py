"""Does a plug-in keep its promises? One check each for language models, simulators and judges.

In the manner of Gymnasium's environment checker: call it in a test of your package; it returns nothing when all is well
and raises a `ConfigurationError` whose sentence names the broken rule. The rules are those that the rest of simgym
relies on: as many results as inputs, in the same order; the same seed gives the same result, alone and in a batch;
texts without lone surrogates; fingerprints that are strict JSON; failures as faults rather than made-up values.

    check_simulator(MySimulator(ScriptedLM("seed")))

The checks make a dozen small requests. They do not say whether a simulator is realistic or a judge right.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from simgym.conversation import INTENT_PREFIX, Conversation, Message, Scenario
from simgym.errors import ConfigurationError
from simgym.judges.base import Judge, Judgement
from simgym.language_models.base import Generation, LanguageModel, Likelihood, Request, SamplingParams
from simgym.simulators.base import UserSimulator, UserTurn
from simgym.transcripts import ModelCall

_Result = TypeVar("_Result")
_TOLERANCE = 1e-3
"""Numbers computed in a batch and alone may differ by rounding."""
_ASKED = (
    "Say hello.",
    "What is the capital of Portugal, and how do I get there from Vienna without flying?",
    "Naïve question: 二 + 二 = ? 🙂",
)
_SCHEMA = {
    "type": "object",
    "properties": {"agreed": {"type": "boolean"}},
    "required": ["agreed"],
    "additionalProperties": False,
}


def check_language_model(model: LanguageModel, *, reproducible: bool = True) -> None:
    """Check that an object keeps the rules of `LanguageModel`.

    Args:
        model: What to check; it gets about twenty short requests.
        reproducible: Whether the same seed must give the same text, alone and in a batch; False for servers that do not
            promise it.

    Raises:
        ConfigurationError: a rule is broken; the message names it.
    """
    name = _protocol(model, LanguageModel, "generate, loglikelihood and fingerprint")
    _check_fingerprint(name, model.fingerprint)
    sampling = SamplingParams(max_new_tokens=8)
    requests = [Request((Message("user", text),), sampling, seed=seed) for seed, text in enumerate(_ASKED, 11)]
    generations = _batch(f"{name}.generate", model.generate, requests, Generation)
    for generation in generations:
        _check_generation(name, generation, sampling)
    if reproducible:
        _check_repeatable(f"{name}.generate", model.generate, requests, lambda generation: generation.text)
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
    name = _protocol(simulator, UserSimulator, "open, reply and fingerprint")
    _check_fingerprint(name, simulator.fingerprint)
    chosen = _at_least_two(scenarios)
    conversations = [_conversation(scenario) for scenario in chosen]
    opening = [(scenario, seed) for seed, scenario in enumerate(chosen, 21)]
    replying = [(*pair, conversation) for pair, conversation in zip(opening, conversations, strict=True)]

    def start(rows: Sequence[tuple[Scenario, int]]) -> list[UserTurn]:
        return simulator.open([scenario for scenario, _ in rows], seeds=[seed for _, seed in rows])

    def go_on(rows: Sequence[tuple[Scenario, int, Conversation]]) -> list[UserTurn]:
        return simulator.reply([row[0] for row in rows], [row[2] for row in rows], seeds=[row[1] for row in rows])

    for turn in _batch(f"{name}.open", start, opening, UserTurn):
        _check_turn(f"{name}.open", turn)
        if turn.ended and turn.fault is None:
            _fail(f"{name}.open ends the conversation before it began. Report a fault, or say something first")
    for turn in _batch(f"{name}.reply", go_on, replying, UserTurn):
        _check_turn(f"{name}.reply", turn)
    _check_repeatable(f"{name}.open", start, opening, _said)
    _check_repeatable(f"{name}.reply", go_on, replying, _said)


def check_judge(judge: Judge, scenarios: Sequence[Scenario] | None = None) -> None:
    """Check that an object keeps the rules of `Judge`.

    Args:
        judge: What to check; it judges three short conversations a few times over.
        scenarios: At least two to check on; None: three made up here.

    Raises:
        ConfigurationError: a rule is broken; the message names it.
    """
    name = _protocol(judge, Judge, "judge and fingerprint")
    _check_fingerprint(name, judge.fingerprint)
    chosen = _at_least_two(scenarios)
    rows = [(scenario, _conversation(scenario), seed) for seed, scenario in enumerate(chosen, 31)]

    def grade(some: Sequence[tuple[Scenario, Conversation, int]]) -> list[Judgement]:
        return judge.judge([row[0] for row in some], [row[1] for row in some], seeds=[row[2] for row in some])

    for judgement in _batch(f"{name}.judge", grade, rows, Judgement):
        _check_judgement(name, judgement)
    _check_repeatable(f"{name}.judge", grade, rows, lambda judgement: judgement.score)
    try:
        judge.judge(chosen, [rows[0][1]], seeds=[row[2] for row in rows])
    except ValueError:
        return
    _fail(
        f"{name}.judge accepts {len(chosen)} scenarios with 1 conversation. Raise a ValueError; zip(strict=True) does"
    )


def _batch(
    what: str, call: Callable[[Sequence[Any]], list[_Result]], rows: Sequence[Any], kind: type[_Result]
) -> list[_Result]:
    """Call with all rows and with none, and look at number and type of the results."""
    if len(none := call([])) != 0:
        _fail(f"{what} returned {len(none)} results for an empty list. Return an empty list")
    results = call(rows)
    if not isinstance(results, list) or len(results) != len(rows):
        count = len(results) if hasattr(results, "__len__") else "?"
        _fail(f"{what} returned a {type(results).__name__} of {count} for {len(rows)} inputs. Return a list of as many")
    for result in results:
        if not isinstance(result, kind):
            _fail(f"{what} returned a {type(result).__name__}, expected a {kind.__name__}")
    return results


def _check_repeatable(
    what: str,
    call: Callable[[Sequence[Any]], Sequence[_Result]],
    rows: Sequence[Any],
    essence: Callable[[_Result], Any],
) -> None:
    first = [essence(result) for result in call(rows)]
    if not _alike(first, [essence(result) for result in call(rows)]):
        _fail(f"{what} gave two results for the same input and seed. Draw everything random from the seed")
    if not _alike(first, [essence(result) for result in call(rows[::-1])][::-1]):
        _fail(
            f"{what} gave other results when its input was reversed. Keep the order, and let no row depend on another"
        )
    if not _alike(first, [essence(call([row])[0]) for row in rows]):
        _fail(f"{what} gave other results alone than in a batch. Let a row depend on its own input and seed only")


def _check_generation(name: str, generation: Generation, sampling: SamplingParams) -> None:
    if generation.fault is not None:
        _fail(f"{name}.generate could not answer a plain request ({generation.fault})")
    _check_text(f"{name}.generate", generation.text)
    if generation.finish_reason not in ("stop", "length"):
        _fail(
            f"{name}.generate has finish_reason {generation.finish_reason!r} without a fault, expected stop or length"
        )
    if len(generation.token_ids) > sampling.max_new_tokens:
        _fail(
            f"{name}.generate wrote {len(generation.token_ids)} tokens, at most {sampling.max_new_tokens} were allowed"
        )
    if min(generation.prompt_tokens, generation.completion_tokens) < 0:
        _fail(f"{name}.generate counts a negative number of tokens")
    if generation.logprobs and len(generation.logprobs) != len(generation.token_ids):
        _fail(f"{name}.generate has {len(generation.logprobs)} logprobs for {len(generation.token_ids)} token ids")
    if any(not value <= _TOLERANCE for value in generation.logprobs):
        _fail(f"{name}.generate has a logprob above 0 or NaN, expected natural logarithms of probabilities")


def _check_json(name: str, generation: Generation) -> None:
    if generation.fault is not None or generation.finish_reason == "length":
        return
    try:
        value = json.loads(generation.text)
    except ValueError:
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("agreed"), bool):
        _fail(
            f"{name}.generate answered a request with json_schema by {generation.text[:60]!r}, "
            "expected JSON of the schema"
        )


def _check_loglikelihoods(name: str, model: LanguageModel) -> None:
    pairs = [("The sky is", " blue."), ("One and one is", " two, as everybody knows."), ("", "Hello")]

    def loglikelihood(some: Sequence[tuple[str, str]]) -> list[Likelihood]:
        return model.loglikelihood([prompt for prompt, _ in some], [continuation for _, continuation in some])

    try:
        model.loglikelihood(["a"], ["b"])
    except ConfigurationError:
        return  # a model that has none says so
    for likelihood in _batch(f"{name}.loglikelihood", loglikelihood, pairs, Likelihood):
        if not (math.isfinite(likelihood.logprob) and likelihood.logprob <= _TOLERANCE and likelihood.token_count >= 1):
            _fail(f"{name}.loglikelihood returned {likelihood}, expected a finite logprob <= 0 of at least one token")
    _check_repeatable(f"{name}.loglikelihood", loglikelihood, pairs, lambda likelihood: likelihood.logprob)
    try:
        model.loglikelihood(["a", "b"], ["c"])
    except ConfigurationError:
        return
    _fail(f"{name}.loglikelihood accepts 2 prompts with 1 continuation. Raise a ConfigurationError")


def _check_turn(what: str, turn: UserTurn) -> None:
    _check_text(what, turn.text)
    _check_calls(what, turn.calls, "user")
    if turn.fault is not None and turn.text:
        _fail(
            f"{what} returned a fault ({turn.fault}) and the text {turn.text[:40]!r}. A turn with a fault has no text"
        )
    if turn.fault is None and not turn.ended and not turn.text.strip():
        _fail(f"{what} returned an empty text without a fault. Report a fault, or set ended when the user leaves")


def _check_judgement(name: str, judgement: Judgement) -> None:
    _check_calls(f"{name}.judge", judgement.calls, "judge")
    for reason in judgement.reasons:
        _check_text(f"{name}.judge", reason)
    if (judgement.score is None) == (judgement.fault is None):
        _fail(
            f"{name}.judge returned score {judgement.score} with fault {judgement.fault!r}. Give the one or the other"
        )
    if judgement.score is not None and not 0 <= judgement.score <= 1:
        _fail(f"{name}.judge returned the score {judgement.score}, expected a number in [0, 1]")
    if not all(isinstance(part, float) and 0 <= part <= 1 for part in judgement.components):
        _fail(f"{name}.judge returned the components {judgement.components}, expected numbers in [0, 1]")


def _check_calls(what: str, calls: Sequence[ModelCall], role: str) -> None:
    for call in calls:
        if not isinstance(call, ModelCall) or call.role != role:
            _fail(f"{what} recorded the model call {call!r:.60}, expected a ModelCall with role {role!r}")


def _check_text(what: str, text: object) -> None:
    if not isinstance(text, str):
        _fail(f"{what} returned a text of type {type(text).__name__}, expected str")
    elif any("\ud800" <= character <= "\udfff" for character in text):
        _fail(f"{what} returned a lone surrogate in {text[:40]!r}. Replace it; no UTF-8 file can hold it")


def _check_fingerprint(name: str, fingerprint: Callable[[], Mapping[str, Any]]) -> None:
    value = fingerprint()
    if not isinstance(value, dict) or not value:
        _fail(f"{name}.fingerprint returned {value!r:.60}, expected a dict that identifies model and settings")
    try:
        written = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        _fail(f"{name}.fingerprint is not strict JSON ({error}). Use texts, finite numbers, lists and dicts")
    if json.loads(written) != value:
        _fail(f"{name}.fingerprint changes when written and read as JSON. Use lists, not tuples, and texts as keys")
    if fingerprint() != value:
        _fail(f"{name}.fingerprint changes from call to call. A run could not be resumed")


def _protocol(thing: object, protocol: type, methods: str) -> str:
    name = type(thing).__name__
    if not isinstance(thing, protocol):
        _fail(f"{name} is no {protocol.__name__}. Expected an object with {methods}")
    return name


def _at_least_two(scenarios: Sequence[Scenario] | None) -> list[Scenario]:
    chosen = _scenarios() if scenarios is None else list(scenarios)
    if len(chosen) < 2:
        raise ConfigurationError(f"Got {len(chosen)} scenarios to check on, expected at least 2.")
    return chosen


def _scenarios() -> list[Scenario]:
    wishes = ("plan a weekend in Porto", "get a toast for a wedding written", "find out why the bread does not rise")
    return [
        Scenario(
            id=f"check-{number}",
            intent=f"{INTENT_PREFIX}{wish}, with as little effort as possible",
            opening=f"hello, i want to {wish}",
            persona_seed=number,
            source="made up by simgym.testing.checks",
            history=(
                Message("user", f"hello, i want to {wish}"),
                Message("assistant", "Gladly. By when?"),
                Message("user", f"by the {number + 1}th"),
            ),
        )
        for number, wish in enumerate(wishes)
    ]


def _conversation(scenario: Scenario) -> Conversation:
    opening = scenario.opening or "hello"
    return Conversation().add("user", opening).add("assistant", f"You said {opening!r}. Tell me more.")


def _said(turn: UserTurn) -> tuple[str, bool, str | None]:
    return (turn.text, turn.ended, turn.fault)


def _alike(first: Sequence[Any], second: Sequence[Any]) -> bool:
    return len(first) == len(second) and all(
        math.isclose(one, other, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
        if isinstance(one, float) and isinstance(other, float)
        else one == other
        for one, other in zip(first, second, strict=True)
    )


def _fail(sentence: str) -> None:
    raise ConfigurationError(f"{sentence}.")
