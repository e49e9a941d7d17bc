"""The threshold for a precision against its definition and against known truths; calibration against scikit-learn's."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.calibration import _SigmoidCalibration
from sklearn.isotonic import IsotonicRegression

from pipeline.calibration.calibrators import Calibration, fit_calibration, load_calibration, save_calibration
from pipeline.calibration.sample import allocate, cut_strata, draw
from pipeline.calibration.threshold import as_held, shortest, threshold_for_precision
from pipeline.config import StorageConfig
from pipeline.errors import ConfigError

STORE = StorageConfig()
SIMULATIONS = 200
# So many of 200 intervals of 95 % hold the truth in 99 of 100 such tests; 86 % of coverage fails in 98 of 100.
ENOUGH = int(binom.ppf(0.01, SIMULATIONS, 0.95))
Floats = npt.NDArray[np.float64]


# ------------------------------------------------------------------ the threshold


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.sampled_from([0.5, 1.0, 7.0])), min_size=1, max_size=40),
    precision=st.sampled_from([0.5, 0.75, 0.9, 0.97]),
)
def test_the_lowest_score_at_which_the_precision_is_reached(rows: list[tuple[bool, int, float]], precision: float) -> None:
    good, scores, weights = map(np.array, zip(*rows, strict=True))
    reached = [
        score
        for score in np.unique(scores)
        if weights[(scores >= score) & good].sum() >= precision * weights[scores >= score].sum() - 1e-9
    ]
    choice = threshold_for_precision(good, scores, precision, weights=weights, strata=scores // 4)
    assert choice.value == (min(reached) if reached else None)
    if choice.low is not None and choice.high is not None:
        assert choice.low <= choice.high
    for end in (choice.low, choice.high):
        assert end is None or end in scores


def test_more_labels_a_narrower_interval() -> None:
    widths = []
    for count in (200, 2_000, 20_000):
        rng = np.random.default_rng(count)
        scores = rng.random(count)
        choice = threshold_for_precision(rng.random(count) < scores, scores, 0.8)  # precision at t is (1 + t) / 2
        assert choice.low is not None
        assert choice.high is not None
        assert choice.low <= 0.6 <= choice.high
        widths.append(choice.high - choice.low)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.05


def test_ends_that_nothing_is_known_of() -> None:
    good, scores = np.array([True] * 19 + [False]), np.arange(20) / 20
    choice = threshold_for_precision(good, scores[::-1], 0.99)
    assert choice.value is not None
    assert choice.high is None, "20 rows show nothing of 99 %"
    assert threshold_for_precision(np.ones(500, np.bool_), np.arange(500), 0.5).low is None, "all rows are good enough"
    none = threshold_for_precision(np.zeros(50, np.bool_), np.arange(50), 0.5)
    assert (none.value, none.high) == (None, None)
    assert none.low is not None
    assert none.low > 40, "the few highest might be bad by chance; all others are shown to be"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (([True], [0.5], 1.0), "between 0 and 1"),
        (([True, False], [0.5], 0.9), "of one length"),
        (([], [], 0.9), "not empty"),
        (([True], [np.nan], 0.9), "finite"),
    ],
)
def test_arguments_that_make_no_sense(arguments: tuple[list[bool], list[float], float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        threshold_for_precision(*arguments)


@settings(deadline=None)
@given(st.floats(0, 1, width=32))
def test_thresholds_are_written_so_that_the_same_rows_are_kept(score: float) -> None:
    written = shortest(score)
    assert np.float32(written) == np.float32(score)
    assert len(repr(written)) <= len(repr(score))
    assert as_held(written, np.array([score])) == score


# ------------------------------------------------------------------ coverage


class World(NamedTuple):
    """A dataset whose truth is known."""

    scores: Floats  # (n,) rising
    chance: Floats  # (n,) that a row is good

    def truth(self, precision: float) -> float:
        """The lowest score at and above which the rows are good so often."""
        above = self.chance[::-1].cumsum()[::-1] / np.arange(len(self.chance), 0, -1)
        return float(self.scores[np.searchsorted(above, precision)])


def two_humps() -> World:
    """Most scores near 0 and 1, as itm_score's are; half of the rows good."""
    scores = np.sort(np.random.default_rng(0).beta(0.3, 0.3, 100_000))
    return World(scores, 0.05 + 0.93 * scores**1.2)


def one_hump() -> World:
    """As itc_similarity's; 62 % good."""
    scores = np.linspace(0, 1, 100_000)
    return World(scores, 1 / (1 + np.exp(3 - 8 * scores)))


WORLDS = {"two humps": two_humps(), "one hump": one_hump()}
DESIGNS = ("random", "quantiles", "widths")


class Outcome(NamedTuple):
    """What became of the simulations."""

    covered: int
    too_low: int  # the upper end lies below the truth: whoever trusts it gets too small a precision
    bounded: int  # both ends are known
    values: Floats
    widths: Floats


def simulate(world: World, design: str, precision: float, count: int) -> Outcome:
    truth = world.truth(precision)
    kind = "widths" if design == "widths" else "quantiles"
    strata = cut_strata(world.scores, 1 if design == "random" else 10, kind)  # type: ignore[arg-type]
    sizes = np.array([len(rows) for rows in strata])
    values, widths = [], []
    covered = too_low = bounded = 0
    for seed in range(SIMULATIONS):
        drawn = draw(strata, count, seed)
        good = np.random.default_rng([seed, 1]).random(len(drawn.rows)) < world.chance[drawn.rows]
        weights = (sizes / np.bincount(drawn.stratum))[drawn.stratum]
        choice = threshold_for_precision(good, world.scores[drawn.rows], precision, weights=weights, strata=drawn.stratum)
        low = -np.inf if choice.low is None else choice.low
        high = np.inf if choice.high is None else choice.high
        covered += low <= truth <= high
        too_low += high < truth
        bounded += bool(np.isfinite(high - low))
        values.append(np.nan if choice.value is None else choice.value)
        widths.append(high - low)
    return Outcome(covered, too_low, bounded, np.array(values), np.array(widths))


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("world", WORLDS)
def test_a_known_threshold_lies_in_its_interval_in_95_of_100(world: str, design: str) -> None:
    # of two humps, bins of equal width take few rows where most of them are: they need more labels for the same
    outcome = simulate(WORLDS[world], design, 0.9, 2_000 if (world, design) == ("two humps", "widths") else 500)
    truth = WORLDS[world].truth(0.9)
    assert outcome.covered >= ENOUGH
    assert outcome.too_low <= binom.ppf(0.99, SIMULATIONS, 0.025)
    assert outcome.bounded >= 0.9 * SIMULATIONS, "an interval without ends would hold everything"
    assert np.median(outcome.widths) < 0.3
    assert abs(np.nanmedian(outcome.values) - truth) < 0.03, "the rule finds the threshold, without a lean to either side"


@pytest.mark.parametrize(("precision", "count"), [(0.8, 200), (0.95, 200), (0.95, 1_000)])
@pytest.mark.parametrize("design", ["random", "widths"])
def test_few_labels_and_extreme_precisions_too(design: str, precision: float, count: int) -> None:
    outcome = simulate(WORLDS["two humps"], design, precision, count)
    assert outcome.covered >= ENOUGH


def test_without_their_weights_stratified_labels_mislead() -> None:
    """What weights are for: bins of equal width draw the few rows between the humps as often as the many in them."""
    world = WORLDS["two humps"]
    drawn = draw(cut_strata(world.scores, 10, "widths"), 2_000, 0)
    good = np.random.default_rng(1).random(len(drawn.rows)) < world.chance[drawn.rows]
    careless = threshold_for_precision(good, world.scores[drawn.rows], 0.9)
    assert careless.low is not None
    assert careless.low > world.truth(0.9) + 0.02


# ------------------------------------------------------------------ drawing


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=12), count=st.integers(1, 300))
def test_shares_are_as_even_as_the_bins_allow(sizes: list[int], count: int) -> None:
    shares = allocate(sizes, count)
    assert sum(shares) == min(count, sum(sizes))
    assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
    most = max(shares)
    assert all(share >= most - 1 or share == size for share, size in zip(shares, sizes, strict=True))


@settings(deadline=None)
@given(
    scores=st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.99, 1.0, np.nan]), max_size=60),
    bins=st.integers(1, 12),
    kind=st.sampled_from(["quantiles", "widths"]),
)
def test_strata_hold_every_row_with_a_score_once_and_rise(scores: list[float], bins: int, kind: str) -> None:
    held = np.array(scores, np.float32)
    strata = cut_strata(held, bins, kind)  # type: ignore[arg-type]
    rows = [row for part in strata for row in part.tolist()]
    assert sorted(rows) == np.flatnonzero(~np.isnan(held)).tolist()
    assert all(held[a] <= held[b] for a, b in pairwise(rows))
    assert len(strata) <= bins
    if kind == "quantiles" and strata:
        assert max(map(len, strata)) - min(map(len, strata)) <= 1


# ------------------------------------------------------------------ calibration

labelled_rows = st.lists(
    st.tuples(st.booleans(), st.integers(-20, 20), st.sampled_from([0.25, 1.0, 3.0])), min_size=2, max_size=60
)


@settings(max_examples=200, deadline=None)
@given(rows=labelled_rows)
def test_isotonic_is_scikit_learns(rows: list[tuple[bool, int, float]]) -> None:
    good, scores, weights = map(np.array, zip(*rows, strict=True))
    scores = scores / 10
    calibration = fit_calibration("isotonic", "itm_logit", good, scores, weights)
    reference = IsotonicRegression(out_of_bounds="clip").fit(scores, good, sample_weight=weights)
    grid = np.linspace(-3, 3, 61)
    assert calibration.apply(grid) == pytest.approx(reference.predict(grid), abs=1e-9)
    assert (np.diff(calibration.apply(grid)) >= 0).all()


@settings(max_examples=100, deadline=None)
@given(rows=labelled_rows.filter(lambda rows: len({good for good, _, _ in rows}) == 2 and len({x for _, x, _ in rows}) > 2))
def test_platts_curve_is_scikit_learns(rows: list[tuple[bool, int, float]]) -> None:
    good, scores, _ = map(np.array, zip(*rows, strict=True))
    calibration = fit_calibration("platt", "itm_logit", good, scores / 10)
    reference = _SigmoidCalibration().fit(scores / 10, good)
    grid = np.linspace(-2, 2, 41)
    assert calibration.apply(grid) == pytest.approx(reference.predict(grid), abs=2e-3)


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_known_probabilities_are_found(method: str) -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 2, 20_000)
    chance = 1 / (1 + np.exp(-(0.7 * logits - 0.5)))
    good = rng.random(len(logits)) < chance
    weights = np.where(logits > 0, 3.0, 1.0)
    grid = np.linspace(-3, 3, 25)
    wanted = 1 / (1 + np.exp(-(0.7 * grid - 0.5)))
    of_logits = fit_calibration(method, "itm_logit", good, logits, weights)  # type: ignore[arg-type]
    assert of_logits.apply(grid) == pytest.approx(wanted, abs=0.06)
    scores = 1 / (1 + np.exp(-logits))
    of_scores = fit_calibration(method, "itm_score", good, scores, weights)  # type: ignore[arg-type]
    assert of_scores.apply(1 / (1 + np.exp(-grid))) == pytest.approx(of_logits.apply(grid), abs=0.01)


def test_scores_that_separate_the_labels_or_saturate_have_finite_curves() -> None:
    scores = np.array([0.0, 1e-30, 0.2, 0.8, 1.0, 1.0])
    calibration = fit_calibration("platt", "itm_score", scores > 0.5, scores)
    chances = calibration.apply([0.0, 0.5, 1.0, np.nan])
    assert 0 < chances[0] < 0.3 < chances[1] < 0.7 < chances[2] < 1
    assert np.isnan(chances[3])


def test_a_constant_score_says_nothing() -> None:
    for method in ("isotonic", "platt"):
        calibration = fit_calibration(method, "itm_logit", [True, False, False, False], [1.0] * 4)  # type: ignore[arg-type]
        assert calibration.apply([0.9, 1.0]).tolist() == pytest.approx([0.25, 0.25], abs=0.15)


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_saved_and_loaded_it_is_the_same(method: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    scores = rng.random(300)
    calibration = fit_calibration(method, "itm_score", rng.random(300) < scores, scores)  # type: ignore[arg-type]
    save_calibration(calibration, str(tmp_path / "c.json"), STORE)
    loaded = load_calibration(str(tmp_path / "c.json"), STORE)
    assert loaded == calibration
    assert loaded.apply(scores).tolist() == calibration.apply(scores).tolist()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": "capsieve calibration 2"}', '{"format": "capsieve calibration 1", "method": "isotonic"}'],
)
def test_other_files_are_no_calibrations(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ConfigError, match=r"c\.json is no calibration"):
        load_calibration(str(tmp_path / "c.json"), STORE)


@pytest.mark.parametrize(
    ("scores", "chances"), [((0.0, 0.0), (0.1, 0.2)), ((0.0, 1.0), (0.2, 0.1)), ((0.0,), (0.1, 0.2)), ((), ())]
)
def test_curves_that_do_not_rise_are_refused(scores: tuple[float, ...], chances: tuple[float, ...], tmp_path: Path) -> None:
    save_calibration(Calibration("isotonic", "itm_score", scores, chances), str(tmp_path / "c.json"), STORE)
    with pytest.raises(ConfigError, match="is no calibration"):
        load_calibration(str(tmp_path / "c.json"), STORE)
