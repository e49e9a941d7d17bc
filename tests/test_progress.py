"""What the driver knows of a run: coverage of shards by receipts, chunks of what is missing, summaries."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import schema, sizing
from pipeline.bottleneck import Shares
from pipeline.config import Config
from pipeline.manifest import Columns, FileInfo, Manifest, Shard
from pipeline.output import Committed, Staged
from pipeline.progress import Summary, Tracker, plan_chunks
from pipeline.schema import Receipt
from pipeline.sizing import Cluster, Work

COSTS = dict.fromkeys(schema.COSTS.names, 0.25)
SHARES = Shares(60.0, busy=0.5, starved=0.5, download=0.2, decode=0.8, held=0.0, fetching=1.0, write_to_score=0.1)
RESOURCES = sizing.plan(Config(), Cluster(cpus=8, gpus=0, nodes=1, object_store_bytes=10**9), Work(1000, 32))


def manifest_of(*rows: int) -> Manifest:
    file = FileInfo("/m/a.parquet", 1, "v")
    shards = tuple(Shard(f"a-{i:05}.parquet", file, 0, n) for i, n in enumerate(rows))
    columns = Columns(url="url", caption="caption", image=None, key=None)
    return Manifest(shards=shards, columns=columns, captions_are_lists=False, rows=sum(rows), schema=pa.schema([]))


def tracker_of(
    *rows: int, done: dict[str, Counter[tuple[str, str | None]]] | None = None, staged: dict[str, list[int]] | None = None
) -> Tracker:
    parts = {name: np.array(numbers, np.int64) for name, numbers in (staged or {}).items()}
    return Tracker(manifest_of(*rows), Staged({name: Committed(counts) for name, counts in (done or {}).items()}, parts))


def receipt(shard: int, rows: list[int], succeeded: int | None = None) -> Receipt:
    good = len(rows) if succeeded is None else succeeded
    counts: Counter[tuple[str, str | None]] = Counter({("success", None): good, ("invalid_row", "no image"): len(rows) - good})
    return Receipt(shard, np.array(rows, np.int64), counts, COSTS)


def numbers_of(tracker: Tracker, chunk_rows: int) -> list[tuple[int, list[int]]]:
    return [(c.shard, [n for a, b in c.ranges for n in range(a, b)]) for c in plan_chunks(tracker, chunk_rows)]


def test_a_fresh_manifest_is_cut_into_chunks_of_one_shard_each() -> None:
    assert numbers_of(tracker_of(5, 0, 3), 4) == [(0, [0, 1, 2, 3]), (0, [4]), (2, [0, 1, 2])]
    assert len(plan_chunks(tracker_of(5, 0, 3), 4, most=2)) == 2


def test_only_rows_that_no_part_holds_are_planned() -> None:
    tracker = tracker_of(
        6, 2, 2, done={"a-00001.parquet": Counter({("success", None): 2})}, staged={"a-00000.parquet": [1, 2, 5]}
    )
    assert numbers_of(tracker, 2) == [(0, [0, 3]), (0, [4]), (2, [0, 1])]
    assert tracker.counts == {("success", None): 2}


def test_a_shard_is_complete_once_and_only_when_all_its_rows_are_staged() -> None:
    tracker = tracker_of(4)
    assert not tracker.add(receipt(0, [0, 3]))
    assert not tracker.add(receipt(0, [0, 3]))
    assert tracker.add(receipt(0, [1, 2]))
    assert not tracker.add(receipt(0, [1, 2])), "a repeat must not commit again"
    tracker.commit(0, Committed(Counter({("success", None): 4})))
    assert not tracker.add(receipt(0, [1, 2])), "nor may a late one"
    assert plan_chunks(tracker, 10) == []


def test_progress_counts_repeated_rows_once() -> None:
    tracker = tracker_of(4, 4)
    tracker.add(receipt(0, [0, 1], succeeded=1))
    tracker.add(receipt(0, [0, 1], succeeded=1))
    progress = tracker.progress(RESOURCES, elapsed_s=1.0)
    assert (progress.rows, progress.rows_left) == (2, 6)
    assert 0 < progress.success_share <= 1
    assert 0 <= progress.busy_share <= 1


def test_progress_before_any_work_has_no_rate() -> None:
    progress = tracker_of(4).progress(RESOURCES, elapsed_s=1.0)
    assert (progress.rows_per_s, progress.left_s) == (0.0, None)


@given(st.lists(st.integers(0, 29), unique=True), st.integers(1, 40))
def test_chunks_cover_each_missing_row_exactly_once(staged: list[int], chunk_rows: int) -> None:
    tracker = tracker_of(30, staged={"a-00000.parquet": sorted(staged)})
    planned = [n for _, numbers in numbers_of(tracker, chunk_rows) for n in numbers]
    assert planned == sorted(set(range(30)) - set(staged))
    assert all(len(numbers) <= chunk_rows for _, numbers in numbers_of(tracker, chunk_rows))


def test_the_summary_counts_by_status_and_reason() -> None:
    counts = Counter({("success", None): 6, ("failed_to_download", "http 404"): 3, ("failed_to_download", "timeout"): 1})
    summary = Summary(10, 10, counts, 1, 2.0, 5.0, SHARES, {"fetch": 1.0}, 99, "s3://b/o")
    assert summary.failed_share == pytest.approx(0.4)
    as_json = summary.as_json()
    assert (as_json["held_back_by"], as_json["shares"]["decode"]) == ("decode", 0.8)
    assert as_json["status"] == {"success": 6, "failed_to_download": 4}
    assert as_json["reasons"] == {"failed_to_download": {"http 404": 3, "timeout": 1}}
