"""The figures against scikit-learn's, and the intervals against what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score

from pipeline import evaluate


@settings(max_examples=100, deadline=None)
@given(n=st.integers(2, 200), levels=st.integers(1, 50), seed=st.integers(0, 10_000))
def test_auc_and_ap_are_scikit_learns_with_ties(n: int, levels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < 0.4
    labels[:2] = (True, False)
    scores = rng.integers(0, levels, n) / levels  # few levels: many ties
    assert evaluate.roc_auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    assert evaluate.average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores))


def test_precision_and_recall_are_scikit_learns() -> None:
    rng = np.random.default_rng(5)
    labels, scores = rng.random(500) < 0.3, rng.random(500).round(2)
    metrics = evaluate.evaluate_head(labels, scores, thresholds=[0.25, 0.5, 0.99], resamples=10)
    for row in metrics.thresholds:
        kept = scores >= row.threshold
        assert row.precision.value == pytest.approx(precision_score(labels, kept))
        assert row.recall.value == pytest.approx(recall_score(labels, kept))
        assert row.kept.value == pytest.approx(kept.mean())


def test_thresholds_keep_the_recall_they_are_chosen_for_and_no_more() -> None:
    labels = np.array([True] * 10 + [False] * 10)
    scores = np.arange(20) / 20  # good ones: 0.00 to 0.45
    assert evaluate.thresholds_for_recall(labels, scores, [1.0, 0.9, 0.5, 0.01]) == [0.0, 0.05, 0.25, 0.45]


def test_a_threshold_above_all_scores_has_no_precision() -> None:
    row = evaluate.evaluate_head([True, False], [0.1, 0.2], thresholds=[2.0], resamples=5).thresholds[0]
    assert np.isnan(row.precision.value)
    assert np.isnan(row.precision.low)
    assert row.recall.value == 0


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    truth = 0.7602  # P(a > b) for a ~ N(1, 1), b ~ N(0, 1): Phi(1 / sqrt 2)
    covered = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        labels = np.arange(200) % 2 == 0
        auc = evaluate.evaluate_head(labels, rng.normal(labels, 1.0), [], resamples=200, seed=seed).auc
        assert auc.low <= auc.value <= auc.high
        covered += auc.low <= truth <= auc.high
    assert 88 <= covered <= 100


def test_groups_widen_the_interval_of_repeated_pairs() -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(100) % 2 == 0
    scores = rng.normal(labels, 1.0)
    group = np.arange(100) // 2
    repeated = [np.tile(values, 9) for values in (labels, scores, group)]
    once = evaluate.evaluate_head(labels, scores, [], groups=group).auc
    alone = evaluate.evaluate_head(repeated[0], repeated[1], []).auc
    together = evaluate.evaluate_head(repeated[0], repeated[1], [], groups=repeated[2]).auc
    assert together.high - together.low == pytest.approx(once.high - once.low, rel=0.1)
    assert alone.high - alone.low < 0.5 * (once.high - once.low)


def test_same_seed_same_interval() -> None:
    rng = np.random.default_rng(1)
    labels, scores = rng.random(50) < 0.5, rng.random(50)
    assert evaluate.evaluate_head(labels, scores, seed=3) == evaluate.evaluate_head(labels, scores, seed=3)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1], [False, True]),
        ([True, False], [True, False]),
        (["good", "BAD "], [True, False]),
        ([1.0, 0.0], [True, False]),
        (["yes", "no"], [True, False]),
    ],
)
def test_labels_as_users_write_them(values: list[object], expected: list[bool]) -> None:
    assert evaluate.parse_labels(values).tolist() == expected


@pytest.mark.parametrize("value", [2, "maybe", None, float("nan"), ""])
def test_a_label_that_is_none_names_its_row(value: object) -> None:
    with pytest.raises(ValueError, match="row 1"):
        evaluate.parse_labels([1, value])


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([True, True], [0.1, 0.2], "one kind"),
        ([True, False], [0.1, float("nan")], "score 1 is not finite"),
        ([True, False], [0.1], "one length"),
        ([], [], "one kind"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(labels: list[bool], scores: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate.evaluate_head(labels, scores)


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(1, 4)), min_size=2, max_size=30))
def test_a_pair_that_weighs_three_is_three_pairs(rows: list[tuple[bool, int, int]]) -> None:
    labels, scores, weights = map(np.array, zip(*[*rows, (True, 4, 1), (False, 5, 1)], strict=True))
    weighted = evaluate.evaluate_head(labels, scores, [3, 8], weights=weights, resamples=2)
    repeated = evaluate.evaluate_head(np.repeat(labels, weights), np.repeat(scores, weights), [3, 8], resamples=2)
    for one, other in zip(weighted.thresholds, repeated.thresholds, strict=True):
        for name in ("precision", "recall", "kept"):
            assert getattr(one, name).value == pytest.approx(getattr(other, name).value, nan_ok=True)
    assert weighted.auc.value == pytest.approx(repeated.auc.value)
    assert weighted.average_precision.value == pytest.approx(repeated.average_precision.value)
    wanted = evaluate.thresholds_for_recall(np.repeat(labels, weights), np.repeat(scores, weights), evaluate.RECALLS)
    assert evaluate.thresholds_for_recall(labels, scores, evaluate.RECALLS, weights) == wanted


def test_strata_are_resampled_apart() -> None:
    """How many pairs there are of each stratum is no chance: so the share kept by a threshold between two isn't either."""
    rng = np.random.default_rng(0)
    scores = np.r_[rng.random(50) / 2, 0.5 + rng.random(50) / 2]
    labels, strata = rng.random(100) < scores, np.arange(100) // 50
    weights = np.where(strata, 1.0, 9.0)
    (apart,) = evaluate.evaluate_head(labels, scores, [0.5], weights=weights, strata=strata).thresholds
    (together,) = evaluate.evaluate_head(labels, scores, [0.5], weights=weights).thresholds
    assert apart.kept == pytest.approx((0.1, 0.1, 0.1))
    assert together.kept.high - together.kept.low > 0.02
    assert apart.precision.low < apart.precision.value < apart.precision.high


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"weights": [1.0, 0.0, 1.0]}, "finite and positive"),
        ({"weights": [1.0]}, "for 3 labels"),
        ({"strata": [0, 1]}, "2 strata for 3 labels"),
        ({"groups": ["a", "a", "b"], "strata": [0, 1, 1]}, "a group lies in two strata"),
    ],
)
def test_weights_and_strata_that_make_no_sense(more: dict[str, list[float]], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        evaluate.evaluate_head([True, False, True], [0.1, 0.2, 0.3], [0.2], **more)
