"""Kinds of turns that people make, how often simulators make them, and the mixture of simulators nearest to people.

A later turn is described by plain marks (its length, whether it asks, thanks, corrects, takes up the assistant's words,
repeats its own, begins like a sentence). People's turns of one half of the conversations are clustered by these marks
(k-means), and everybody's turns of the other half are counted into the clusters; leaving is one more kind. The
Jensen-Shannon divergence of these counts from people's says how differently a simulator behaves; that of the first half
of the people from the second is the control. A `Mixture` draws one simulator per scenario: the weights that make
people's counts of the first half likeliest are found by expectation maximisation (a concave problem), and judged on the
second half, where they were not fitted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from simgym.conversation import Conversation
from simgym.evaluation.reference import Moment, Reference
from simgym.evaluation.simulated_turns import SimulatedTurn
from simgym.evaluation.turn_metrics import Floats, content_words, jensen_shannon, words
from simgym.seeding import derive_seed, generator

CLUSTERS = 8
"""Kinds of spoken turns."""
FEWEST_TURNS = 5 * CLUSTERS
"""With fewer turns of people to cluster nothing is said."""
_ROUNDS = 500
_MARKS = (
    re.compile(r"\?"),
    re.compile(r"\b(thanks?|thank you|great|perfect|awesome|cool)\b", re.IGNORECASE),
    re.compile(r"\b(no|not|but|actually|wrong|instead)\b|n't\b", re.IGNORECASE),
    re.compile(r"\A\W*(what|who|when|where|why|how|which|is|are|do|does|can|could|would|should)\b", re.IGNORECASE),
    re.compile(r"\A\W*(i|i'm|i've|my|we)\b", re.IGNORECASE),
    re.compile(r"\A[^a-z]*[A-Z].*[.!?]\W*\Z", re.DOTALL),
)
"""Asks, thanks, objects, begins as a question, begins with oneself, is written like a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviours:
    """How turns fall into kinds; shares are of the second half of the conversations."""

    people: tuple[float, ...]
    """Shares of people's turns, a kind each, leaving last."""
    simulators: Mapping[str, tuple[float, ...]]
    """Shares of each simulator's turns."""
    divergence: Mapping[str, float]
    """Jensen-Shannon divergence of each simulator from people, bits, in [0, 1]."""
    control: float
    """That of people of the first half from people of the second."""
    mixture: Mapping[str, float]
    """Weight of each simulator in the mixture fitted on the first half; they sum to 1."""
    mixture_divergence: float
    """Divergence of this mixture from people, on the second half."""

    def to_json(self) -> dict[str, object]:
        """JSON values."""
        return asdict(self)


def compare_behaviours(
    reference: Reference, turns: Mapping[str, Sequence[SimulatedTurn]], *, seed: int = 0
) -> Behaviours | None:
    """Cluster people's later turns and count everybody's.

    Args:
        reference: The people.
        turns: By simulator, one for each moment of the reference, in its order.
        seed: Of the halves and the clusters.

    Returns:
        None if people said too little to be clustered, or a simulator nothing usable in one half.
    """
    from sklearn.cluster import KMeans
    from sklearn.preprocessing import StandardScaler

    scenarios = sorted({moment.scenario.id for moment in reference.moments})
    order = generator(seed, "behaviours").permutation(len(scenarios))
    fitted = {scenarios[index] for index in order[::2]}
    halves = [moment.scenario.id not in fitted for moment in reference.moments]
    said = [(moment.said, moment.said is None) for moment in reference.moments]
    human = [_points(reference.moments, said, halves, half) for half in (False, True)]
    spoken = np.array([marks for marks in human[0] if marks is not None])
    if len(spoken) < FEWEST_TURNS:
        return None
    scaler = StandardScaler().fit(spoken)
    clusters = KMeans(CLUSTERS, n_init=10, random_state=derive_seed(seed, "k-means") % 2**32)
    clusters.fit(scaler.transform(spoken))

    def count(points: Sequence[Floats | None]) -> Floats:
        counts = np.zeros(CLUSTERS + 1)
        counts[CLUSTERS] = sum(point is None for point in points)
        told = np.array([point for point in points if point is not None])
        if len(told):
            counts[:CLUSTERS] = np.bincount(clusters.predict(scaler.transform(told)), minlength=CLUSTERS)
        return counts

    people = [count(points) for points in human]
    counts = {}
    for name, own in turns.items():
        done = [(None if turn.fault else turn.text, turn.ended) for turn in own]
        counts[name] = [count(_points(reference.moments, done, halves, half)) for half in (False, True)]
    if not all(half.sum() for halves_of in (people, *counts.values()) for half in halves_of):
        return None
    weights = mixture_weights(people[0], np.array([half[0] for half in counts.values()]))
    mixed = sum(weight * half[1] / half[1].sum() for weight, half in zip(weights, counts.values(), strict=True))
    return Behaviours(
        people=_shares(people[1]),
        simulators={name: _shares(half[1]) for name, half in counts.items()},
        divergence={name: jensen_shannon(people[1], half[1]) for name, half in counts.items()},
        control=jensen_shannon(people[1], people[0]),
        mixture=dict(zip(counts, map(float, weights), strict=True)),
        mixture_divergence=jensen_shannon(people[1], np.asarray(mixed)),
    )


def mixture_weights(wanted: Floats, components: Floats) -> Floats:
    """Weights of K components that make counts likeliest, by expectation maximisation from equal weights.

    Args:
        wanted: (C,) counts.
        components: (K, C) counts of each component; half a count is added to each, so that nothing is impossible.

    Returns:
        (K,) weights, >= 0, that sum to 1.
    """
    chances = (components + 0.5) / (components + 0.5).sum(axis=1, keepdims=True)
    weights = np.full(len(chances), 1 / len(chances))
    for _ in range(_ROUNDS):
        parts = weights[:, None] * chances
        weights = (parts / parts.sum(axis=0) * wanted).sum(axis=1) / wanted.sum()
    return weights


def turn_marks(text: str, history: Conversation) -> Floats:
    """(9,) marks of a turn: log length, six patterns, words shared with the assistant, and with earlier turns."""
    own, size = content_words(text), max(1, len(content_words(text)))
    before = history.said_by("user")
    heard = content_words(history.messages[-1].content) if history.messages else set()
    patterns = [float(bool(mark.search(text))) for mark in _MARKS]
    shared = [len(own & heard) / size, len(own & content_words("\n".join(before))) / size]
    return np.array([math.log1p(len(words(text))), *patterns, *shared])


def _points(
    moments: Sequence[Moment], done: Sequence[tuple[str | None, bool]], halves: Sequence[bool], half: bool
) -> list[Floats | None]:
    """Marks of what was done at the later moments of a half, None for leaving; what failed is left out."""
    points: list[Floats | None] = []
    for moment, (text, ended), side in zip(moments, done, halves, strict=True):
        if side is half and moment.history.messages:
            if ended:
                points.append(None)
            elif text and text.strip():
                points.append(turn_marks(text, moment.history))
    return points


def _shares(counts: Floats) -> tuple[float, ...]:
    return tuple(map(float, counts / counts.sum()))
