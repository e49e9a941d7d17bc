"""How often an interval for the threshold of a wanted precision holds the true one: the inverted test, and the bootstrap.

    python benchmarks/coverage.py --simulations 500

Scores as itm_score's (two humps), a known chance to be good at every score, labels drawn at random from it. `bootstrap`
resamples the labels within their strata and takes percentiles of the threshold; capsieve doesn't, and the table says why.
"""

from __future__ import annotations

import argparse
import sys
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from harness import publish

from pipeline.calibration.sample import cut_strata, draw
from pipeline.calibration.threshold import threshold_for_precision

ROWS = 100_000
RESAMPLES = 200
Floats = npt.NDArray[np.float64]


class Ends(NamedTuple):
    low: float
    high: float


def bootstrap(
    good: npt.NDArray[np.bool_], scores: Floats, precision: float, weights: Floats, strata: Floats, seed: int
) -> Ends:
    """The percentile bootstrap's interval of the threshold, 95 %."""
    rng = np.random.default_rng(seed)
    order = np.argsort(-scores)
    counts = np.zeros((RESAMPLES, len(scores)))
    for stratum in np.unique(strata):
        (inside,) = np.nonzero(strata[order] == stratum)
        counts[:, inside] = rng.multinomial(len(inside), np.full(len(inside), 1 / len(inside)), RESAMPLES)
    counts *= weights[order]
    kept, kept_good = counts.cumsum(axis=1), (counts * good[order]).cumsum(axis=1)
    reached = (kept_good >= precision * kept - 1e-9) & (counts > 0)
    last = len(scores) - 1 - np.argmax(reached[:, ::-1], axis=1)
    found = np.where(reached.any(axis=1), scores[order][last], np.inf)
    return Ends(*np.quantile(found, (0.025, 0.975), method="inverted_cdf"))


class World(NamedTuple):
    """Rows by rising score, and the chance that each is good."""

    scores: Floats
    chance: Floats
    above: Floats  # the precision of the rows from each on


def world() -> World:
    """Most scores near 0 and 1, as itm_score's are; half of the rows good."""
    scores = np.sort(np.random.default_rng(0).beta(0.3, 0.3, ROWS))
    chance = 0.05 + 0.93 * scores**1.2
    return World(scores, chance, chance[::-1].cumsum()[::-1] / np.arange(ROWS, 0, -1))


def measure(rows: World, design: str, precision: float, count: int, simulations: int) -> list[str]:
    """One row of the table."""
    strata = cut_strata(rows.scores, 1 if design == "random" else 10, "widths" if design == "widths" else "quantiles")
    sizes = np.array([len(part) for part in strata])
    truth = float(rows.scores[np.searchsorted(rows.above, precision)])
    tested, resampled = [], []
    for seed in range(simulations):
        drawn = draw(strata, count, seed)
        good = np.random.default_rng([seed, 1]).random(len(drawn.rows)) < rows.chance[drawn.rows]
        weights = (sizes / np.bincount(drawn.stratum))[drawn.stratum]
        values, layers = rows.scores[drawn.rows], drawn.stratum
        choice = threshold_for_precision(good, values, precision, weights=weights, strata=layers)
        low = -np.inf if choice.low is None else choice.low
        tested.append(Ends(low, np.inf if choice.high is None else choice.high))
        resampled.append(bootstrap(good, values, precision, weights, layers.astype(np.float64), seed))
    open_ended = np.mean([np.isinf(ends.high) for ends in tested])
    width = np.median([ends.high - ends.low for ends in tested])
    shares = [f"{share(ends, truth):.1%}" for share in (_covered, _too_low) for ends in (tested, resampled)]
    cells = [
        design,
        str(precision),
        str(count),
        *shares,
        f"{open_ended:.0%}",
        f"{width:.2f}" if np.isfinite(width) else "no end",
    ]
    print(" ".join(cells), file=sys.stderr, flush=True)
    return cells


def main() -> None:
    """Measure, print and publish the table."""
    parser = argparse.ArgumentParser(description="Coverage of intervals for the threshold of a wanted precision.")
    parser.add_argument("--simulations", type=int, default=500)
    simulations, rows = parser.parse_args().simulations, world()
    cells = [
        measure(rows, design, precision, count, simulations)
        for design in ("random", "quantiles", "widths")
        for precision in (0.8, 0.9, 0.95)
        for count in (200, 400, 1_000)
    ]
    header = [
        "drawn",
        "precision",
        "labels",
        "test holds the truth",
        "bootstrap does",
        "test's upper end too low",
        "bootstrap's",
    ]
    publish("coverage", [*header, "test without upper end", "median width"], cells, {"simulations": simulations})


def _covered(intervals: list[Ends], truth: float) -> float:
    return float(np.mean([low <= truth <= high for low, high in intervals]))


def _too_low(intervals: list[Ends], truth: float) -> float:
    return float(np.mean([high < truth for _, high in intervals]))


if __name__ == "__main__":
    main()
