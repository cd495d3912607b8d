"""Lexical diversity as MirrorBench anchors it in people: MATTR, HD-D and Yule's K of what each person said, as z.

A value of one person's words says little; a simulator in that person's place is compared with the spread among people:
z is its mean difference from the people's mean in standard deviations of the people. 0 is like people, and people
against people (one half against the other) show how far from 0 chance leads.

Definitions follow MirrorBench (arXiv 2601.08118): a text shorter than the window or the sample takes its own length for
it, and one of fewer than five words has no value. Deviation: words (`turn_metrics.words`) instead of the tokens of a
commercial model. All three depend on length somewhat, so read them beside words per turn.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from simgym.evaluation.turn_metrics import WINDOW, Floats, moving_type_token_ratio, words

SAMPLE = 42
"""Words of the random sample of HD-D."""
FEWEST_WORDS = 5
"""A person who said fewer has no value."""
FEWEST_PEOPLE = 5
"""With fewer people their spread cannot be told."""


def mattr(spoken: Sequence[str]) -> float:
    """Moving-average type-token ratio in (0, 1] (Covington & McFall 2010), window `WINDOW`."""
    return moving_type_token_ratio([" ".join(spoken)], min(WINDOW, len(spoken)))


def hdd(spoken: Sequence[str], sample: int = SAMPLE) -> float:
    """Expected type-token ratio of a random sample, in (0, 1]: HD-D (McCarthy & Jarvis 2007), hypergeometric."""
    size = len(spoken)
    drawn = min(sample, size)
    total = math.comb(size, drawn)
    return sum(1 - math.comb(size - count, drawn) / total for count in Counter(spoken).values()) / drawn


def yules_k(spoken: Sequence[str]) -> float:
    """Yule's characteristic constant, >= 0: the higher, the more words repeat; 0 if none does."""
    size = len(spoken)
    return 1e4 * (sum(count * count for count in Counter(spoken).values()) - size) / size**2


DIVERSITIES: Mapping[str, tuple[str, Callable[[Sequence[str]], float]]] = {
    "mattr_z": (f"MATTR (window {WINDOW}), z against people", mattr),
    "hdd_z": (f"HD-D (sample {SAMPLE}), z against people", hdd),
    "yules_k_z": ("Yule's K, z against people", yules_k),
}
"""Measures by the key of their row: title, and function of a person's words."""


def by_person(
    measure: Callable[[Sequence[str]], float], texts: Sequence[str], people: Sequence[str], everybody: Sequence[str]
) -> Floats:
    """A value for each of `everybody`, of all that was said in the person's place; NaN below `FEWEST_WORDS`."""
    spoken: dict[str, list[str]] = {person: [] for person in everybody}
    for text, person in zip(texts, people, strict=True):
        spoken[person] += words(text)
    return np.array([measure(said) if len(said) >= FEWEST_WORDS else np.nan for said in spoken.values()])


def z_score(values: Floats, anchors: Floats) -> float:
    """Mean of `values` in standard deviations of `anchors` from their mean; NaN if they are few or all the same."""
    values, anchors = values[np.isfinite(values)], anchors[np.isfinite(anchors)]
    spread = float(anchors.std(ddof=1)) if len(anchors) >= FEWEST_PEOPLE else 0.0
    return float((values.mean() - anchors.mean()) / spread) if spread and len(values) else math.nan


def anchored_z(values: Floats, anchors: Floats, rows: npt.NDArray[np.intp]) -> float:
    """A simulator against people: its z among the people in `rows`."""
    return z_score(values[rows], anchors[rows])


def halves_z(values: Floats, sides: npt.NDArray[np.intp], rows: npt.NDArray[np.intp]) -> float:
    """People against people: the second side's z against the first, among `rows`."""
    chosen, side = values[rows], sides[rows]
    return z_score(chosen[side == 1], chosen[side == 0])
