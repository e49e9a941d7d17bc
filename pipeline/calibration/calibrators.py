"""Scores to probabilities that a row is good: isotonic or Platt calibration, fitted to labels, applied, saved as JSON.

Isotonic: pool adjacent violators (Ayer et al. 1955, Annals of Mathematical Statistics 26), the closest rising function;
straight lines between the scores where it was fitted, as scikit-learn draws them. Platt: a logistic curve, for few labels
(Platt 1999, targets smoothed by Bayes' rule), by Newton's method with a line search (Lin, Lin and Weng 2007, Machine
Learning 68). Knows nothing of rows, labels' files or thresholds.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from pipeline import storage
from pipeline.config import StorageConfig
from pipeline.errors import ConfigError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Method = Literal["isotonic", "platt"]

FORMAT = "capsieve calibration 1"
SATURATED = 2.0**-24  # half of float32's last digit below 1: how far itm_score is taken to be from 0 and 1
NEWTON_STEPS = 100
HALVINGS = 30  # of one Newton step
RIDGE = 1e-12  # on the Hessian's diagonal, as in Lin, Lin and Weng
STOP_GRADIENT = 1e-9


class Steps(NamedTuple):
    """A rising function, by k points of it."""

    scores: Floats  # (k,) rising
    probabilities: Floats  # (k,) not falling


class Sigmoid(NamedTuple):
    """1 / (1 + exp(-(slope * x + intercept)))."""

    slope: float
    intercept: float


@dataclass(frozen=True)
class Calibration:
    """A fitted calibration of one score column."""

    method: Method
    column: str  # whose scores it takes: itm_score, itm_logit or itc_similarity
    scores: tuple[float, ...] = ()  # isotonic: points of the curve
    probabilities: tuple[float, ...] = ()
    slope: float = 0.0  # Platt's; of itm_score's logit, of other scores themselves
    intercept: float = 0.0
    provenance: dict[str, Any] = field(default_factory=dict)  # model, counts, versions

    def apply(self, scores: npt.ArrayLike) -> Floats:
        """P(good) of scores of any shape; NaN where the score is."""
        values = np.asarray(scores, np.float64)
        if self.method == "isotonic":
            return np.where(np.isnan(values), np.nan, np.interp(values, self.scores, self.probabilities))
        return _logistic(self.slope * _feature(values, self.column) + self.intercept)


def fit_calibration(
    method: Method, column: str, labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> Calibration:
    """Fit to n rows: labels (n,) true for good, scores (n,) finite, weights (n,) positive or None for all alike."""
    good, values = np.asarray(labels, np.bool_), np.asarray(scores, np.float64)
    weight = np.ones(len(good)) if weights is None else np.asarray(weights, np.float64)
    if method == "isotonic":
        steps = pool_adjacent_violators(values, good.astype(np.float64), weight)
        return Calibration(method, column, tuple(steps.scores.tolist()), tuple(steps.probabilities.tolist()))
    curve = platt(_feature(values, column), good, weight)
    return Calibration(method, column, slope=curve.slope, intercept=curve.intercept)


def pool_adjacent_violators(x: Floats, y: Floats, weights: Floats) -> Steps:
    """The function of x, rising, with the smallest weighted sum of squares to y (all (n,)); first and last x of each level."""
    points, index = np.unique(x, return_inverse=True)  # equal scores have one value
    weight = np.bincount(index, weights)
    means = np.bincount(index, weights * y) / weight
    levels: list[tuple[float, float, int, int]] = []  # mean, weight, first and last point
    for point, (mean, mass) in enumerate(zip(means.tolist(), weight.tolist(), strict=True)):
        first = point
        while levels and levels[-1][0] >= mean:
            above, more, first, _ = levels.pop()
            mean, mass = (above * more + mean * mass) / (more + mass), more + mass
        levels.append((mean, mass, first, point))
    ends = [(at, mean) for mean, _, first, last in levels for at in dict.fromkeys((first, last))]
    return Steps(points[[at for at, _ in ends]], np.clip([mean for _, mean in ends], 0.0, 1.0))


def platt(x: Floats, good: Bools, weights: Floats) -> Sigmoid:
    """The logistic curve of x (n,) with the highest weighted likelihood of Platt's smoothed targets."""
    weight = weights * (len(weights) / weights.sum())
    n_good = float(weight[good].sum())
    n_bad = len(weight) - n_good
    target = np.where(good, (n_good + 1) / (n_good + 2), 1 / (n_bad + 2))
    centre, scale = float(np.average(x, weights=weight)), float(np.std(x)) or 1.0  # for the condition of the Hessian
    features = np.stack([(x - centre) / scale, np.ones_like(x)], axis=1)
    point = np.array([0.0, np.log((n_good + 1) / (n_bad + 1))])
    loss = _loss(features @ point, target, weight)
    for _ in range(NEWTON_STEPS):
        chance = _logistic(features @ point)
        gradient = features.T @ (weight * (chance - target))
        if np.abs(gradient).max() < STOP_GRADIENT * len(x):
            break
        hessian = features.T @ (features * (weight * chance * (1 - chance))[:, None]) + RIDGE * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        for halving in range(HALVINGS):
            candidate = point - step / 2**halving
            new = _loss(features @ candidate, target, weight)
            if new <= loss - 1e-4 / 2**halving * float(gradient @ step):
                point, loss = candidate, new
                break
        else:
            break  # no further in double precision
    slope = float(point[0]) / scale
    return Sigmoid(slope, float(point[1]) - slope * centre)


def _loss(z: Floats, target: Floats, weight: Floats) -> float:
    return float((weight * (np.logaddexp(0, z) - target * z)).sum())


def _logistic(z: Floats) -> Floats:
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        return np.exp(-np.logaddexp(0, -z))


def _feature(values: Floats, column: str) -> Floats:
    """What Platt's curve is a function of: logits, because a sigmoid of probabilities fits nothing."""
    if column != "itm_score":
        return values
    inside = np.clip(values, SATURATED, 1 - SATURATED)
    return np.log(inside) - np.log1p(-inside)


# ------------------------------------------------------------------ files


def save_calibration(calibration: Calibration, url: str, config: StorageConfig) -> None:
    """Write it as JSON. Raises StorageError."""
    text = json.dumps({"format": FORMAT, **asdict(calibration)}, indent=2)
    storage.write_bytes(url, text.encode() + b"\n", config)


def load_calibration(url: str, config: StorageConfig) -> Calibration:
    """Read what `save_calibration` wrote. Raises ConfigError for a file that is something else, StorageError."""
    try:
        fields = json.loads(storage.read_bytes(url, config))
        if fields.pop("format") != FORMAT:
            raise ValueError("another format")
        for name in ("scores", "probabilities"):
            fields[name] = tuple(map(float, fields[name]))
        calibration = Calibration(**fields)
        _check(calibration)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{url} is no calibration that jobs/calibrate.py fit has saved: {error}") from None
    return calibration


def _check(calibration: Calibration) -> None:
    scores, chances = np.array(calibration.scores), np.array(calibration.probabilities)
    finite = np.isfinite([*scores, *chances, float(calibration.slope), float(calibration.intercept)]).all()
    if calibration.method not in get_args(Method) or not finite or len(scores) != len(chances):
        raise ValueError("its numbers do not fit")
    if calibration.method == "isotonic" and (not len(scores) or (np.diff(scores) <= 0).any() or (np.diff(chances) < 0).any()):
        raise ValueError("its curve does not rise")
