"""Which chunks of a pass wait, are at work, have ended; which of them take many times as long as the others.

The driver sees receipts alone: a chunk has begun, as far as it can tell, once as many chunks ended before it as leave it a
fetch task, for chunks are handed out in order. Knows nothing of Ray.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.progress import Tracker
from pipeline.records import Chunk


class Late(NamedTuple):
    """A chunk that is at work for long."""

    chunk: Chunk
    age_s: float
    rows: int
    rows_left: int


class ChunkStates(NamedTuple):
    """The chunks of a pass at one moment."""

    waiting: int = 0
    begun: int = 0
    ended: int = 0
    median_s: float = 0.0  # of those that ended
    oldest: Sequence[Late] = ()  # of those at work, the oldest first; a few

    @property
    def left(self) -> int:
        """Chunks that have not ended."""
        return self.waiting + self.begun


MOST_OLDEST = 20


class Chunks:
    """The chunks of one pass; `look` says how they are now."""

    def __init__(self, chunks: Sequence[Chunk], at_once: int) -> None:
        self._chunks = chunks
        self._at_once = max(1, at_once)
        self._rows = np.array([sum(stop - start for start, stop in chunk.ranges) for chunk in chunks], np.int64)
        self._left = self._rows.copy()
        self._began_s = np.full(len(chunks), np.nan)
        self._took_s = np.full(len(chunks), np.nan)
        self._of_shard: dict[int, list[int]] = defaultdict(list)
        for place, chunk in enumerate(chunks):
            self._of_shard[chunk.shard].append(place)

    def look(self, tracker: Tracker, now_s: float) -> ChunkStates:
        """What the tracker's bitmaps say of the chunks. Its cost is that of the shards in progress."""
        self._count(tracker)
        ended = self._left == 0
        began = np.arange(len(self._chunks)) < ended.sum() + self._at_once
        began |= self._left < self._rows
        self._began_s[began & np.isnan(self._began_s)] = now_s
        just = ended & np.isnan(self._took_s)
        self._took_s[just] = now_s - self._began_s[just]
        at_work = np.flatnonzero(began & ~ended)
        oldest = at_work[np.argsort(self._began_s[at_work], kind="stable")][:MOST_OLDEST]
        return ChunkStates(
            waiting=int((~began & ~ended).sum()),
            begun=len(at_work),
            ended=int(ended.sum()),
            median_s=float(np.median(self._took_s[ended])) if ended.any() else 0.0,
            oldest=[self._late(int(place), now_s) for place in oldest],
        )

    def _late(self, place: int, now_s: float) -> Late:
        age_s = float(now_s - self._began_s[place])
        return Late(self._chunks[place], age_s, int(self._rows[place]), int(self._left[place]))

    def _count(self, tracker: Tracker) -> None:
        for shard, places in list(self._of_shard.items()):
            if tracker.manifest.shards[shard].name in tracker.committed:
                self._left[places] = 0
                del self._of_shard[shard]
                continue
            missing = tracker.missing.get(shard)
            if missing is not None:
                self._left[places] = _sums(missing, [self._chunks[place].ranges[0][0] for place in places])


def _sums(missing: npt.NDArray[np.bool_], firsts: Sequence[int]) -> npt.NDArray[np.int64]:
    """Missing rows from each of the first rows to the next one: what lies between two chunks was staged before them."""
    return np.add.reduceat(missing.astype(np.int64), firsts)
