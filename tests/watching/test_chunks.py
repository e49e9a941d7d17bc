"""Which chunks wait, are at work, have ended, from the receipts alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa

from pipeline.manifest import Columns, FileInfo, Manifest, Shard
from pipeline.output import Committed, Staged
from pipeline.progress import Tracker, plan_chunks
from pipeline.schema import COSTS, Receipt
from pipeline.watching.chunks import Chunks


def tracker_of(*rows: int, staged: dict[str, list[int]] | None = None) -> Tracker:
    file = FileInfo("/m/a.parquet", 1, "v")
    shards = tuple(Shard(f"a-{i:05}.parquet", file, 0, n) for i, n in enumerate(rows))
    columns = Columns(url="url", caption="caption", image=None, key=None)
    manifest = Manifest(shards=shards, columns=columns, captions_are_lists=False, rows=sum(rows), schema=pa.schema([]))
    return Tracker(manifest, Staged({}, {name: np.array(numbers) for name, numbers in (staged or {}).items()}))


def stage(tracker: Tracker, shard: int, first: int, stop: int) -> None:
    rows = np.arange(first, stop)
    tracker.add(Receipt(shard, rows, Counter({("success", None): len(rows)}), dict.fromkeys(COSTS.names, 0.0)))


def test_chunks_wait_begin_and_end() -> None:
    tracker = tracker_of(100, 60, staged={"a-00000.parquet": [*range(10, 20)]})
    planned = plan_chunks(tracker, 30)
    assert [chunk.shard for chunk in planned] == [0, 0, 0, 1, 1]
    chunks = Chunks(planned, at_once=2)
    assert chunks.look(tracker, 0.0)[:3] == (3, 2, 0)

    stage(tracker, 0, 40, 55)  # half of the second
    assert chunks.look(tracker, 10.0)[:3] == (3, 2, 0)
    stage(tracker, 0, 55, 70)
    states = chunks.look(tracker, 20.0)
    assert states[:3] == (2, 2, 1)
    assert states.median_s == 20.0
    assert [(one.chunk, one.age_s, one.rows, one.rows_left) for one in states.oldest] == [
        (planned[0], 20.0, 30, 30),
        (planned[2], 0.0, 30, 30),
    ]

    stage(tracker, 0, 40, 70)  # by a task that was run again
    stage(tracker, 0, 0, 39)
    assert chunks.look(tracker, 25.0)[:3] == (2, 2, 1), "a row of the first is left"
    stage(tracker, 0, 39, 40)
    stage(tracker, 0, 70, 100)
    assert chunks.look(tracker, 30.0)[:3] == (0, 2, 3)
    tracker.commit(0, Committed(Counter({("success", None): 100})))
    assert chunks.look(tracker, 31.0)[:3] == (0, 2, 3), "a committed shard's bitmap is gone"
    stage(tracker, 1, 0, 60)
    ended = chunks.look(tracker, 40.0)
    assert (ended[:3], ended.left, list(ended.oldest)) == ((0, 0, 5), 0, [])


def test_rows_that_come_out_of_turn_say_that_their_chunk_has_begun() -> None:
    tracker = tracker_of(100)
    chunks = Chunks(plan_chunks(tracker, 10), at_once=1)
    stage(tracker, 0, 95, 96)
    assert chunks.look(tracker, 5.0)[:3] == (8, 2, 0)
