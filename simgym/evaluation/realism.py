"""The realism scorecard: a simulated user beside the people it plays, figure by figure, each with an interval.

`simulate_turns` puts a simulator in the place of held-out people, at the same moments with the same intents and
histories; `score_realism` compares. No figure alone means "realistic", and none says what an assistant trained with
the simulator would be worth (that is what matrices and studies are for). Intervals resample people, since turns of one
person go together. Figures that a simulator does not allow (openings it does not write, likelihoods it cannot tell) are
None with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from simgym.evaluation import lexical
from simgym.evaluation import turn_metrics as metrics
from simgym.evaluation.reference import Moment, Reference
from simgym.evaluation.scorecard import MetricRow, Scorecard
from simgym.evaluation.simulated_turns import SimulatedTurn
from simgym.evaluation.turn_metrics import Floats
from simgym.faults import Fault, FaultKind, count_faults
from simgym.seeding import derive_seed, generator
from simgym.simulators.faults import find_fault
from simgym.statistics.intervals import Estimate, clustered_bootstrap_mean
from simgym.statistics.resampling import Rows, bootstrap_statistic

NO_LIKELIHOOD = "the model's likelihoods are not available"
NO_OPENINGS = "writes no openings"
_METRICS = {
    "bits_per_byte": ("bits per byte of human turns", "lower"),
    "perplexity": ("perplexity per token of human turns", "lower"),
    "classifier_auc": ("classifier AUC, human or simulated", "0.5"),
    "classifier_auc_control": ("classifier AUC, one half or the other (control)", "0.5"),
    "words_per_turn": ("words per turn", "like people"),
    "length_divergence": ("turn length, divergence (bits)", "lower"),
    "type_token_ratio": (f"different words per word, window {metrics.WINDOW}", "like people"),
    "word_divergence": ("words used, divergence (bits)", "lower"),
    "first_turn_diversity": ("first turns, mean difference of two", "like people"),
    "intent_in_first_turn": ("intent revealed in the first turn", "like people"),
    "intent_in_later_turn": ("intent newly revealed in a later turn", "like people"),
    "intent_adherence": ("nearer to own intent than to another", "like people"),
    "leaves": ("leaves, share of later moments", "like people"),
    "termination_precision": ("leaving where people left, precision", "higher"),
    "termination_recall": ("leaving where people left, recall", "higher"),
    "termination_f1": ("leaving where people left, F1", "higher"),
    "role_adherence": ("stays in the user's role, readable first attempts", "higher"),
    "first_attempt_faults": ("invalid first attempts", "lower"),
    "lasting_faults": ("no usable turn after all attempts", "lower"),
}
"""Title and aim of each row, see `MetricRow`; those of lexical diversity are in `lexical`."""
_HALVINGS = 10
"""Random halvings of the people's turns over which their own classifier AUC is averaged."""
_OF_A_TEXT = (FaultKind.ROLE_FLIP, FaultKind.INTENT_COPIED, FaultKind.REPEATED)
"""Faults of a turn that says something; see `simulators.faults`."""


def score_realism(
    name: str,
    fingerprint: Mapping[str, object],
    reference: Reference,
    turns: Sequence[SimulatedTurn],
    *,
    seed: int = 0,
    resamples: int = 999,
) -> Scorecard:
    """Compare a simulator with the people of a reference.

    Args:
        name: What to call the simulator.
        fingerprint: Of the simulator, for the record.
        reference: The people.
        turns: One for each moment of the reference, in its order.
        seed: Of resampling and cross-validation.
        resamples: Bootstrap samples per interval.
    """
    if len(turns) != len(reference.moments):
        raise ValueError(f"Got {len(turns)} turns for {len(reference.moments)} moments, expected as many.")
    compared = _Comparison(reference, turns, seed, resamples)
    asked = [turn for turn in turns if turn.asked]
    return Scorecard(
        simulator=name,
        metrics=(
            *compared.likelihood(),
            *compared.naturalness(),
            *compared.length(),
            *compared.vocabulary(),
            *compared.diversity(),
            *compared.openings(),
            *compared.intent(),
            *compared.termination(),
            *compared.faults(),
        ),
        first_faults=_kinds(turn.first_fault for turn in asked),
        lasting_faults=_kinds(turn.fault for turn in asked),
        turns=len(asked),
        fingerprint=dict(fingerprint),
    )


@dataclass(frozen=True, slots=True)
class _Said:
    """Texts and who said them (for simulated turns: in whose place)."""

    texts: Sequence[str]
    people: Sequence[str]

    def pick(self, rows: Sequence[int]) -> _Said:
        return _Said([self.texts[row] for row in rows], [self.people[row] for row in rows])


class _Comparison:
    """People and simulator at the same moments; a method a group of figures."""

    def __init__(self, reference: Reference, turns: Sequence[SimulatedTurn], seed: int, resamples: int) -> None:
        self.pairs = list(zip(reference.moments, turns, strict=True))
        self.seed = seed
        self.resamples = resamples
        later = [(moment, turn) for moment, turn in self.pairs if moment.history.messages]
        spoken = [(moment, turn) for moment, turn in later if moment.said is not None]
        # Simulated turns at moments where the person left are compared with nobody's, so they are left out.
        usable = [(moment, turn) for moment, turn in spoken if turn.asked and turn.text.strip() and not turn.fault]
        self.human_moments, self.moments = [moment for moment, _ in spoken], [moment for moment, _ in usable]
        self.human = _Said(
            [human_moment.said or "" for human_moment in self.human_moments],
            [human_moment.person for human_moment in self.human_moments],
        )
        self.simulated = _Said([turn.text for _, turn in usable], [moment.person for moment in self.moments])
        side = generator(seed, "halves").permutation(len(spoken)) % 2
        self.halves = tuple(self.human.pick(np.flatnonzero(side == half).tolist()) for half in (0, 1))
        second = {spoken[i][0].key for i in np.flatnonzero(side == 1)}
        self.second_half = self.simulated.pick([i for i, moment in enumerate(self.moments) if moment.key in second])

    def likelihood(self) -> tuple[MetricRow, ...]:
        """Bits per byte and perplexity of what the people said, teacher-forced under the simulator's own prompt."""
        known = [(moment, turn) for moment, turn in self.pairs if turn.logprob is not None]
        if not known:
            return tuple(_row(name, None, None, NO_LIKELIHOOD) for name in ("bits_per_byte", "perplexity"))
        nats = np.array([-(turn.logprob or 0.0) for _, turn in known])
        sizes, tokens = np.array([(turn.byte_count, turn.tokens) for _, turn in known]).T
        people = [moment.person for moment, _ in known]

        def bits(rows: Rows) -> float:
            return float(nats[rows].sum() / sizes[rows].sum()) / math.log(2)

        def perplexity(rows: Rows) -> float:
            return math.exp(float(nats[rows].sum() / tokens[rows].sum()))

        return (
            _row("bits_per_byte", self._statistic("bits", bits, people)),
            _row("perplexity", self._statistic("perplexity", perplexity, people)),
        )

    def naturalness(self) -> tuple[MetricRow, ...]:
        """Cross-validated AUC of a classifier between people and simulator; 0.5 is indistinguishable.

        The controls compare each side with itself: where they are not near 0.5, the turns are too few to tell.
        """
        people = self._auc_of_halves("auc halves", self.human)
        return (
            _row("classifier_auc", self._auc("auc", self.human, self.simulated), people),
            _row("classifier_auc_control", self._auc_of_halves("auc halves simulated", self.simulated), people),
        )

    def length(self) -> tuple[MetricRow, ...]:
        """Words per turn, and how far the distribution of turn length is from that of people."""

        def mean(what: str, said: _Said) -> Estimate:
            return self._mean(what, [len(metrics.words(text)) for text in said.texts], said.people)

        def divergence(what: str, first: _Said, second: _Said) -> Estimate:
            return self._divergence(what, first, second, _length_bins(first.texts), _length_bins(second.texts))

        return (
            _row("words_per_turn", mean("words", self.simulated), mean("words human", self.human)),
            _row(
                "length_divergence",
                divergence("length", self.halves[0], self.second_half),
                divergence("length halves", *self.halves),
            ),
        )

    def vocabulary(self) -> tuple[MetricRow, ...]:
        """Moving type-token ratio, and how far the distribution of words is from that of people."""

        def ratio(what: str, said: _Said) -> Estimate:
            def statistic(rows: Rows) -> float:
                return metrics.moving_type_token_ratio([said.texts[row] for row in rows])

            return self._statistic(what, statistic, said.people)

        def divergence(what: str, first: _Said, second: _Said) -> Estimate:
            return self._divergence(what, first, second, *metrics.word_histograms(first.texts, second.texts))

        return (
            _row("type_token_ratio", ratio("mattr", self.simulated), ratio("mattr human", self.human)),
            _row(
                "word_divergence",
                divergence("words", self.halves[0], self.second_half),
                divergence("words halves", *self.halves),
            ),
        )

    def diversity(self) -> tuple[MetricRow, ...]:
        """Lexical diversity of what was said in each person's place, as z against people (`lexical`)."""
        everybody = list(dict.fromkeys(self.human.people))
        sides = generator(self.seed, "lexical halves").permutation(len(everybody)) % 2
        rows = []
        for name, (title, measure) in lexical.DIVERSITIES.items():
            human = lexical.by_person(measure, self.human.texts, self.human.people, everybody)
            own = lexical.by_person(measure, self.simulated.texts, self.simulated.people, everybody)
            rows.append(
                MetricRow(
                    name,
                    title,
                    "0",
                    self._statistic(name, partial(lexical.anchored_z, own, human), everybody),
                    self._statistic(f"{name} halves", partial(lexical.halves_z, human, sides), everybody),
                )
            )
        return tuple(rows)

    def openings(self) -> tuple[MetricRow, ...]:
        """How different first turns are from each other (scripted ones are alike), and what they reveal."""
        first = [(moment, turn) for moment, turn in self.pairs if not moment.history.messages]
        own = [(moment, turn) for moment, turn in first if turn.asked and turn.text.strip() and not turn.fault]
        why = "" if any(turn.asked for _, turn in first) else NO_OPENINGS
        moments, human_moments = [moment for moment, _ in own], [moment for moment, _ in first]
        said = _Said([turn.text for _, turn in own], [moment.person for moment in moments])
        human = _Said([moment.said or "" for moment in human_moments], [moment.person for moment in human_moments])
        return (
            _row(
                "first_turn_diversity", self._pairwise("diversity", said), self._pairwise("diversity human", human), why
            ),
            _row(
                "intent_in_first_turn",
                self._revealed("first", moments, said),
                self._revealed("first human", human_moments, human),
                why,
            ),
        )

    def intent(self) -> tuple[MetricRow, ...]:
        """What of the intent later turns add, and whether they fit their own intent better than another."""
        return (
            _row(
                "intent_in_later_turn",
                self._revealed("later", self.moments, self.simulated),
                self._revealed("later human", self.human_moments, self.human),
            ),
            _row(
                "intent_adherence",
                self._adherence("adherence", self.moments, self.simulated),
                self._adherence("adherence human", self.human_moments, self.human),
            ),
        )

    def termination(self) -> tuple[MetricRow, ...]:
        """Does the simulator leave where the people left? Precision, recall and F1, moments weighted by `weight`."""
        later = [(moment, turn) for moment, turn in self.pairs if moment.history.messages and not turn.fault]
        left = np.array([moment.said is None for moment, _ in later], dtype=bool)
        leaves = np.array([turn.ended for _, turn in later], dtype=bool)
        weights = np.array([moment.weight for moment, _ in later])
        people = [moment.person for moment, _ in later]

        def share(of: str) -> Callable[[Rows], float]:
            def statistic(rows: Rows) -> float:
                hits = float((weights * (left & leaves))[rows].sum())
                said, true = float((weights * leaves)[rows].sum()), float((weights * left)[rows].sum())
                total = {"precision": said, "recall": true, "f1": (said + true) / 2}[of]
                return hits / total if total else math.nan

            return statistic

        def rate(gone: npt.NDArray[np.bool_]) -> Callable[[Rows], float]:
            return lambda rows: float((weights * gone)[rows].sum() / weights[rows].sum())

        return (
            _row(
                "leaves", self._statistic("leaves", rate(leaves), people), self._statistic("left", rate(left), people)
            ),
            *(
                _row(
                    f"termination_{of}",
                    self._statistic(of, share(of), people),
                    None,
                    "" if leaves.any() or of != "precision" else "never leaves",
                )
                for of in ("precision", "recall", "f1")
            ),
        )

    def faults(self) -> tuple[MetricRow, ...]:
        """Turns that are certainly invalid (`simulators.faults`); the same check on what the people said."""
        asked = [(moment, turn) for moment, turn in self.pairs if turn.asked]
        people = [moment.person for moment, _ in asked]
        # what could not be read, or was not said, is in neither role
        kinds = [(moment, _kind(turn.first_fault)) for moment, turn in asked]
        readable = [(moment, kind) for moment, kind in kinds if kind is None or kind in _OF_A_TEXT]
        spoken = [moment for moment, _ in self.pairs if moment.said is not None]
        human = [_kind(find_fault(moment.said or "", moment.scenario, moment.history)) for moment in spoken]
        human_people = [moment.person for moment in spoken]

        def rate(title: str, flags: Sequence[bool], whose: Sequence[str]) -> Estimate:
            return self._mean(title, [float(flag) for flag in flags], whose)

        return (
            _row(
                "role_adherence",
                rate(
                    "role",
                    [kind is not FaultKind.ROLE_FLIP for _, kind in readable],
                    [moment.person for moment, _ in readable],
                ),
                rate("role human", [kind is not FaultKind.ROLE_FLIP for kind in human], human_people),
            ),
            _row(
                "first_attempt_faults",
                rate("first faults", [turn.first_fault is not None for _, turn in asked], people),
                rate("faults human", [kind is not None for kind in human], human_people),
            ),
            _row("lasting_faults", rate("lasting faults", [turn.fault is not None for _, turn in asked], people)),
        )

    def _seed(self, what: str) -> int:
        return derive_seed(self.seed, "realism interval", what)

    def _mean(self, what: str, values: Any, people: Sequence[str]) -> Estimate:
        return clustered_bootstrap_mean(values, people, seed=self._seed(what), resamples=self.resamples)

    def _statistic(
        self, what: str, statistic: Callable[[Rows], float], people: Sequence[str], **options: Any
    ) -> Estimate:
        options.setdefault("resamples", self.resamples)
        return bootstrap_statistic(statistic, people, seed=self._seed(what), **options)

    def _divergence(self, what: str, first: _Said, second: _Said, counts: Floats, others: Floats) -> Estimate:
        """Of two tables of counts, one row a text; texts of both kinds are resampled together, by person."""
        table = np.vstack([counts, others])
        kinds = np.array([0] * len(counts) + [1] * len(others))

        def statistic(rows: Rows) -> float:
            totals = [table[rows[kinds[rows] == kind]].sum(axis=0) for kind in (0, 1)]
            return metrics.jensen_shannon(*totals)

        people = [*first.people, *second.people]
        return self._statistic(f"divergence {what}", statistic, people, kind="basic", bounds=(0.0, 1.0))

    def _auc(self, what: str, first: _Said, second: _Said) -> Estimate:
        people = [*first.people, *second.people]
        separation = metrics.separability(first.texts, second.texts, people, seed=self._seed(what) % 2**32)
        if separation is None:
            return Estimate(value=None, low=None, high=None, n=len(set(people)), method="too few turns", seed=None)
        return self._statistic(what, lambda rows: metrics.separation_auc(separation, rows), people, bounds=(0.0, 1.0))

    def _auc_of_halves(self, what: str, said: _Said) -> Estimate:
        return _auc_of_halves(what, tuple(said.texts), tuple(said.people), self.seed, self.resamples)

    def _pairwise(self, what: str, said: _Said) -> Estimate | None:
        if not said.texts:
            return None
        table = metrics.pairwise_differences(said.texts)

        def statistic(rows: Rows) -> float:
            # a turn drawn twice is not compared with itself: those entries are NaN
            values = table[np.ix_(rows, rows)]
            return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan

        return self._statistic(what, statistic, said.people)

    def _revealed(self, what: str, moments: Sequence[Moment], said: _Said) -> Estimate | None:
        shares = [
            metrics.revealed(moment.scenario.goal, text, moment.history.said_by("user"))
            for moment, text in zip(moments, said.texts, strict=True)
        ]
        known = [(person, share) for person, share in zip(said.people, shares, strict=True) if share is not None]
        return self._mean(what, [share for _, share in known], [person for person, _ in known]) if known else None

    def _adherence(self, what: str, moments: Sequence[Moment], said: _Said) -> Estimate | None:
        if not said.texts:
            return None
        shares = metrics.adherence([moment.scenario.goal for moment in moments], said.texts)
        known = np.flatnonzero(np.isfinite(shares))
        return self._mean(what, shares[known], said.pick(known.tolist()).people)


@lru_cache(maxsize=8)
def _auc_of_halves(what: str, texts: tuple[str, ...], people: tuple[str, ...], seed: int, resamples: int) -> Estimate:
    """One side against itself: mean AUC over random halvings of its turns, since one halving says little.

    Kept, because the people are the same beside every simulator of a run.
    """
    said = _Said(texts, people)
    separations = []
    for number in range(_HALVINGS):
        side = generator(seed, what, number).permutation(len(texts)) % 2
        order = np.argsort(side, kind="stable")
        halves = [said.pick(order[side[order] == half].tolist()) for half in (0, 1)]
        persons = [*halves[0].people, *halves[1].people]
        fold_seed = derive_seed(seed, what, number) % 2**32
        separated = metrics.separability(halves[0].texts, halves[1].texts, persons, seed=fold_seed)
        if separated is None:
            return Estimate(value=None, low=None, high=None, n=len(set(people)), method="too few turns", seed=None)
        separations.append(separated.pick(np.argsort(order)))

    def statistic(rows: Rows) -> float:
        return float(np.mean([metrics.separation_auc(separation, rows) for separation in separations]))

    # ten times the work of any other figure, so fewer resamples
    interval_seed = derive_seed(seed, "realism interval", what)
    return bootstrap_statistic(statistic, people, seed=interval_seed, resamples=min(resamples, 199), bounds=(0.0, 1.0))


def _row(name: str, simulated: Estimate | None, human: Estimate | None = None, why_not: str = "") -> MetricRow:
    return MetricRow(name, *_METRICS[name], simulated, human, why_not)


def _length_bins(texts: Sequence[str]) -> Floats:
    """A row a text with a one in its bin of length."""
    rows = [metrics.length_histogram([len(metrics.words(text))]) for text in texts]
    return np.array(rows).reshape(len(rows), len(metrics.LENGTH_EDGES) + 1)


def _kinds(faults: Any) -> dict[str, int]:
    return count_faults(fault for fault in faults if fault is not None)


def _kind(fault: str | None) -> FaultKind | None:
    return None if fault is None else Fault.parse(fault).kind
