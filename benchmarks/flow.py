"""Parts that the stream's benchmarks put into the real graph: pixels made on the fly, a scorer of zeros, manifests.

Knows nothing of what is measured. Everything here runs in Ray's workers, so it needs to be importable there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import cluster, dataflow, run
from pipeline.bottleneck import Shares
from pipeline.config import DEFAULT_BLOCK_ROWS, Config
from pipeline.dataflow import MakeBlocks, MakeScorer
from pipeline.manifest import Manifest
from pipeline.progress import Plan, Progress, plan_chunks
from pipeline.records import Chunk
from pipeline.schema import IMAGES, CaptionLengths, Captions, ScorerProtocol, Scores
from pipeline.sizing import Resources
from pipeline.stages import image_blocks, pixel_column


def make_blocks(chunk: Chunk, manifest: Manifest, config: Config, image_size: int) -> Iterator[pa.Table]:
    """In the place of `stages.image_blocks`: the same blocks, the pixels made on the fly, nothing read."""
    size = config.compute.block_rows or DEFAULT_BLOCK_ROWS
    numbers = [number for start, stop in chunk.ranges for number in range(start, stop)]
    for start in range(0, len(numbers), size):
        own = numbers[start : start + size]
        pixels = np.empty((len(own), image_size, image_size, 3), np.uint8)
        pixels[:] = np.array(own, np.int64).astype(np.uint8)[:, None, None, None]
        yield _block(chunk.shard, own, pixels)


def _block(shard: int, numbers: list[int], pixels: npt.NDArray[np.uint8]) -> pa.Table:
    given: dict[str, Any] = {
        "shard": [shard] * len(numbers),
        "rows": [[number] for number in numbers],
        "captions": [[["a caption"]]] * len(numbers),
        "pixels": pixel_column([True] * len(numbers), pixels),
        "status": ["success"] * len(numbers),
        "original_width": [pixels.shape[2]] * len(numbers),
        "original_height": [pixels.shape[1]] * len(numbers),
        "bytes_read": [pixels[0].size] * len(numbers),
        "retries": [0] * len(numbers),
    }
    columns = [given.get(name, [None] * len(numbers)) for name in IMAGES.names]
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, kind)
        for column, kind in zip(columns, IMAGES.types, strict=True)
    ]
    return pa.table(arrays, schema=IMAGES)


class ZeroScorer:
    """Scores nothing, in no time."""

    def score(self, pixels: npt.NDArray[np.uint8], captions: Captions) -> Scores:
        """As many zeros as there are captions."""
        count = sum(1 if isinstance(own, str) else len(own) for own in captions)
        return Scores(np.zeros((count, 2), np.float32), np.zeros(count, np.float32), np.zeros(count, np.float32))

    def caption_lengths(self, captions: Sequence[str]) -> CaptionLengths:
        """Ones."""
        return CaptionLengths(np.ones(len(captions), np.int16), np.zeros(len(captions), np.bool_))


def scorer_of(checkpoint: str, threads: int) -> ScorerProtocol:
    """A scorer on so many CPU threads."""
    from pipeline.scorer import load_scorer  # brings torch, which a driver must not pay for

    return load_scorer(checkpoint, device="cpu", threads=threads)


class Silent:
    """A listener that shows nothing."""

    def starting(self, what: str) -> None:
        """Nothing."""

    def planned(self, plan: Plan) -> None:
        """Nothing."""

    def progressed(self, progress: Progress) -> None:
        """Nothing."""


class Flow(NamedTuple):
    """What came of a stream."""

    resources: Resources
    first_s: float  # from the start of the stream to its first receipt: workers and replicas start
    steady_s: float  # from the first receipt to the last
    rows: int  # of all receipts but the first
    blocks: int
    shares: Shares
    row_ms: dict[str, float]  # what a row cost, by the names of `schema.COSTS`
    bytes_read: int

    @property
    def rows_per_s(self) -> float:
        """Once started."""
        return self.rows / self.steady_s


def stream(config: Config, make_scorer: MakeScorer, make: MakeBlocks = image_blocks) -> Flow:
    """Run the graph of a run on a cluster that is there, up to its receipts."""
    job = run.begin(run.check(config, Silent()))
    resources = cluster.plan_resources(config, run.work_of(job))
    stream = dataflow.build(
        config, job.manifest, plan_chunks(job.tracker, resources.chunk_rows), make_scorer, job.output,
        resources=resources, image_size=job.model.image_size, make_blocks=make,
    )  # fmt: skip
    began, arrivals, rows = time.monotonic(), [], []
    for receipt in dataflow.receipts(stream):
        job.tracker.add(receipt)
        arrivals.append(time.monotonic() - began)
        rows.append(len(receipt.rows))
    return Flow(
        resources=resources,
        first_s=arrivals[0],
        steady_s=arrivals[-1] - arrivals[0],
        rows=sum(rows[1:]),
        blocks=len(rows) - 1,
        shares=job.tracker.shares(resources),
        row_ms={name: 1000 * cost / sum(rows) for name, cost in job.tracker.costs.items() if name.endswith("_s")},
        bytes_read=int(job.tracker.costs["bytes_read"]),
    )


def write_manifest(folder: Path, urls: Sequence[str], rows_per_file: int = 100_000) -> str:
    """Parquet files of URLs and captions; returns the folder."""
    folder.mkdir(parents=True)
    for start in range(0, len(urls), rows_per_file):
        own = list(urls[start : start + rows_per_file])
        pq.write_table(pa.table({"url": own, "caption": ["a caption"] * len(own)}), folder / f"{start:09}.parquet")
    return str(folder)
