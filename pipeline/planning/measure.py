"""The stages of a run on a sample of its rows, one after the other, in this process: what a row costs, and how rows fail.

Fetched, decoded and scored as a run does it, with the threads that a replica will have; written to a folder of this machine.
Seconds of a core are the processor's, not the clock's, where a stage may wait. Knows nothing of Ray, or of what is made of
the figures.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from itertools import takewhile
from typing import Any, NamedTuple

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
from pipeline.schema import ScorerProtocol
from pipeline.sizing import Resources, settled
from pipeline.stages import image_blocks, score_images

SLOW_S = 1.0  # a download that takes longer is the tail of its chunk; hundreds of others end beside it
WARM_ROWS = 4  # connections are made, decoders and their imports started: once a process, and not a row's cost
WARM_IMAGES = 2  # scored before the clock runs: memory is taken, weights are laid out
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
    config = settled(config, resources._replace(block_rows=resources.batch_size))
    fetched = _fetch(config, sample, image_size)
    began = time.perf_counter()
    scorer = make_scorer()
    load_s = time.perf_counter() - began
    scored = _score(config, fetched.tables, scorer, sample.captions_are_lists)
    began = time.process_time()
    for table in scored.tables:
        out.stage(output, sample.shards, table)
    write_core_s = time.process_time() - began
    images = pa.concat_tables([block.drop_columns(["pixels"]) for block in fetched.tables])
    rows_of = pc.list_value_length(images["rows"]).to_numpy()
    rows, rows_scored = int(rows_of.sum()), sum(table.num_rows for table in scored.tables)
    downloads = images["fetch_s"].to_numpy()
    slow = downloads > SLOW_S
    quick = downloads[(downloads > 0) & ~slow]
    return Costs(
        rows=rows,
        rows_scored=rows_scored,
        counts=_counts(images, rows_of),
        bytes_read=pc.sum(images["bytes_read"]).as_py() / rows,
        stored_share=_stored_share(config, sample),
        fetch_core_s=fetched.core_s / rows,
        decode_core_s=pc.sum(images["decode_s"]).as_py() / rows,
        score_s=scored.clock_s / rows_scored,
        score_core_s=scored.core_s / rows_scored,
        write_core_s=write_core_s / rows_scored,
        load_s=load_s,
        wait_s=float(quick.mean()) if quick.size else 0.0,
        slow_share=float(slow.sum()) / rows,
        slow_s=float(downloads[slow].mean()) if slow.any() else 0.0,
    )


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


def _score(config: Config, blocks: list[pa.Table], scorer: ScorerProtocol, lists: bool) -> _Spent:
    """Score blocks while there is time; at least one."""
    with_pixels = next((block for block in blocks if block["pixels"].null_count < block.num_rows), blocks[0])
    score_images(with_pixels.slice(0, WARM_IMAGES), scorer, lists=lists)
    began, core_began = time.perf_counter(), time.process_time()
    limit_s = config.plan.seconds * (1 - FETCH_SHARE)
    # the first block whatever it takes, the next ones while there is time left
    timely = takewhile(lambda block: block is blocks[0] or time.perf_counter() - began < limit_s, blocks)
    tables = [score_images(block, scorer, lists=lists) for block in timely]
    return _Spent(tables, time.perf_counter() - began, time.process_time() - core_began)


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
