"""What turns look like, as numbers: pure functions of texts, the same for people and simulators.

Sources: first-turn diversity, intent decomposition, termination, naturalness, role and intent adherence are the axes of
Naous et al., "Flipping the Dialogue: Training and Evaluating User Language Models" (arXiv 2510.06552); where they ask a
large model or a commercial detector, these are cheap stand-ins that run anywhere, and each docstring says what is
measured here. A word is a maximal run of letters, digits and apostrophes, lower-cased; see `simgym.words` for scripts
without spaces between words.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simgym.statistics.intervals import numbered
from simgym.words import letter_pairs, spaced

_WORD = re.compile(r"\w+(?:['’]\w+)*")
LENGTH_EDGES = (1, 2, 3, 5, 8, 12, 20, 35, 60, 100)
"""Lower ends of the bins of turn length, words; a turn without words falls below the first."""
WINDOW = 50
"""Words of the moving window of the type-token ratio."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Separation:
    """What a classifier says of texts that it was not trained on."""

    scores: Floats
    """(N + M,) log-odds of being of the second kind."""
    labels: npt.NDArray[np.intp]
    """(N + M,) 0 for the first kind, 1 for the second."""
    folds: npt.NDArray[np.intp]
    """(N + M,) which classifier gave the score; -1 for none."""

    def pick(self, rows: npt.NDArray[np.intp]) -> Separation:
        """Some of the texts, in another order."""
        return Separation(self.scores[rows], self.labels[rows], self.folds[rows])


def words(text: str) -> list[str]:
    """The words of a text."""
    return [word.lower().replace("’", "'") for word in _WORD.findall(spaced(text))]


def content_words(text: str) -> set[str]:
    """Words of at least three letters that are not in scikit-learn's list of English stop words, and pairs of letters
    in scripts without spaces between words."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    long = {word for word in words(text) if len(word) > 2 and word not in ENGLISH_STOP_WORDS}
    return long.union(letter_pairs(text))


def length_histogram(lengths: Sequence[int]) -> Floats:
    """How many turns fall into each bin of length: (len(LENGTH_EDGES) + 1,) counts."""
    bins = np.searchsorted(LENGTH_EDGES, lengths, side="right")
    return np.bincount(bins, minlength=len(LENGTH_EDGES) + 1).astype(np.float64)


def jensen_shannon(first: Floats, second: Floats) -> float:
    """Jensen-Shannon divergence of two histograms in bits, in [0, 1] (Lin 1991); NaN if one is empty.

    The plug-in estimate is biased upwards for small samples: compare it with that of two halves of the human data.
    """
    if not first.sum() or not second.sum():
        return math.nan
    p, q = first / first.sum(), second / second.sum()
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.where(share > 0, share * np.log2(share / middle), 0.0).sum() for share in (p, q)]
    return float(sum(parts) / 2)


def word_histograms(texts: Sequence[str], others: Sequence[str]) -> tuple[Floats, Floats]:
    """Word counts of each text of two lists over their common vocabulary: (N, V) and (M, V)."""
    counts = [Counter(words(text)) for text in (*texts, *others)]
    vocabulary = {
        word: column for column, word in enumerate(dict.fromkeys(word for of_text in counts for word in of_text))
    }
    table = np.zeros((len(counts), len(vocabulary)))
    for row, count in enumerate(counts):
        for word, number in count.items():
            table[row, vocabulary[word]] = number
    return table[: len(texts)], table[len(texts) :]


def moving_type_token_ratio(texts: Sequence[str], window: int = WINDOW) -> float:
    """Different words per word in a moving window over all texts, in (0, 1] (MATTR, Covington & McFall 2010).

    Unlike the plain ratio it does not fall with the amount of text. NaN with fewer words than the window.
    """
    spoken = [word for text in texts for word in words(text)]
    if len(spoken) < window:
        return math.nan
    inside = Counter(spoken[:window])
    types = [len(inside)]
    for out, new in zip(spoken, spoken[window:], strict=False):
        inside[out] -= 1
        if not inside[out]:
            del inside[out]
        inside[new] += 1
        types.append(len(inside))
    return float(np.mean(types)) / window


def pairwise_differences(texts: Sequence[str]) -> Floats:
    """One minus the Jaccard overlap of the words of every two texts: (N, N), in [0, 1]; NaN on the diagonal."""
    sets = [frozenset(words(text)) for text in texts]
    table = np.full((len(sets), len(sets)), np.nan)
    for i, own in enumerate(sets):
        for j in range(i):
            union = len(own | sets[j])
            table[i, j] = table[j, i] = 1 - len(own & sets[j]) / union if union else 0.0
    return table


def revealed(goal: str, text: str, before: Sequence[str] = ()) -> float | None:
    """Share of the goal's content words that a turn says for the first time, in [0, 1]; None for a goal without any.

    People reveal what they want bit by bit. Naous et al. have a model match abstract pieces of the intent; this counts
    words, so a paraphrase is missed for people and simulators alike.
    """
    wanted = content_words(goal)
    if not wanted:
        return None
    return len((wanted & content_words(text)) - content_words("\n".join(before))) / len(wanted)


def adherence(goals: Sequence[str], texts: Sequence[str]) -> Floats:
    """How often each text is nearer to its own goal than to another of the goals: N shares in [0, 1], ties a half.

    Nearness is the cosine of TF-IDF vectors fitted on the goals. A half is chance. Equal goals are not compared.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectoriser = TfidfVectorizer(sublinear_tf=True, stop_words="english", tokenizer=_terms, token_pattern=None)
    try:
        wanted = vectoriser.fit_transform(goals)
    except ValueError:  # the goals hold stop words only
        return np.full(len(texts), np.nan)
    nearness = (vectoriser.transform(texts) @ wanted.T).toarray()
    shares = np.full(len(texts), np.nan)
    for row, own in enumerate(nearness.diagonal()):
        others = np.array([column for column, goal in enumerate(goals) if goal != goals[row]], dtype=int)
        if others.size:
            shares[row] = np.mean((own > nearness[row, others]) + 0.5 * (own == nearness[row, others]))
    return shares


def _terms(text: str) -> list[str]:
    """scikit-learn's words of two letters or more; letter pairs where there are no spaces between words."""
    return re.findall(r"\b\w\w+\b", spaced(text)) + letter_pairs(text)


def separability(
    first: Sequence[str], second: Sequence[str], groups: Sequence[Hashable], *, folds: int = 5, seed: int = 0
) -> Separation | None:
    """How sure a small classifier is that each text is of the second kind, when trained on other groups.

    Logistic regression on TF-IDF of character 1- to 4-grams and of words, cross-validated by group, so that nothing
    it knows of a conversation can help it with that conversation.

    Args:
        first: N texts of one kind, e.g. of people.
        second: M texts of the other.
        groups: N + M labels; a group is in one fold only.
        folds: At most so many.
        seed: Of the division into folds.

    Returns:
        Log-odds, labels and folds of all N + M texts; None if a kind has fewer than ten texts, there are fewer than
        three groups, or no word or character is in two texts.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline, make_union

    texts = np.array([*first, *second], dtype=object)
    labels = np.array([0] * len(first) + [1] * len(second), dtype=np.intp)
    group, count = numbered(groups)
    if min(len(first), len(second)) < 10 or count < 3:
        return None
    scores, fold_of = np.full(len(texts), np.nan), np.full(len(texts), -1, dtype=np.intp)
    splitter = StratifiedGroupKFold(min(folds, count), shuffle=True, random_state=seed)
    for fold, (train, test) in enumerate(splitter.split(texts, labels, group)):
        if len(set(labels[train])) < 2:
            continue
        vectors: object = make_union(
            TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True, min_df=2),
            TfidfVectorizer(sublinear_tf=True, token_pattern=r"\S+"),  # noqa: S106
        )
        model = make_pipeline(vectors, LogisticRegression(C=10.0, max_iter=2000, class_weight="balanced"))
        try:
            model.fit(texts[train], labels[train])
        except ValueError:  # nothing is left of a vocabulary
            return None
        scores[test], fold_of[test] = model.decision_function(texts[test]), fold
    return Separation(scores, labels, fold_of)


def separation_auc(separation: Separation, rows: npt.NDArray[np.intp]) -> float:
    """Area under the ROC curve of some texts, compared within folds; NaN if no fold has both kinds.

    Pooling folds would bias it downwards: where a fold happens to hold more of a kind, its classifier has seen less of
    it and gives lower scores to all.
    """
    total = pairs = 0.0
    for fold in np.unique(separation.folds[rows]):
        inside = rows[separation.folds[rows] == fold]
        positives = int(separation.labels[inside].sum())
        weight = positives * (len(inside) - positives)
        if fold >= 0 and weight:
            total += weight * auc(separation.scores[inside], separation.labels[inside])
            pairs += weight
    return total / pairs if pairs else math.nan


def auc(scores: Floats, labels: npt.NDArray[np.intp]) -> float:
    """Area under the ROC curve, ties a half; NaN if there is one label only."""
    positives, negatives = scores[labels == 1], np.sort(scores[labels == 0])
    if not len(positives) or not len(negatives):
        return math.nan
    below, up_to = (np.searchsorted(negatives, positives, side) for side in ("left", "right"))
    return float((below.sum() + up_to.sum()) / (2 * len(positives) * len(negatives)))
