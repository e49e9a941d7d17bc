"""The stages of a run on a sample of its rows, one after the other, in this process: what a row costs, and how rows fail.

Fetched, decoded and scored as a run does it, with the threads that a replica will have; written to a folder of this machine.
Seconds of a core are the processor's, not the clock's, where a stage may wait. Knows nothing of Ray, or of what is made of
the figures.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import output as out
from pipeline.config import Config
from pipeline.manifest import Manifest, read_rows
from pipeline.output import Counts, Output
from pipeline.planning.estimate import Costs
from pipeline.planning.sample import head
from pipeline.records import Chunk
from pipeline.schema import ScorerProtocol, Status
from pipeline.sizing import Resources, settled
from pipeline.stages import image_blocks, score_images

SLOW_S = 1.0  # a download that takes longer is the tail of its chunk; hundreds of others end beside it
WARM_ROWS = 4  # connections are made, decoders and their imports started: once a process, and not a row's cost
WARM_IMAGES = 2  # scored before the clock runs: memory is taken, weights are laid out
WARM_BATCH_S = 2.0  # a whole batch is scored as well, if it takes no longer
FETCH_SHARE = 0.4  # of `plan.seconds`, at most; scoring gets the rest
MOST_PIXELS = 512 * 1024 * 1024  # bytes of decoded images that wait here to be scored
STORES = ("s3", "s3a", "gs", "gcs", "az")


class _Spent(NamedTuple):
    tables: list[pa.Table]
    clock_s: float
    core_s: float


def measure(
    config: Config,
    sample: Manifest,
    output: Output,
    resources: Resources,
    image_size: int,
    make_scorer: Callable[[], ScorerProtocol],
) -> Costs:
    """Run the stages on a sample of at least one row, until its rows or `plan.seconds` end.

    `output`: a folder of ours, where parts are written. Raises what the stages raise: StorageError and ManifestError where the
    manifest cannot be read, CheckpointError where the model cannot be loaded.
    """
    fetched = _fetch(settled(config, resources._replace(block_rows=resources.batch_size)), sample, image_size)
    images = pa.concat_tables([block.drop_columns(["pixels"]) for block in fetched.tables])
    rows_of = pc.list_value_length(images["rows"]).to_numpy()
    rows, counts = int(rows_of.sum()), _counts(images, rows_of)
    began = time.perf_counter()
    scorer = make_scorer()
    load_s = time.perf_counter() - began
    limit_s = config.plan.seconds * (1 - FETCH_SHARE)
    score = functools.partial(
        score_images, scorer=scorer, lists=sample.captions_are_lists, embedding_dim=_embedding_dim(output)
    )
    scored = _score(fetched.tables, score, resources.batch_size, limit_s)
    rows_scored = sum(table.num_rows for table in scored.tables)
    scored_share = counts[Status.SUCCESS, None] / rows  # rows without pixels pass a replica in no time
    waits = _waits(images["fetch_s"].to_numpy())
    return Costs(
        rows=rows,
        rows_scored=rows_scored,
        counts=counts,
        bytes_read=pc.sum(images["bytes_read"]).as_py() / rows,
        stored_share=_stored_share(config, sample),
        fetch_core_s=fetched.core_s / rows,
        decode_core_s=pc.sum(images["decode_s"]).as_py() / rows,
        score_s=scored.clock_s / max(1, rows_scored) * scored_share,
        score_core_s=scored.core_s / max(1, rows_scored) * scored_share,
        write_core_s=_write(scored.tables, sample, output, resources.block_rows) if rows_scored else 0.0,
        load_s=load_s,
        wait_s=waits.wait_s,
        slow_share=waits.slow / rows,
        slow_s=waits.slow_s,
    )


class _Waits(NamedTuple):
    wait_s: float
    slow: int
    slow_s: float


def _waits(downloads: npt.NDArray[np.float32]) -> _Waits:
    """Means of the quick downloads, and of the slow ones. Bytes in the row take no time and count as neither."""
    slow = downloads[downloads > SLOW_S]
    quick = downloads[(downloads > 0) & (downloads <= SLOW_S)]
    return _Waits(float(quick.mean()) if quick.size else 0.0, len(slow), float(slow.mean()) if slow.size else 0.0)


def _fetch(config: Config, sample: Manifest, image_size: int) -> _Spent:
    """Blocks of the sample's places, one after the other, while there is time."""
    for _ in _blocks(config, head(sample, WARM_ROWS, 1), 0, image_size):
        pass
    tables: list[pa.Table] = []
    began, core_began = time.perf_counter(), time.process_time()
    for index in range(len(sample.shards)):
        tables += _blocks(config, sample, index, image_size)
        spent_s = time.perf_counter() - began
        if spent_s > config.plan.seconds * FETCH_SHARE or sum(table.nbytes for table in tables) > MOST_PIXELS:
            break
    return _Spent(tables, time.perf_counter() - began, time.process_time() - core_began)


def _blocks(config: Config, sample: Manifest, index: int, image_size: int) -> list[pa.Table]:
    chunk = Chunk(index, ((0, sample.shards[index].rows),))
    return list(image_blocks(chunk, sample, config, image_size))


def _embedding_dim(output: Output) -> int | None:
    """Width of the embeddings that are written; None where none are."""
    if "image_embedding" not in output.scores.names:
        return None
    return int(output.scores.field("image_embedding").type.list_size)


def _score(blocks: list[pa.Table], score: Callable[[pa.Table], pa.Table], batch_size: int, limit_s: float) -> _Spent:
    """Score images in whole batches, while there is time; at least one. A batch that is not full has another price."""
    images = pa.concat_tables(blocks)
    images = images.filter(pc.is_valid(images["pixels"])).combine_chunks()
    batches = [images.slice(start, batch_size) for start in range(0, images.num_rows, batch_size)]
    batches = batches[: max(1, images.num_rows // batch_size)]
    if not images.num_rows:
        return _Spent([], 0.0, 0.0)
    began = time.perf_counter()
    score(images.slice(0, WARM_IMAGES))
    if (time.perf_counter() - began) * batch_size / WARM_IMAGES < WARM_BATCH_S:
        score(batches[0])  # kernels for a whole batch, too
    began, core_began = time.perf_counter(), time.process_time()
    timely = takewhile(lambda batch: batch is batches[0] or time.perf_counter() - began < limit_s, batches)
    tables = [score(batch) for batch in timely]
    return _Spent(tables, time.perf_counter() - began, time.process_time() - core_began)


def _write(scored: list[pa.Table], sample: Manifest, output: Output, block_rows: int) -> float:
    """Core-seconds a row of parts as large as a run's."""
    rows = pa.concat_tables(scored).combine_chunks()
    out.stage(output, sample.shards, rows.slice(0, 1))  # warm
    rows = rows.set_column(0, "shard", pa.array([0] * rows.num_rows, pa.int32()))  # a part is of one shard; any will do
    began = time.process_time()
    for start in range(0, rows.num_rows, block_rows):
        out.stage(output, sample.shards, rows.slice(start, block_rows))
    return (time.process_time() - began) / int(rows.num_rows)


def _counts(images: pa.Table, rows: npt.NDArray[Any]) -> Counts:
    counts: Counts = Counter()
    pairs = zip(images["status"].to_pylist(), images["error_message"].to_pylist(), rows.tolist(), strict=True)
    for status, reason, own in pairs:
        counts[status, reason] += own
    return counts


def _stored_share(config: Config, sample: Manifest) -> float:
    """Share of the sample's rows whose image is an object of its own; a relative path is one where the manifest is."""
    column = sample.columns.url
    if column is None or sample.columns.image is not None:
        return 0.0
    stored = 0
    for shard in sample.shards:
        for url in read_rows(shard, config.storage, [column])[column].to_pylist():
            stored += (url if "://" in str(url) else shard.file.url).partition("://")[0] in STORES if url else 0
    return stored / sample.rows
