"""Which pairs are shown: the best, the borderline, the worst, some from the whole range of scores; exact, in one pass.

Of pairs with the same image bytes a gallery has the one that suits it best, or a placeholder would fill it. Pools are small,
and two of them merge into one: the result does not depend on who read what. Knows nothing of what a pair looks like.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats = npt.NDArray[np.floating]
Indices = npt.NDArray[np.int64]

BEST, BORDERLINE, WORST, RANGE = "best", "borderline", "worst", "range"


class Place(NamedTuple):
    """Where a pair is; their order is that of the input."""

    run: int  # index into Dataset.runs
    row: int  # within the run
    entry: int  # of the row's list of captions; 0 where there is one


class Pick(NamedTuple):
    """A pair that a pool holds."""

    rank: float  # higher suits better
    place: Place
    image: str  # what tells its image from others


class Pairs(NamedTuple):
    """n scored pairs of one batch, in the order of the input."""

    itm: Floats  # (n,) finite
    logit: Floats  # (n,) match minus mismatch; itm where there is none
    places: npt.NDArray[np.int64]  # (n, 2): row, entry
    images: pa.Array  # (n,) SHA-256; null where unknown
    run: int

    def image(self, index: int) -> str:
        """A pair of unknown image is taken for the only one of its row."""
        known = self.images[index].as_py()
        return known if known is not None else f"{self.run}/{self.places[index, 0]}"


@dataclass
class Pool:
    """The `size` picks of the highest ranks, each of another image; of equal ranks the first."""

    size: int
    picks: dict[str, Pick] = field(default_factory=dict)

    def offer(self, pairs: Pairs, ranks: Floats, among: Indices | None = None) -> None:
        """Take what is better than what is held. `ranks`: (n,); `among`: indices of pairs to look at, ascending."""
        indices = np.arange(len(ranks)) if among is None else among
        indices = indices[ranks[indices] > self._cutoff()]
        for index in indices[np.argsort(-ranks[indices], kind="stable")].tolist():
            if ranks[index] <= self._cutoff():
                return
            row, entry = pairs.places[index].tolist()
            self._take(Pick(float(ranks[index]), Place(pairs.run, row, entry), pairs.image(index)))

    def merge(self, other: Pool) -> None:
        """Take what another pool holds."""
        for pick in other.picks.values():
            self._take(pick)

    def ordered(self) -> list[Pick]:
        """The picks, best first."""
        return sorted(self.picks.values(), key=_order)

    def _cutoff(self) -> float:
        """What a later pair must exceed."""
        if self.size == 0:
            return np.inf
        return min(pick.rank for pick in self.picks.values()) if len(self.picks) == self.size else -np.inf

    def _take(self, pick: Pick) -> None:
        held = self.picks.get(pick.image)
        if held is None or _order(pick) < _order(held):
            self.picks[pick.image] = pick
            if len(self.picks) > self.size:
                del self.picks[max(self.picks.values(), key=_order).image]


def _order(pick: Pick) -> tuple[float, Place]:
    return -pick.rank, pick.place


class Gallery:
    """The four galleries' pools."""

    def __init__(self, size: int, threshold: float) -> None:
        self._threshold = threshold
        self._pools = {name: Pool(size) for name in (BEST, BORDERLINE, WORST)}
        self._range = [Pool(1) for _ in range(size)]  # one for each of so many equal parts of 0 to 1

    def offer(self, pairs: Pairs, seed: int) -> None:
        """Look at the pairs of a batch; `seed` is its run's own, and decides which of the range's pairs are drawn."""
        self._pools[BEST].offer(pairs, pairs.logit)
        self._pools[WORST].offer(pairs, -pairs.logit)
        self._pools[BORDERLINE].offer(pairs, -np.abs(pairs.itm.astype(np.float64) - self._threshold))
        if self._range:
            draws = _draws(pairs.places, seed)
            part = np.clip((pairs.itm * len(self._range)).astype(np.int64), 0, len(self._range) - 1)
            order = np.argsort(part, kind="stable")
            starts = np.searchsorted(part[order], np.arange(len(self._range) + 1))
            for number, pool in enumerate(self._range):
                pool.offer(pairs, draws, order[starts[number] : starts[number + 1]])

    def merge(self, other: Gallery) -> None:
        """Take what another gallery of the same settings holds."""
        for mine, others in zip(self._every(), other._every(), strict=True):
            mine.merge(others)

    def picks(self) -> dict[str, list[Place]]:
        """The places of each gallery's pairs, in the order in which they are shown."""
        found = {name: [pick.place for pick in pool.ordered()] for name, pool in self._pools.items()}
        return found | {RANGE: [pick.place for pool in reversed(self._range) for pick in pool.ordered()]}

    def _every(self) -> Iterator[Pool]:
        yield from self._pools.values()
        yield from self._range


def _draws(places: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.float64]:
    """(n,) numbers in [0, 1) that look random and depend on seed and place alone (splitmix64: Steele et al., 2014)."""
    mixed = np.uint64(seed) + places[:, 0].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = mixed + places[:, 1].astype(np.uint64) * np.uint64(0xD1B54A32D192ED03)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return (mixed ^ (mixed >> np.uint64(31))).astype(np.float64) / 2**64


def distinct(galleries: Iterable[list[Place]]) -> list[Place]:
    """Every place once, in the order of the input."""
    return sorted({place for places in galleries for place in places})
