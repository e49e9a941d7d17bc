"""Whether a night looks like those before it: how far away it is, how far nights usually are, from where on that is an alarm.

A measure is an effect size, not a p-value: with a million rows every difference is significant, and few matter. A night drifts
in a measure when this exceeds all of three limits (docs/nightly.md tells where they come from):

    what the settings let pass               `Tolerance`, in the measure's own unit
    what nights of the history differ by     each is measured against the others; their root mean square, times Student's t
    what so few rows differ by, by chance    Smirnov's limit, chi-squared's, Bernstein's

Pure arithmetic over `profiles`; knows nothing of files or of what follows from an alarm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.profiles import RANGES, BinCounts, Profile
from pipeline.schema import Status

PSI_BINS = 10  # deciles of the history, as is usual
FAILURES = tuple(status.value for status in Status if status is not Status.SUCCESS)

Floats = npt.NDArray[np.float64]


class Tolerance(Protocol):
    """What is let pass: the part of `NightlyConfig` that comparing needs."""

    @property
    def ks(self) -> float: ...
    @property
    def psi(self) -> float: ...
    @property
    def failures(self) -> float: ...
    @property
    def host(self) -> float: ...
    @property
    def rows(self) -> float: ...
    @property
    def false_alarms(self) -> float: ...


class Finding(NamedTuple):
    """One measure of a night, beside what is usual and what is let pass."""

    measure: str  # ks, psi, failures, host, rows; or model, of what cannot be measured
    what: str  # a score, a status, a host
    value: float
    usual: float  # of the history, in the same unit: the root mean square of distances, the mean of shares and rows
    limit: float
    drifted: bool
    text: str

    def as_json(self) -> dict[str, Any]:
        """For files and webhooks."""
        return self._asdict()


def compare(night: Profile, history: Sequence[Profile], tolerance: Tolerance) -> list[Finding]:
    """Every measure of a night against at least two nights before it; those that drifted most come first."""
    if len(history) < 2:
        raise ValueError(f"a night is compared with at least two others, not {len(history)}")
    found = [_rows(night, history, tolerance)]
    for name in RANGES:
        found += _scores(name, night, history, tolerance)
    found += [_failures(status, night, history, tolerance) for status in FAILURES]
    found += _hosts(night, history, tolerance)
    return sorted(found, key=lambda one: not one.drifted)


# ------------------------------------------------------------------ distributions


def ks_distance(counts: npt.NDArray[Any], reference: npt.NDArray[Any]) -> Floats:
    """Kolmogorov-Smirnov distance of binned samples: (..., bins), (..., bins) -> (...), in [0, 1]; 0 where one is empty."""
    distance = np.abs(_cumulative(counts) - _cumulative(reference)).max(axis=-1)
    empty = (counts.sum(axis=-1) == 0) | (reference.sum(axis=-1) == 0)
    return np.asarray(np.where(empty, 0.0, distance))


def _cumulative(counts: npt.NDArray[Any]) -> Floats:
    total = np.maximum(counts.sum(axis=-1, keepdims=True), 1)
    return np.asarray(np.cumsum(counts, axis=-1) / total)


def psi(counts: npt.NDArray[Any], reference: npt.NDArray[Any]) -> Floats:
    """Population stability index, sum of (p - q) ln(p / q) over bins: (..., bins), (..., bins) -> (...).

    Half a row is added to every bin, so that an empty one has a logarithm.
    """
    p, q = counts + 0.5, reference + 0.5
    p, q = p / p.sum(axis=-1, keepdims=True), q / q.sum(axis=-1, keepdims=True)
    return np.asarray(((p - q) * np.log(p / q)).sum(axis=-1))


def decile_starts(reference: BinCounts) -> npt.NDArray[np.int64]:
    """First bins of `PSI_BINS` groups that hold about the same share of the reference each; fewer where bins are that full."""
    ends = np.searchsorted(_cumulative(reference), np.arange(1, PSI_BINS) / PSI_BINS) + 1
    return np.unique(np.concatenate([[0], ends[ends < len(reference)]]))


def _scores(name: str, night: Profile, history: Sequence[Profile], tolerance: Tolerance) -> list[Finding]:
    counts = night.histograms[name]
    nights = np.stack([one.histograms[name] for one in history])  # (nights, bins)
    pooled = nights.sum(axis=0)
    n, m = int(counts.sum()), int(pooled.sum())
    if n == 0 or m == 0:
        return []  # no row was scored: the shares of failures say so
    t, alpha = _student(tolerance, len(history)), tolerance.false_alarms
    distance = float(ks_distance(counts, pooled))
    usual = _rms(ks_distance(nights, pooled - nights))
    # Smirnov (1948): the asymptotic limit of two samples
    chance = math.sqrt(-math.log(alpha / 2) / 2) * math.sqrt(1 / n + 1 / m)
    limit = min(1.0, max(tolerance.ks, t * usual, chance))
    text = f"{name} moved by KS {distance:.3f} (usually {usual:.3f}, limit {limit:.3f})"
    found = [Finding("ks", name, distance, usual, limit, distance > limit, text)]

    starts = decile_starts(pooled)
    grouped = np.add.reduceat(nights, starts, axis=1)
    index = float(psi(np.add.reduceat(counts, starts), grouped.sum(axis=0)))
    # the index grows with the square of a shift: what is said of distances holds for its root
    usual = float(psi(grouped, grouped.sum(axis=0) - grouped).mean())
    # Yurdakul and Naranjo (2020): of two samples alike, index / (1/n + 1/m) is chi-squared with bins - 1 degrees of freedom
    chance = _chi_squared(len(starts) - 1, alpha) * (1 / n + 1 / m)
    limit = max(tolerance.psi, t**2 * usual, chance)
    text = f"{name} has PSI {index:.3f} (usually {usual:.3f}, limit {limit:.3f})"
    return [*found, Finding("psi", name, index, usual, limit, index > limit, text)]


# ------------------------------------------------------------------ shares and counts


def _failures(status: str, night: Profile, history: Sequence[Profile], tolerance: Tolerance) -> Finding:
    """A rise of a status's share of the rows; that fewer rows fail is no alarm."""
    before = [one.by_status[status] for one in history]
    share, usual, limit = _rise(
        night.by_status[status], before, night, history, let_pass=tolerance.failures, alpha=tolerance.false_alarms
    )
    reason = night.main_reason(status)
    text = f"{status} {share:.1%} of the rows{f', mostly {reason}' if reason else ''} (usually {usual:.1%}, limit {limit:.1%})"
    return Finding("failures", status, share, usual, limit, share > limit, text)


def _hosts(night: Profile, history: Sequence[Profile], tolerance: Tolerance) -> list[Finding]:
    """The hosts at which a larger share of the night's rows failed than is let pass; others are not worth a line."""
    found = []
    alpha = tolerance.false_alarms / max(1, len(night.failures))  # Bonferroni: all hosts together are one measure
    for host, failed in night.failures.items():
        before = [one.failures.get(host, 0) for one in history]
        share, usual, limit = _rise(failed, before, night, history, let_pass=tolerance.host, alpha=alpha)
        if share > limit:
            text = f"{host[:100]} failed {failed:,} rows, {share:.1%} of all (usually {usual:.1%}, limit {limit:.1%})"
            found.append(Finding("host", host, share, usual, limit, True, text))
    return found


class _Rise(NamedTuple):
    share: float
    usual: float
    limit: float


def _rise(
    count: int, before: Sequence[int], night: Profile, history: Sequence[Profile], *, let_pass: float, alpha: float
) -> _Rise:
    counts = np.array(before, np.float64)
    rows = np.array([one.rows for one in history], np.float64)
    shares = counts / np.maximum(rows, 1)
    usual = float(shares.mean())
    others = (shares.sum() - shares) / (len(shares) - 1)
    spread = student_t(len(history) - 1, alpha) * _rms(shares - others)
    # Bernstein's inequality, which holds for rare failures as well; one row and one failure more, so that no variance is zero
    expected = (counts.sum() + 1) / (rows.sum() + 2)
    per_row = math.log(2 / alpha) * (1 / max(1, night.rows) + 1 / max(1.0, float(rows.sum())))
    chance = math.sqrt(2 * expected * (1 - expected) * per_row) + per_row / 3
    return _Rise(count / max(1, night.rows), usual, min(1.0, usual + max(let_pass, spread, chance)))


def _rows(night: Profile, history: Sequence[Profile], tolerance: Tolerance) -> Finding:
    """Rows of a night against the geometric mean of the history, as a factor; a night without rows is always an alarm."""
    logs = np.log([max(1, one.rows) for one in history])
    others = (logs.sum() - logs) / (len(logs) - 1)
    usual = math.exp(float(logs.mean()))
    limit = math.exp(max(math.log(tolerance.rows), _student(tolerance, len(history)) * _rms(logs - others)))
    factor = max(night.rows / usual, usual / max(night.rows, 1))
    text = f"{night.rows:,} rows (usually {usual:,.0f}, limits {usual / limit:,.0f} and {usual * limit:,.0f})"
    return Finding("rows", "rows", float(night.rows), usual, limit, factor > limit or night.rows == 0, text)


# ------------------------------------------------------------------ limits


def _rms(values: Floats) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _student(tolerance: Tolerance, nights: int) -> float:
    return student_t(nights - 1, tolerance.false_alarms)


def student_t(freedom: int, alpha: float) -> float:
    """The value that Student's t exceeds in size with probability alpha.

    Exact for one and two degrees of freedom; beyond, Gaver and Kafadar, "A retrievable recipe for inverse t" (The American
    Statistician 38, 1984), within 3 % where alpha is at least 0.001.
    """
    if freedom == 1:
        return 1 / math.tan(math.pi * alpha / 2)
    if freedom == 2:
        return (1 - alpha) * math.sqrt(2 / (alpha * (2 - alpha)))
    z = NormalDist().inv_cdf(1 - alpha / 2)
    return math.sqrt(freedom * (math.exp(z * z * (freedom - 1.5) / (freedom - 1) ** 2) - 1))


def _chi_squared(freedom: int, alpha: float) -> float:
    """The value that chi-squared exceeds with probability alpha (Wilson and Hilferty, 1931)."""
    if freedom == 0:
        return 0.0
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + NormalDist().inv_cdf(1 - alpha) * math.sqrt(spread)) ** 3


def drifted(findings: Sequence[Finding]) -> list[Finding]:
    """The findings that are an alarm."""
    return [finding for finding in findings if finding.drifted]


def model_change(difference: str) -> Finding:
    """A night that another model, or another setting of it, scored than those before it."""
    return Finding("model", "model", 1.0, 0.0, 0.0, True, f"model swapped: {difference}")
