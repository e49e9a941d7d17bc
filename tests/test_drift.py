"""Drift: no alarm on quiet nights, an alarm on what must not pass, and the arithmetic against references."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.config import Config
from pipeline.drift import Finding, compare, decile_starts, drifted, ks_distance, psi, student_t
from pipeline.nightly_settings import NightlyConfig
from pipeline.profiles import BINS, RANGES, Histograms, Profile, bin_counts, profile_of
from pipeline.tallies import Tally
from tests.nights import QUIET, SHUFFLED, SWAPPED, Weather

DEFAULTS = Config().nightly
SEEDS = range(100)


def judge(night: Weather, seed: int, *, history: Weather = QUIET, settings: NightlyConfig = DEFAULTS) -> list[Finding]:
    """What drifted on a night after so many quiet ones as the settings ask for."""
    rng = np.random.default_rng(seed)
    before = [history.draw(rng) for _ in range(settings.history)]
    return drifted(compare(night.draw(rng), before, settings))


def measures(findings: list[Finding]) -> set[tuple[str, str]]:
    return {(finding.measure, finding.what) for finding in findings}


# ------------------------------------------------------------------ what must and what must not alarm


@pytest.mark.parametrize("rows", [1_000_000, 20_000])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_hundred_quiet_nights_in_a_row_are_quiet(rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    nights = [replace(QUIET, rows=rows).draw(rng) for _ in range(DEFAULTS.history + 100)]
    judged = range(DEFAULTS.history, len(nights))
    alarms = [n for n in judged if drifted(compare(nights[n], nights[n - DEFAULTS.history : n], DEFAULTS))]
    assert len(alarms) <= 2


def test_the_first_weeks_are_quiet_as_well() -> None:
    rng = np.random.default_rng(2)
    nights = [QUIET.draw(rng) for _ in range(DEFAULTS.history)]
    judged = range(DEFAULTS.min_history, len(nights))
    assert [n for n in judged if drifted(compare(nights[n], nights[:n], DEFAULTS))] == []


def test_captions_shuffled_in_a_tenth_of_the_rows_alarm() -> None:
    found = [measures(judge(SHUFFLED, seed)) for seed in SEEDS]
    assert sum(map(bool, found)) >= 99, "of 100 seeds"
    assert sum(("ks", "itm_logit") in one for one in found) >= 99


def test_another_calibration_of_the_same_pairs_alarms() -> None:
    found = [measures(judge(SWAPPED, seed)) for seed in SEEDS]
    assert all(("ks", "itm_logit") in one for one in found)


@pytest.mark.parametrize("host", ["h0.example", "h4.example"])  # with 10 and with 5 % of the rows
def test_a_host_that_is_gone_alarms_by_its_name(host: str) -> None:
    found = [measures(judge(replace(QUIET, gone=host), seed)) for seed in SEEDS]
    assert all(("host", host) in one for one in found)
    assert {what for one in found for measure, what in one if measure == "host"} == {host}


@pytest.mark.parametrize(("rows", "alarm"), [(0.3, True), (0.7, False), (1.5, False), (3.5, True)])
def test_rows_alarm_beyond_a_factor_of_two(rows: float, alarm: bool) -> None:
    found = measures(judge(replace(QUIET, rows=int(rows * QUIET.rows)), 0))
    assert (("rows", "rows") in found) is alarm


def test_nights_that_vary_much_raise_their_own_limits() -> None:
    wild = replace(QUIET, share_deviation=0.05)
    assert sum(bool(judge(wild, seed, history=wild)) for seed in SEEDS) <= 2
    assert not judge(replace(wild, share_deviation=0.0, shuffled=0.1), 0, history=wild), "the history is as bad"
    assert judge(wild, 0, history=QUIET) or judge(wild, 1, history=QUIET)


def test_a_few_rows_are_no_evidence() -> None:
    small = replace(QUIET, rows=100)
    assert sum(bool(judge(small, seed, history=small)) for seed in SEEDS) <= 2


def test_a_night_without_rows_and_a_night_without_scores_alarm() -> None:
    rng = np.random.default_rng(0)
    before = [QUIET.draw(rng) for _ in range(5)]
    nothing = {name: np.zeros(BINS, np.int64) for name in RANGES}
    assert ("rows", "rows") in measures(drifted(compare(Profile(Counter(), {}, nothing), before, DEFAULTS)))
    failed = Profile(Counter({("failed_to_download", "dns"): before[0].rows}), {}, nothing)
    (finding,) = drifted(compare(failed, before, DEFAULTS))
    assert "failed_to_download 100.0% of the rows, mostly dns" in finding.text


def test_findings_that_drifted_come_first_and_say_by_how_much() -> None:
    rng = np.random.default_rng(0)
    before = [QUIET.draw(rng) for _ in range(DEFAULTS.history)]
    findings = compare(SHUFFLED.draw(rng), before, DEFAULTS)
    assert [finding.drifted for finding in findings] == sorted((finding.drifted for finding in findings), reverse=True)
    first = findings[0]
    assert first.value > first.limit > first.usual
    assert f"KS {first.value:.3f} (usually {first.usual:.3f}, limit {first.limit:.3f})" in first.text


def test_one_night_is_no_history() -> None:
    night = QUIET.draw(np.random.default_rng(0))
    with pytest.raises(ValueError, match="at least two others, not 1"):
        compare(night, [night], DEFAULTS)


# ------------------------------------------------------------------ arithmetic


@given(st.integers(0, 2**32 - 1), st.integers(1, 2_000), st.integers(1, 2_000))
def test_ks_of_bins_is_that_of_the_values_up_to_a_bin(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 3, n).astype(np.float32), rng.normal(1, 2, m).astype(np.float32)
    x, y = bin_counts("itm_logit", a), bin_counts("itm_logit", b)
    exact = stats.ks_2samp(a, b).statistic
    assert float(ks_distance(x, y)) <= exact + 1e-9, "of values that share a bin, the order is lost"
    assert float(ks_distance(x, y)) >= exact - max(x.max() / n, y.max() / m) - 1e-9
    assert float(ks_distance(x, x)) == 0


def test_psi_is_its_definition_and_of_alike_samples_chi_squared() -> None:
    p, q = np.array([300, 500, 200]), np.array([2_000, 6_000, 2_000])
    wanted = sum((a - b) * math.log(a / b) for a, b in zip(p / 1_000, q / 10_000, strict=True))
    assert float(psi(p, q)) == pytest.approx(wanted, rel=0.01)
    assert np.isfinite(psi(np.array([10, 0]), np.array([0, 10])))
    rng = np.random.default_rng(0)
    n, m = 5_000, 20_000
    indices = psi(rng.multinomial(n, [0.1] * 10, 4_000), rng.multinomial(m, [0.1] * 10, 4_000)) / (1 / n + 1 / m)
    assert stats.kstest(indices, stats.chi2(9).cdf).pvalue > 0.001


@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.001])
@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 8, 27, 200])
def test_student_against_scipy(freedom: int, alpha: float) -> None:
    assert student_t(freedom, alpha) == pytest.approx(stats.t.isf(alpha / 2, freedom), rel=0.03)


def test_deciles_of_a_saturated_score_are_fewer() -> None:
    spread = np.zeros(BINS, np.int64)
    spread[100:110] = 10
    assert decile_starts(spread).tolist() == [0, *range(101, 110)]
    saturated = np.zeros(BINS, np.int64)
    saturated[0], saturated[-1] = 30, 70
    assert decile_starts(saturated).tolist() == [0, 1]


# ------------------------------------------------------------------ profiles


def test_a_stream_of_batches_gives_the_histogram_of_all() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 10, 10_000).astype(np.float32)
    histograms = Histograms()
    for start in range(0, 10_000, 999):
        histograms.add("itm_logit", pa.array(values[start : start + 999]))
    inside = np.histogram(values, BINS, RANGES["itm_logit"])[0]
    found = histograms.counts["itm_logit"]
    assert found.sum() == 10_000
    assert np.array_equal(found[1:-1], inside[1:-1]), "and what lies beyond is in the outermost"


def test_nulls_and_nan_are_not_counted_and_lists_are_captions() -> None:
    histograms = Histograms()
    histograms.add("itc_similarity", pa.array([0.5, None, float("nan"), -2.0, 1.0], pa.float32()))
    histograms.add("itc_similarity", pa.array([[0.5, 0.5, None], None, []], pa.list_(pa.float32())))
    found = histograms.counts["itc_similarity"]
    assert {int(n): int(found[n]) for n in np.flatnonzero(found)} == {0: 1, 3 * BINS // 4: 3, BINS - 1: 1}


def test_a_profile_survives_its_file_and_others_are_refused() -> None:
    profile = profile_of(
        Counter({("success", None): 5, ("failed_to_decode", "svg"): 2}),
        Tally({("a.example", "timeout"): 2, ("a.example", "dns"): 1, ("b.example", "dns"): 1}),
        {name: bin_counts(name, np.array([0.1, 0.9])) for name in RANGES},
    )
    assert profile.failures == {"a.example": 3, "b.example": 1}
    text = json.loads(json.dumps(profile.as_json()))
    again = Profile.from_json(text)
    assert (again.counts, again.failures) == (profile.counts, profile.failures)
    assert all(np.array_equal(again.histograms[name], profile.histograms[name]) for name in RANGES)
    text["histograms"]["itm_logit"]["high"] = 20.0
    with pytest.raises(ValueError, match="other bins of itm_logit"):
        Profile.from_json(text)
