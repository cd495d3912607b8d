"""What a simulator does at the moments of a human reference, and how likely it finds what the person did.

At each later moment the simulator is asked for its turn, given intent and history; at each first moment for an opening
of its own (simulators that only take real ones are not asked). Where its model can be scored, the person's turn is
teacher-forced: its log-likelihood under the very prompt that the simulator would have used. Results are appended to a
JSONL file batch by batch; a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from simgym.chat_template import defuse
from simgym.errors import ConfigurationError
from simgym.evaluation.reference import Moment, Reference
from simgym.evaluation.run_file import RunFile
from simgym.faults import Fault
from simgym.language_models.base import Likelihood, PromptingModel
from simgym.language_models.loading import unwrapped
from simgym.rollout.outages import ask_in_batches
from simgym.seeding import derive_seed
from simgym.simulators.base import ScorableSimulator, UserSimulator, UserTurn


@dataclass(frozen=True, slots=True)
class SimulatedTurn:
    """A simulator at one moment."""

    key: str
    """Of the moment."""
    asked: bool
    """Whether the simulator was asked for a turn; False for openings that it does not write."""
    text: str
    """What it said; empty if it left, failed or was not asked."""
    ended: bool
    """Whether it left the conversation."""
    fault: str | None
    """Why there is no turn, after all attempts; None if there is one."""
    attempts: int
    """Model calls made for it; 0 for simulators without a model."""
    first_fault: str | None
    """What was wrong with the first attempt; None if nothing was."""
    logprob: float | None
    """Natural log-likelihood of the person's turn; None if it cannot be told, or the person left."""
    tokens: int
    """Tokens of the person's turn; 0 without likelihood."""
    byte_count: int
    """UTF-8 bytes of the person's turn; 0 without likelihood."""


def simulate_turns(
    simulator: UserSimulator,
    reference: Reference,
    *,
    seed: int = 0,
    path: str | Path | None = None,
    batch_size: int = 32,
    advance: Callable[[int], object] = lambda count: None,
) -> list[SimulatedTurn]:
    """Put a simulator in the person's place at every moment.

    Args:
        simulator: Who plays.
        reference: The moments.
        seed: Decides what the simulator says; the same for each simulator gives the same random numbers.
        path: JSONL file to write, or to complete; None: none.
        batch_size: Moments per call.
        advance: Told how many moments more are done.

    Raises:
        ConfigurationError: the file was made with another simulator, reference or seed.
    """
    header = {"simulator": simulator.fingerprint(), "reference": reference.content_hash(), "seed": seed}
    with RunFile(path, header, SimulatedTurn) as file:
        done = _finished(file)
        pending = [moment for moment in reference.moments if moment.key not in done]
        advance(len(reference.moments) - len(pending))

        def ask(batch: Sequence[Moment]) -> Iterator[SimulatedTurn]:
            return _simulate(simulator, batch, seed)

        for _, turn in ask_in_batches(
            ask, pending, batch_size=batch_size, noun="turns", parts=[("simulator", simulator)]
        ):
            file.append(asdict(turn))
            advance(1)
        return [SimulatedTurn(**file.rows[moment.key]) for moment in reference.moments]


def has_all_turns(reference: Reference, path: Path) -> bool:
    """Whether a file has a turn for every moment, so that no simulator is going to be asked."""
    if not path.is_file() or path.stat().st_size == 0:
        return False
    return {moment.key for moment in reference.moments} <= _finished(RunFile.open(path))


def _finished(file: RunFile) -> set[str]:
    """Keys of turns that are done; one that an outage ended, as older versions stored it, is simulated again."""
    return {key for key, row in file.rows.items() if not Fault.parse(row.get("fault") or "").is_outage}


def _simulate(simulator: UserSimulator, moments: Sequence[Moment], seed: int) -> Iterator[SimulatedTurn]:
    first, later = ([moment for moment in moments if bool(moment.history.messages) == kind] for kind in (False, True))
    turns: dict[str, UserTurn] = {}

    def seeds(subset: Sequence[Moment]) -> list[int]:
        return [derive_seed(seed, "realism", moment.key) for moment in subset]

    if later:
        replies = simulator.reply(
            [moment.scenario for moment in later], [moment.history for moment in later], seeds=seeds(later)
        )
        turns |= {moment.key: turn for moment, turn in zip(later, replies, strict=True)}
    if first:
        blank = [replace(moment.scenario, opening=None) for moment in first]
        with contextlib.suppress(ConfigurationError):  # takes real openings only: has none of its own to look at
            turns |= {
                moment.key: turn for moment, turn in zip(first, simulator.open(blank, seeds=seeds(first)), strict=True)
            }
    spoken = [moment for moment in moments if moment.said is not None]
    forced = dict(zip([moment.key for moment in spoken], human_likelihoods(simulator, spoken), strict=True))
    for moment in moments:
        yield _record(moment, turns.get(moment.key), forced.get(moment.key))


def human_likelihoods(simulator: UserSimulator, moments: Sequence[Moment]) -> list[Likelihood | None]:
    """How likely a simulator finds what the people said, teacher-forced under its own prompt.

    Args:
        simulator: One whose model runs in process; for others there is no likelihood.
        moments: N moments at which somebody spoke.

    Returns:
        N likelihoods, or None each if the simulator cannot tell. The mark that ends a turn is not part of it.
    """
    if not isinstance(simulator, ScorableSimulator):
        return [None] * len(moments)
    model = simulator.language_model()
    prompting = unwrapped(model)
    if not isinstance(prompting, PromptingModel):
        return [None] * len(moments)
    said = [(moment.said or "").strip() for moment in moments]
    forced = [
        simulator.force(moment.scenario, moment.history, text) for moment, text in zip(moments, said, strict=True)
    ]
    prompts = [prompting.prompt_text(forced_turn.request) + forced_turn.prefix for forced_turn in forced]
    texts = [defuse(prompting.tokenizer, forced_turn.text) for forced_turn in forced]
    adapters = {forced_turn.request.adapter for forced_turn in forced}
    likelihoods: list[Likelihood | None] = [None] * len(moments)
    for adapter in adapters:
        chosen = [index for index, forced_turn in enumerate(forced) if forced_turn.request.adapter == adapter]
        scored = model.loglikelihood([prompts[i] for i in chosen], [texts[i] for i in chosen], adapter=adapter)
        for index, likelihood in zip(chosen, scored, strict=True):
            likelihoods[index] = likelihood
    return likelihoods


def _record(moment: Moment, turn: UserTurn | None, forced: Likelihood | None) -> SimulatedTurn:
    calls = turn.calls if turn else ()
    return SimulatedTurn(
        key=moment.key,
        asked=turn is not None,
        text=turn.text if turn else "",
        ended=turn.ended if turn else False,
        fault=turn.fault if turn else None,
        attempts=len(calls),
        first_fault=calls[0].fault if calls else (turn.fault if turn else None),
        logprob=forced.logprob if forced else None,
        tokens=forced.token_count if forced else 0,
        byte_count=len((moment.said or "").strip().encode()) if forced else 0,
    )
