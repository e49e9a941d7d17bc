"""Rules that look at all rows: the best so many, quantiles, the best of a group, images under too many URLs.

Everything is exact, and ties go to the row that comes first in the order of files and rows, so that the same rows stay every
time. Arrays in, a mask out; knows nothing of columns or of files.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.filters.values import Keys, Mask, Numbers


class Verdict(NamedTuple):
    """What a rule says of n rows."""

    keep: Mask  # (n,) True: kept
    found: dict[str, float | int | None]  # what the rule found out on the way, such as a quantile's value


def top(values: Numbers, count: int) -> Verdict:
    """The `count` highest; of equal ones at the border the first. Rows without a value (NaN) are never among them."""
    held = ~np.isnan(values)
    count = min(count, int(held.sum()))
    if count == 0:
        return Verdict(np.zeros(len(values), np.bool_), {"threshold": None})
    present = values[held]
    border = np.partition(present, len(present) - count)[len(present) - count]
    keep: Mask = values > border
    equal = np.flatnonzero(values == border)
    keep[equal[: count - int(keep.sum())]] = True
    return Verdict(keep, {"threshold": float(border)})


def quantile(values: Numbers, share: float) -> Verdict:
    """Rows at or above the quantile: the value at position ceil(share * (n - 1)) of the n values in ascending order."""
    present = values[~np.isnan(values)]
    if not len(present):
        return Verdict(np.zeros(len(values), np.bool_), {"threshold": None})
    position = math.ceil(Fraction(repr(share)) * (len(present) - 1))  # exact: 0.7 * 10 is more than 7
    border = np.partition(present, position)[position]
    return Verdict(values >= border, {"threshold": float(border)})


def best_of_group(
    keys: Keys, values: Numbers | None, min_margin: float | None = None, others: npt.NDArray[np.float64] | None = None
) -> Verdict:
    """Of the rows with the same key the one with the highest value, of equal ones the first; rows without a key stay.

    With `min_margin`, no row of a group whose best is not above the second by that much; `others` (n,) are further values
    that the row's own has to beat (-inf: none). Rows without a value (NaN) rank last.
    """
    groups = _repeated(keys, values)
    keep = np.ones(len(keys), np.bool_)
    keep[groups.rows] = False
    winners = groups.rows[groups.starts]
    keep[winners] = True
    if min_margin is not None and values is not None:
        second = np.full(len(keys), -np.inf) if others is None else others.copy()
        runners_up = groups.rows[groups.starts + 1]
        second[winners] = np.fmax(second[winners], values[runners_up].astype(np.float64))
        best = values.astype(np.float64)
        # a row without a value beats nobody; one without rivals, everybody
        with np.errstate(invalid="ignore"):
            keep &= np.isneginf(second) | (best - second >= min_margin)
    return Verdict(keep, {"groups": len(winners)})


def placeholders(images: Keys, urls: Keys, limit: int) -> Verdict:
    """Drop images that rows name under more than `limit` distinct URLs. Rows without an image stay, null URLs don't count."""
    rows, starts = _repeated(images, None)
    keep = np.ones(len(images), np.bool_)
    if not len(starts):
        return Verdict(keep, {"images": 0})
    sizes = np.diff(np.append(starts, len(rows)))
    group = np.repeat(np.arange(len(starts)), sizes)
    large = sizes[group] > limit  # fewer rows can't have more URLs
    rows, group = rows[large], group[large]
    named = urls[rows].any(axis=1)
    url = urls[rows[named]]
    order = np.lexsort((url[:, 1], url[:, 0], group[named]))
    url, owner = url[order], group[named][order]
    new = np.ones(len(url), np.bool_)
    new[1:] = (owner[1:] != owner[:-1]) | (url[1:] != url[:-1]).any(axis=1)
    counts = np.bincount(owner[new], minlength=len(starts))
    keep[rows[counts[group] > limit]] = False
    return Verdict(keep, {"images": int((counts > limit).sum())})


class _Groups(NamedTuple):
    """Rows that share their key with others, group by group; in a group the best first, of equals the first."""

    rows: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]  # of the groups, within `rows`


def _repeated(keys: Keys, values: Numbers | None) -> _Groups:
    high = keys[:, 0]
    order = np.argsort(high)
    same = high[order[1:]] == high[order[:-1]]
    shared = np.zeros(len(keys), np.bool_)
    shared[1:] |= same
    shared[:-1] |= same
    # most rows have their first half to themselves: only the others are sorted by everything
    rows = np.sort(order[shared])
    del order, same, shared
    rows = rows[keys[rows].any(axis=1)]
    low, high = keys[rows, 1], keys[rows, 0]
    rank = [] if values is None else [np.where(np.isnan(values[rows]), np.inf, -values[rows])]
    order = np.lexsort((*rank, low, high))  # stable: equals stay in the order of rows
    rows, low, high = rows[order], low[order], high[order]
    new = np.ones(len(rows), np.bool_)
    new[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    starts = np.flatnonzero(new)
    alone = np.diff(np.append(starts, len(rows))) == 1
    if alone.any():  # equal in the first half only
        inside = np.repeat(~alone, np.diff(np.append(starts, len(rows))))
        sizes = np.diff(np.append(starts, len(rows)))[~alone]
        rows, starts = rows[inside], np.cumsum(sizes) - sizes
    return _Groups(rows, starts)
