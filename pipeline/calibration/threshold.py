"""The threshold for a wanted precision, and between which thresholds the true one lies.

Precision at t is the share of good rows among those that score at least t, as `jobs/filter.py` keeps them. If good rows are
no rarer at higher scores, it rises with t, and the threshold for a precision p is the lowest t at which it is at least p.
The rule: of the scores of the sample, the lowest at which the estimated precision is at least p.

The interval inverts a test, rather than resampling: the true threshold is a fixed number, so the set of all t at which the
sample does not contradict "the precision at t is p" holds it as often as the test at that one t is right. The test is
Wilson's (Wilson 1927, JASA 22) with the effective number of rows of a stratified sample (Korn and Graubard 1998, Survey
Methodology 24), which is the plain number where all rows weigh the same, and never more than the rows there are. Measured
coverage, also that of the bootstrap: docs/calibration.md.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class PrecisionThreshold(NamedTuple):
    """Keep rows that score at least `value` to have the wanted precision."""

    precision: float  # wanted
    value: float | None  # None: nowhere in the sample is it reached
    low: float | None  # None: all rows together may have that precision already
    high: float | None  # None: too few labels to show that any threshold has that precision
    confidence: float  # that the true threshold lies between low and high


class _Curve(NamedTuple):
    """k distinct scores, falling; what keeping the rows at or above each means."""

    scores: Floats  # (k,)
    excess: Floats  # (k,) weighted good rows above those that the wanted precision asks for
    deviation: Floats  # (k,) of `excess`, if the precision there is the wanted one


def threshold_for_precision(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    precision: float,
    *,
    weights: npt.ArrayLike | None = None,
    strata: npt.ArrayLike | None = None,
    confidence: float = 0.95,
) -> PrecisionThreshold:
    """The threshold for a precision in (0, 1), of n labelled rows: labels (n,) true for good, scores (n,) finite.

    weights: (n,) positive, the inverse of each row's chance to be in the sample; None: all alike. strata: (n,) any values, of
    which the sample was drawn apart; None: all in one. Raises ValueError for other arguments than these.
    """
    if not 0 < precision < 1:
        raise ValueError(f"a precision lies between 0 and 1, not {precision:g}")
    good, values = np.asarray(labels, np.bool_), np.asarray(scores, np.float64)
    weight = np.ones(len(good)) if weights is None else np.asarray(weights, np.float64)
    layers = np.zeros(len(good)) if strata is None else np.asarray(strata)
    if good.ndim != 1 or not len(good) or not good.shape == values.shape == weight.shape == layers.shape:
        raise ValueError(f"labels {good.shape}, scores, weights and strata must be one-dimensional, of one length, not empty")
    if not np.isfinite(values).all() or not (np.isfinite(weight) & (weight > 0)).all():
        raise ValueError("scores must be finite, weights finite and positive")
    curve = _curve(good, values, weight, layers, precision)
    reached = np.flatnonzero(curve.excess >= -1e-12 * weight.sum())  # 9 good of 10 are 0.9, whatever rounding says
    value = float(curve.scores[reached[-1]]) if len(reached) else None
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    return PrecisionThreshold(precision, value, _low(curve, z), _high(curve, z), confidence)


def _low(curve: _Curve, z: float) -> float | None:
    """Where the precision is just shown to be too small; everything lower is not worth a look."""
    possible = np.flatnonzero(curve.excess >= -z * curve.deviation)
    first_too_low = int(possible[-1]) + 1 if len(possible) else 0
    return float(curve.scores[first_too_low]) if first_too_low < len(curve.scores) else None


def _high(curve: _Curve, z: float) -> float | None:
    """The highest threshold that may still have too small a precision, below the one where most speaks for the opposite.

    Further up few rows are left and nothing can be shown of any threshold; the true one isn't there, because the excess of
    good rows falls, from its peak down, until it is 0 at the true threshold.
    """
    peak = int(np.argmax(curve.excess))
    if curve.excess[peak] <= z * curve.deviation[peak]:
        return None
    possible = peak + np.flatnonzero(curve.excess[peak:] <= z * curve.deviation[peak:])
    return float(curve.scores[possible[0]]) if len(possible) else float(curve.scores[-1])


def _curve(good: Bools, values: Floats, weight: Floats, strata: npt.NDArray[np.generic], precision: float) -> _Curve:
    order = np.argsort(-values, kind="stable")
    values, good, weight = values[order], good[order], weight[order]
    last = np.flatnonzero(np.r_[values[1:] != values[:-1], True])  # of each run of equal scores: they are kept together
    kept_good, kept = np.cumsum(weight * good)[last], np.cumsum(weight)[last]
    share = kept_good / kept
    squares = np.cumsum(weight**2)[last]
    variance = _variance(good, weight, np.unique(strata, return_inverse=True)[1][order], last, share)
    plain = kept**2 / squares  # rows that weigh the same and tell as much; Kish 1965
    with np.errstate(divide="ignore", invalid="ignore"):
        effective = np.where(variance > 1e-12 * squares, share * (1 - share) * kept**2 / variance, plain)
    effective = np.minimum(effective, last + 1)
    return _Curve(values[last], kept_good - precision * kept, kept * np.sqrt(precision * (1 - precision) / effective))


def _variance(good: Bools, weight: Floats, stratum: npt.NDArray[np.intp], last: npt.NDArray[np.intp], share: Floats) -> Floats:
    """(k,) of weighted good rows minus `share` of the kept ones: each stratum is a sample of its own, with replacement."""
    total = np.zeros(len(last))
    for number in range(int(stratum.max()) + 1):
        inside = stratum == number
        rows = int(inside.sum())
        of_good, of_bad = inside * good * weight, inside * ~good * weight
        plus, minus = np.cumsum(of_good)[last], np.cumsum(of_bad)[last]
        squares = (1 - share) ** 2 * np.cumsum(of_good**2)[last] + share**2 * np.cumsum(of_bad**2)[last]
        mean = ((1 - share) * plus - share * minus) ** 2 / rows
        total += (squares - mean) * rows / (rows - 1) if rows > 1 else squares
    return total


def shortest(score: float) -> float:
    """The decimal number with the fewest digits that is this score in float32: a filter given it keeps the same rows."""
    single = np.float32(score)
    return float(str(single)) if float(single) == score else score


def as_held(threshold: float, scores: Floats) -> float:
    """The threshold in the precision of the scores, as the filter compares them: 0.7 keeps what float32 holds for 0.7."""
    single = bool((scores.astype(np.float32) == scores).all())
    return float(np.float32(threshold)) if single else threshold
