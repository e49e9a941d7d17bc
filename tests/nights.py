"""Nights of a web dataset, simulated: what a million rows would look like, drawn as histograms, since that is all that is kept.

Scores are those of two kinds of pairs, the caption's own image and another one, each a mixture as BLIP's heads give them:
most pairs are told clearly, some are not. Nights differ by their rows (+-20 %), by their share of true captions, by a little in
every mean (other topics), and by how many rows fail at each host.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from pipeline.profiles import BINS, RANGES, BinCounts, Profile

ROWS = 1_000_000
TRUE_SHARE = 0.65
HOSTS = {f"h{number}.example": 0.4 / (number + 4) for number in range(40)}  # shares of the rows: 10 % down to 1 %


@dataclass(frozen=True)
class Kind:
    """A component of a score: (weight, mean, standard deviation) each."""

    parts: tuple[tuple[float, float, float], ...]

    def density(self, name: str, shift: float, scale: float = 1.0) -> npt.NDArray[np.float64]:
        """(BINS,) probabilities of `scale * score + shift`."""
        edges = np.linspace(*RANGES[name], BINS + 1)
        total = np.zeros(BINS + 1)
        for weight, mean, deviation in self.parts:
            total += weight * ndtr((edges - scale * mean - shift) / (scale * deviation))
        return np.diff(total) / (total[-1] - total[0])


TRUE = {
    "itm_logit": Kind(((0.85, 4.5, 1.5), (0.15, 0.5, 2.5))),
    "itc_similarity": Kind(((1.0, 0.42, 0.07),)),
}
FALSE = {
    "itm_logit": Kind(((0.85, -5.0, 1.8), (0.15, -0.5, 2.5))),
    "itc_similarity": Kind(((1.0, 0.22, 0.08),)),
}
TOPICS = {"itm_logit": 0.03, "itc_similarity": 0.002}  # standard deviation of a night's means


@dataclass(frozen=True)
class Weather:
    """What a night is like; the default varies as a quiet night does."""

    rows: int = ROWS
    share_deviation: float = 0.005  # of the share of true captions: half a point
    shuffled: float = 0.0  # share of the rows that have the caption of another
    calibration: tuple[tuple[str, float, float], ...] = ()  # score, scale, shift: another model's
    gone: str | None = None  # a host that fails

    def draw(self, rng: np.random.Generator) -> Profile:
        """A night."""
        rows = int(self.rows * rng.uniform(0.8, 1.2))
        counts, failures = self._failures(rows, rng)
        share = float(np.clip(TRUE_SHARE + rng.normal(0, self.share_deviation), 0, 1)) * (1 - self.shuffled)
        succeeded = counts["success", None]
        histograms: dict[str, BinCounts] = {}
        other = {name: (scale, shift) for name, scale, shift in self.calibration}
        for name in RANGES:
            scale, shift = other.get(name, (1.0, 0.0))
            shift += rng.normal(0, TOPICS[name])
            mixed = share * TRUE[name].density(name, shift, scale) + (1 - share) * FALSE[name].density(name, shift, scale)
            histograms[name] = rng.multinomial(succeeded, mixed / mixed.sum())
        return Profile(counts, failures, histograms)

    def _failures(self, rows: int, rng: np.random.Generator) -> tuple[Counter[tuple[str, str | None]], dict[str, int]]:
        failures: dict[str, int] = {}
        for number, (host, part) in enumerate(HOSTS.items()):
            odds = 0.05 * (1 + number % 5) * rng.lognormal(0, 0.3)  # 5 to 25 % of a host's rows, a third more or less by night
            dead = 0.98 if host == self.gone else odds / (1 + odds)
            failures[host] = int(rng.binomial(int(rows * part * rng.uniform(0.9, 1.1)), dead))
        missing, timeout = int(0.7 * sum(failures.values())), sum(failures.values()) - int(0.7 * sum(failures.values()))
        decode, invalid = int(rng.binomial(rows, 0.02)), int(rng.binomial(rows, 0.01))
        counts = Counter({
            ("failed_to_download", "http 404"): missing,
            ("failed_to_download", "timeout"): timeout,
            ("failed_to_decode", "corrupt image"): decode,
            ("invalid_row", "no caption"): invalid,
        })  # fmt: skip
        counts["success", None] = rows - counts.total()
        return counts, failures


QUIET = Weather()
SHUFFLED = replace(QUIET, shuffled=0.1)
SWAPPED = replace(QUIET, calibration=(("itm_logit", 0.8, 0.6), ("itc_similarity", 0.9, 0.03)))
