"""The joint histogram of both scores, on edges where counts are exact: what the page's sliders and charts are drawn from.

A pair lies in cell (i, j) if its itm_score is at least edge i and below edge i + 1, and so its itc_similarity with j; the last
cells have no upper edge. So the number of pairs at or above any two edges is exact, and the one that a filter with these
thresholds keeps: scores are compared in their own precision, as `filters` does. Knows nothing of files.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Scores = npt.NDArray[np.floating]

# Edges are written in these parts, so that the page shows 0.005 and not 0.005000000000000001.
ITM_PARTS = 10_000
ITC_PARTS = 1_000
# Steps of 0.005; finer towards 0 and 1, where a trained model's scores crowd.
_FINE = (1, 2, 5, 10, 20)
_ITM_TICKS = (0, *_FINE, *range(50, 9_951, 50), *(ITM_PARTS - tick for tick in reversed(_FINE)), ITM_PARTS)
ITC_TICKS = tuple(range(-1_000, 1_001, 5))  # cosines: -1 to 1
_ITC_EDGES = np.array(ITC_TICKS) / ITC_PARTS


def itm_ticks(threshold: float) -> tuple[float, ...]:
    """Edges of itm_score, in parts of `ITM_PARTS`, ascending; the threshold is one of them."""
    own = round(threshold * ITM_PARTS, 6)
    return tuple(sorted({*_ITM_TICKS, int(own) if own == int(own) else own}))


def empty(ticks: tuple[float, ...]) -> Counts:
    """A histogram of no pairs: (itm edges, itc edges)."""
    return np.zeros((len(ticks), len(ITC_TICKS)), np.int64)


def count(itm: Scores, itc: Scores, ticks: tuple[float, ...]) -> Counts:
    """Histogram of n pairs' scores, both finite. What rounding put below the lowest edge counts to its cell."""
    shape = len(ticks), len(ITC_TICKS)
    cells = _bins(itm, np.array(ticks) / ITM_PARTS) * shape[1] + _bins(itc, _ITC_EDGES)
    return np.bincount(cells, minlength=shape[0] * shape[1]).astype(np.int64).reshape(shape)


def _bins(scores: Scores, edges: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    found = np.searchsorted(edges.astype(scores.dtype), scores, side="right") - 1
    return np.maximum(found, 0)


def sparse(counts: Counts) -> list[int]:
    """The cells that are not empty, in row-major order: distance from the one before (the first: from cell -1), count, ..."""
    cells = np.flatnonzero(counts)
    return np.column_stack([np.diff(cells, prepend=-1), counts.ravel()[cells]]).ravel().tolist()
