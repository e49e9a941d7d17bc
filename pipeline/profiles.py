"""What a night looked like, in some KB: histograms of both scores, rows by status and reason, the hosts that fail most.

A profile is built from a stream of batches and from what the files say of themselves, and is all that later nights are
compared with: nothing reads old Parquet again. Knows nothing of where files are, or of what is an alarm.

`itm_score` has no histogram: it is the logistic function of `itm_logit`, so that whatever share of the rows lies above a
threshold of the one lies above that of the other, and both measures of drift (`drift`) are the same of both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.types as pt

from pipeline.provenance import Counts
from pipeline.schema import Status
from pipeline.tallies import Tally

BINS = 512
MOST_HOSTS = 100  # kept of a night; a host with a share of the rows that matters is among them

BinCounts = npt.NDArray[np.int64]


class Range(NamedTuple):
    """What the bins of a score span; values beyond it count in the outermost."""

    low: float
    high: float


# BLIP's logits (match minus mismatch) lie within +-10; a bin is a sixteenth of a logit, or 0.004 of a cosine.
RANGES: Mapping[str, Range] = {"itm_logit": Range(-16.0, 16.0), "itc_similarity": Range(-1.0, 1.0)}


@dataclass(frozen=True)
class Profile:
    """A night."""

    counts: Counts  # (status, error_message) -> rows
    failures: Mapping[str, int]  # host -> rows that failed there, of the worst hosts
    histograms: Mapping[str, BinCounts]  # by the names of RANGES: (BINS,) captions with a score

    @property
    def rows(self) -> int:
        """All rows, whatever became of them."""
        return self.counts.total()

    @property
    def by_status(self) -> Counter[str]:
        """Rows by status."""
        found: Counter[str] = Counter()
        for (status, _), rows in self.counts.items():
            found[status] += rows
        return found

    @property
    def failed_share(self) -> float:
        """Share of the rows whose status is not success."""
        return 1 - self.by_status[Status.SUCCESS] / self.rows if self.rows else 0.0

    def main_reason(self, status: str) -> str | None:
        """The most frequent reason of a status."""
        reasons = [(rows, reason) for (other, reason), rows in self.counts.items() if other == status and reason is not None]
        return max(reasons)[1] if reasons else None

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return {
            "counts": [[*key, rows] for key, rows in sorted(self.counts.items(), key=str)],
            "failures": dict(self.failures),
            "histograms": {
                name: {**RANGES[name]._asdict(), "counts": counts.tolist()} for name, counts in self.histograms.items()
            },
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """What `as_json` made. Raises ValueError, KeyError or TypeError for anything else."""
        histograms = {}
        for name, span in RANGES.items():
            found = value["histograms"][name]
            counts = np.array(found["counts"], np.int64)
            if (found["low"], found["high"]) != span or counts.shape != (BINS,) or (counts < 0).any():
                raise ValueError(f"other bins of {name}")
            histograms[name] = counts
        counts_of = Counter({(str(status), reason): int(rows) for status, reason, rows in value["counts"]})
        return cls(counts_of, {str(host): int(rows) for host, rows in value["failures"].items()}, histograms)


def profile_of(counts: Counts, failures: Tally, histograms: Mapping[str, BinCounts]) -> Profile:
    """A profile; of `failures`, by (host, reason), the worst hosts are kept."""
    by_host: Counter[str] = Counter()
    for (host, _), rows in failures.counts.items():
        by_host[host] += rows
    return Profile(counts, dict(by_host.most_common(MOST_HOSTS)), histograms)


class Histograms:
    """Counts the scores of a stream of batches. Holds BINS numbers a score, whatever comes."""

    def __init__(self) -> None:
        self.counts: dict[str, BinCounts] = {name: np.zeros(BINS, np.int64) for name in RANGES}

    def add(self, name: str, column: pa.Array) -> None:
        """Count a batch's column of float32, or of lists of float32 with one entry a caption; nulls and NaN are not counted."""
        flat = column.flatten() if pt.is_list(column.type) or pt.is_large_list(column.type) else column
        self.counts[name] += bin_counts(name, flat.drop_null().to_numpy(zero_copy_only=False))


def bin_counts(name: str, values: npt.NDArray[np.floating[Any]]) -> BinCounts:
    """(n,) values of a score -> (BINS,) counts."""
    low, high = RANGES[name]
    wide = values[~np.isnan(values)].astype(np.float64)
    bins = np.clip((wide - low) * (BINS / (high - low)), 0, BINS - 1).astype(np.int64)
    return np.bincount(bins, minlength=BINS).astype(np.int64)
