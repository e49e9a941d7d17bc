"""How well scores separate good pairs from bad ones: AUC, average precision, precision and recall, with bootstrap intervals.

Works on labels and scores alone, for any head and any model; numpy only. Pairs that share a group (an image, say) are
resampled together, because their scores go up and down together; those of a stratified sample have weights, and are resampled
within their strata. Knows nothing of images, captions, models or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

RECALLS = (0.99, 0.95, 0.9, 0.75, 0.5)  # shares of the good pairs kept, for which thresholds are given
CHUNK_CELLS = 4_000_000  # of resamples x pairs held at a time: 32 MB of weights
TRUE_WORDS = frozenset({"1", "1.0", "true", "t", "yes", "y", "good", "match", "positive", "keep"})
LABEL_NAMES = ("label", "labels", "is_match", "match", "good", "target")  # of columns
FALSE_WORDS = frozenset({"0", "0.0", "false", "f", "no", "n", "bad", "mismatch", "negative", "drop"})


class Interval(NamedTuple):
    """A figure of the sample, and the bounds of its percentile bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class AtThreshold(NamedTuple):
    """What keeping the pairs that score at least `threshold` means."""

    threshold: float
    precision: Interval  # share of good pairs among the kept; NaN if none is kept
    recall: Interval  # share of the good pairs that is kept
    kept: Interval  # share of all pairs that is kept


class HeadMetrics(NamedTuple):
    """One head's figures over n pairs."""

    pairs: int
    positives: int
    auc: Interval
    average_precision: Interval
    thresholds: tuple[AtThreshold, ...]


class _Ranking(NamedTuple):
    """n pairs by falling score. A tie group is a run of equal scores."""

    order: npt.NDArray[np.int64]  # (n,)
    good: Floats  # (n,) 1 for good pairs, in that order
    tie_starts: npt.NDArray[np.int64]  # (ties,) where each tie group begins


def parse_labels(values: Sequence[Any]) -> Bools:
    """Labels as users write them (0/1, good/bad, yes/no, ...) to booleans. ValueError names the first that is none."""
    labels = np.empty(len(values), dtype=np.bool_)
    for index, value in enumerate(values):
        labels[index] = parse_label(value, f" of row {index}")
    return labels


def parse_label(value: Any, where: str = "") -> bool:
    """One label to a boolean. ValueError where it is none."""
    text = str(value).strip().lower()
    if text not in TRUE_WORDS and text not in FALSE_WORDS:
        raise ValueError(f"label {value!r}{where} is not one of 0/1, true/false, good/bad, yes/no")
    return text in TRUE_WORDS


def evaluate_head(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    thresholds: Sequence[float] | None = None,
    *,
    groups: npt.ArrayLike | None = None,
    weights: npt.ArrayLike | None = None,
    strata: npt.ArrayLike | None = None,
    resamples: int = 1_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> HeadMetrics:
    """All figures of n pairs: labels (n,) true for good pairs, scores (n,) finite, higher for better.

    thresholds: None: those that keep `RECALLS` of the good pairs. groups: (n,) any values; None: each pair is its own group.
    weights: (n,) positive, the inverse of each pair's chance to be in the sample; None: all alike. strata: (n,) any values:
    pairs are resampled within them (and groups must lie within them); None: all in one.
    Raises ValueError for lengths that differ, scores that are not finite, labels all of one kind, weights that are not
    positive, or groups in two strata.
    """
    good, values = _checked(labels, scores)
    weight = _checked_weights(weights, len(good))
    found = thresholds_for_recall(good, values, RECALLS, weight) if thresholds is None else thresholds
    cuts = np.asarray(found, dtype=np.float64)
    names = np.arange(len(good)) if groups is None else np.asarray(groups)
    layers = np.zeros(len(good)) if strata is None else np.asarray(strata)
    for what, array in (("groups", names), ("strata", layers)):
        if len(array) != len(good):
            raise ValueError(f"{len(array)} {what} for {len(good)} labels")
    ranking = _rank(good, values)
    kept = values[ranking.order] >= cuts[:, None]  # (cuts, n)
    by_rank = weight[ranking.order]
    figures = _figures(ranking, kept, by_rank[None])[0]
    samples = _bootstrap(ranking, kept, _draws(names, layers, ranking), by_rank, resamples=resamples, seed=seed)
    tail = (1 - confidence) / 2
    low, high = (np.full(len(figures), np.nan), np.full(len(figures), np.nan))
    known = ~np.isnan(samples).all(axis=0)
    low[known], high[known] = np.nanquantile(samples[:, known], (tail, 1 - tail), axis=0)
    intervals = [Interval(float(a), float(b), float(c)) for a, b, c in zip(figures, low, high, strict=True)]
    rows = [AtThreshold(float(cut), *intervals[2 + 3 * i : 5 + 3 * i]) for i, cut in enumerate(cuts)]
    return HeadMetrics(len(good), int(good.sum()), intervals[0], intervals[1], tuple(rows))


def roc_auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Probability that a good pair scores above a bad one, ties counting half. ValueError as `evaluate_head`."""
    good, values = _checked(labels, scores)
    return float(_figures(_rank(good, values), np.empty((0, len(good)), np.bool_), np.ones((1, len(good))))[0, 0])


def average_precision(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Mean over the good pairs of the precision at their scores (scikit-learn's definition). ValueError as `evaluate_head`."""
    good, values = _checked(labels, scores)
    return float(_figures(_rank(good, values), np.empty((0, len(good)), np.bool_), np.ones((1, len(good))))[0, 1])


def thresholds_for_recall(
    labels: npt.ArrayLike, scores: npt.ArrayLike, recalls: Sequence[float], weights: npt.ArrayLike | None = None
) -> list[float]:
    """For each recall in (0, 1], the highest score that keeps at least that share of the good pairs."""
    good, values = _checked(labels, scores)
    order = np.argsort(-values[good], kind="stable")
    falling, above = values[good][order], _checked_weights(weights, len(good))[good][order].cumsum()
    wanted = np.asarray(recalls) * above[-1] * (1 - 1e-12)
    return [float(falling[index]) for index in np.searchsorted(above, wanted)]


def _checked(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Bools, Floats]:
    good, values = np.asarray(labels, dtype=np.bool_), np.asarray(scores, dtype=np.float64)
    if good.ndim != 1 or good.shape != values.shape:
        raise ValueError(f"labels {good.shape} and scores {values.shape} must be one-dimensional and of one length")
    if not np.isfinite(values).all():
        raise ValueError(f"score {int(np.flatnonzero(~np.isfinite(values))[0])} is not finite")
    if good.all() or not good.any():
        raise ValueError(f"all {len(good)} labels are of one kind: good and bad pairs are both needed")
    return good, values


def _checked_weights(weights: npt.ArrayLike | None, pairs: int) -> Floats:
    found = np.ones(pairs) if weights is None else np.asarray(weights, dtype=np.float64)
    if found.shape != (pairs,):
        raise ValueError(f"weights {found.shape} for {pairs} labels")
    if not (np.isfinite(found) & (found > 0)).all():
        raise ValueError("weights must be finite and positive")
    return found


def _rank(good: Bools, values: Floats) -> _Ranking:
    order = np.argsort(-values, kind="stable")
    falling = values[order]
    return _Ranking(order, good[order].astype(np.float64), np.flatnonzero(np.r_[True, falling[1:] != falling[:-1]]))


def _figures(ranking: _Ranking, kept: Bools, weights: Floats) -> Floats:
    """Weighted figures. weights: (r, n), by rank. Gives (r, 2 + 3 cuts): AUC, AP, each cut's precision, recall, kept share."""
    good, bad = weights * ranking.good, weights * (1 - ranking.good)
    n_good, n_bad = good.sum(axis=1), bad.sum(axis=1)
    tie_good = np.add.reduceat(good, ranking.tie_starts, axis=1)
    tie_bad = np.add.reduceat(bad, ranking.tie_starts, axis=1)
    above_good, above_bad = tie_good.cumsum(axis=1), tie_bad.cumsum(axis=1)  # this tie group and those above
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample without good (or bad, or kept) pairs has no figure: NaN
        won = (tie_good * (n_bad[:, None] - above_bad + tie_bad / 2)).sum(axis=1)
        precision = above_good / (above_good + above_bad)
        columns = [won / (n_good * n_bad), np.nansum(precision * tie_good, axis=1) / n_good]
        for mask in kept:
            kept_good, kept_all = good[:, mask].sum(axis=1), weights[:, mask].sum(axis=1)
            columns += [kept_good / kept_all, kept_good / n_good, kept_all / (n_good + n_bad)]
    return np.stack(columns, axis=1)


class _Draws(NamedTuple):
    """What is resampled: groups, each within its stratum."""

    group: npt.NDArray[np.int64]  # (n,) of each pair, by rank; numbered stratum after stratum
    sizes: list[int]  # groups in each stratum


def _draws(groups: npt.NDArray[Any], strata: npt.NDArray[Any], ranking: _Ranking) -> _Draws:
    _, group = np.unique(groups, return_inverse=True)
    _, stratum = np.unique(strata, return_inverse=True)
    pairs = np.unique(np.stack([stratum, group]), axis=1)  # by stratum, then by group
    if pairs.shape[1] > group.max() + 1:
        raise ValueError("a group lies in two strata")
    number = np.empty(pairs.shape[1], np.int64)
    number[pairs[1]] = np.arange(len(number))
    return _Draws(number[group][ranking.order], np.bincount(pairs[0]).tolist())


def _bootstrap(ranking: _Ranking, kept: Bools, draws: _Draws, weights: Floats, *, resamples: int, seed: int) -> Floats:
    """(resamples, figures): the figures of samples of as many groups of each stratum, drawn with replacement."""
    rng = np.random.default_rng(seed)
    at_a_time = max(1, CHUNK_CELLS // len(weights))
    parts = []
    for start in range(0, resamples, at_a_time):
        rows = min(at_a_time, resamples - start)
        counts = np.concatenate([_counts(rng.integers(0, size, (rows, size))) for size in draws.sizes], axis=1)
        parts.append(_figures(ranking, kept, counts[:, draws.group] * weights))
    return np.concatenate(parts)


def _counts(draws: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How often each of `size` groups was drawn: (rows, size) of (rows, size)."""
    return np.stack([np.bincount(draw, minlength=draws.shape[1]) for draw in draws])
