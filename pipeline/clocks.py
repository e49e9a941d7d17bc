"""Where the stages' seconds go: wraps what a stage does to a block, and writes what it took into the block's cost columns.

A fetch task either makes a block or waits for room; a replica either scores one or waits for it; a staging task writes. The
driver adds the receipts up, and `progress` says what held the replicas back. Knows nothing of what a stage computes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa


def timed_blocks(blocks: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Add `make_s` and `held_s` to the blocks of a fetch task: how long each took, and how long the one before it waited.

    A generator of Ray's stands still at its `yield` while nobody takes its blocks: that is what it waits for room.
    """
    began, held_s = time.perf_counter(), 0.0
    for block in blocks:
        yielded = time.perf_counter()
        yield with_cost(with_cost(block, "make_s", yielded - began), "held_s", held_s)
        began = time.perf_counter()
        held_s = began - yielded


class StarvedClock:
    """How long a replica has had nothing to do before each block."""

    def __init__(self, *, restarted: bool = False) -> None:
        self._idle_since: float | None = None
        self._restarted = restarted

    def run(self, work: Callable[[pa.Table], pa.Table], block: pa.Table) -> pa.Table:
        """Do the work on a block, and add `starved_s`; before the first block a replica is starting, not starved.

        `replica_restarts` is 1 with the first block of a replica that had died before.
        """
        starved_s = 0.0 if self._idle_since is None else time.perf_counter() - self._idle_since
        done = with_cost(with_cost(work(block), "starved_s", starved_s), "replica_restarts", float(self._restarted))
        self._restarted = False
        self._idle_since = time.perf_counter()
        return done


def timed_write(work: Callable[[pa.Table], pa.Table], block: pa.Table) -> pa.Table:
    """Do the work on a block, and add its `write_s` to what comes of it."""
    began = time.perf_counter()
    done = work(block)
    return with_cost(done, "write_s", time.perf_counter() - began)


def with_cost(block: pa.Table, name: str, seconds: float) -> pa.Table:
    """The block with the seconds on its first record, and none on the others."""
    values = np.zeros(block.num_rows, np.float32)
    values[:1] = seconds
    column = pa.array(values)
    index = block.schema.get_field_index(name)
    return block.append_column(name, column) if index < 0 else block.set_column(index, name, column)
