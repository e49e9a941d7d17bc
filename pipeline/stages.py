"""What each stage of the graph does to an Arrow batch: pure functions, no Ray in them.

    image_blocks   rows of a chunk -> images with pixels, or with the reason why there are none   (CPU tasks)
    score_images   images -> one scored record a row; pixels end here                            (replicas)

Knows nothing of how work is spread, of files written, or of what is inside a scorer.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.config import Config
from pipeline.errors import DecodeError, FetchError
from pipeline.fetch import FetchRequest, process_fetcher
from pipeline.manifest import Manifest, base_url, read_rows
from pipeline.records import Caption, Chunk, ImageRecord, plan_images
from pipeline.schema import IMAGES, CaptionLengths, Reason, ScorerProtocol, Scores, score_schema, scored_schema

# ------------------------------------------------------------------ rows -> images


def image_blocks(chunk: Chunk, manifest: Manifest, config: Config, image_size: int) -> Iterator[pa.Table]:
    """Fetch and decode the rows of a chunk, yielding `schema.IMAGES` blocks of `compute.block_rows` images as they fill.

    Records come in the order in which downloads end, not in the manifest's. Raises StorageError and ManifestError where
    the manifest itself cannot be read; whatever is wrong with a row is its status.
    """
    shard = manifest.shards[chunk.shard]
    block = _Block(chunk.shard, config.compute.block_rows)
    pending: dict[int, ImageRecord] = {}
    for record in plan_images(_read(chunk, manifest, config), manifest.columns):
        if record.url is None:  # bytes in the row, or nothing to fetch
            if record.data is not None:
                _decode(record, record.data, config, image_size)
            yield from block.add(record)
        else:
            pending[len(pending)] = record
    requests = [FetchRequest(index, str(record.url)) for index, record in pending.items()]
    for result in process_fetcher(config.fetch, config.storage).fetch(requests, base_url(shard)):
        record = pending.pop(result.index)
        record.fetch_s = result.seconds
        if result.error is not None:
            record.fail(result.error)
        elif result.data is not None:
            _decode(record, result.data, config, image_size)
        yield from block.add(record)
    yield from block.flush()


def _read(chunk: Chunk, manifest: Manifest, config: Config) -> pa.Table:
    shard = manifest.shards[chunk.shard]
    columns = manifest.columns
    names = [name for name in (columns.url, columns.image, columns.caption, columns.sha256) if name is not None]
    tables = []
    for start, stop in chunk.ranges:
        table = read_rows(shard, config.storage, names, start, stop).select(names)
        tables.append(table.append_column("row", pa.array(range(start, stop), pa.int64())))
    return pa.concat_tables(tables)


def _decode(record: ImageRecord, data: bytes, config: Config, image_size: int) -> None:
    from pipeline.images import decode_image  # brings torch, which a driver must not pay for

    began = time.perf_counter()
    record.data = None
    record.bytes_read = len(data)
    record.image_sha256 = hashlib.sha256(data).hexdigest()
    if record.expected_sha256 not in (None, record.image_sha256):
        record.fail(FetchError(Reason.CONTENT_CHANGED))
        return
    try:
        record.pixels, record.original_width, record.original_height = decode_image(data, image_size, config.images)
    except DecodeError as error:
        record.fail(error)
    record.decode_s = time.perf_counter() - began


@dataclass
class _Block:
    """Collects records until there are `size` images to score: the replica's batches are full however many rows fail."""

    shard: int
    size: int
    records: list[ImageRecord] = field(default_factory=list)
    with_pixels: int = 0

    def add(self, record: ImageRecord) -> Iterator[pa.Table]:
        self.records.append(record)
        self.with_pixels += record.pixels is not None
        if self.with_pixels >= self.size or len(self.records) >= 8 * self.size:
            yield from self.flush()

    def flush(self) -> Iterator[pa.Table]:
        if self.records:
            records, self.records, self.with_pixels = self.records, [], 0
            yield _image_table(self.shard, records)


def _image_table(shard: int, records: Sequence[ImageRecord]) -> pa.Table:
    columns: dict[str, Any] = {
        "shard": pa.array(np.full(len(records), shard, np.int32)),
        "pixels": pa.array([None if r.pixels is None else r.pixels.data.cast("B") for r in records], pa.large_binary()),
        "score_s": pa.array(np.zeros(len(records), np.float32)),
    }
    for name in IMAGES.names:
        if name not in columns:
            columns[name] = pa.array([getattr(record, name) for record in records], IMAGES.field(name).type)
    return pa.table([columns[name] for name in IMAGES.names], schema=IMAGES)


# ------------------------------------------------------------------ images -> scores


def score_images(
    images: pa.Table, scorer: ScorerProtocol, *, batch_size: int, lists: bool, embedding: bool = False
) -> pa.Table:
    """Score a block of `schema.IMAGES`: one `schema.scored_schema` record a row, in the block's order.

    Every caption of every row of an image is scored in the one call that sees its pixels.
    """
    records = images.drop_columns(["pixels"]).to_pylist()
    texts = [[text for row in record["captions"] for text in row if text is not None] for record in records]
    pixels = one_chunk(images["pixels"])
    with_pixels = pixels.is_valid().to_numpy(zero_copy_only=False).nonzero()[0].tolist()
    scored: dict[int, _ImageScores] = {}
    for start in range(0, len(with_pixels), batch_size):
        batch = with_pixels[start : start + batch_size]
        scored |= _score_batch(pixels, texts, batch, scorer)
    lengths = _lengths(texts, scorer)
    rows = [
        row
        for index, record in enumerate(records)
        for row in _scored_rows(record, scored.get(index), lengths[index], lists=lists, embedding=embedding)
    ]
    dim = next((len(one.embedding) for one in scored.values() if one.embedding is not None), 0) if embedding else None
    return pa.Table.from_pylist(rows, schema=scored_schema(score_schema(lists=lists, embedding_dim=dim)))


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """The column as one array: without a copy where it is one already, as the fetch stage makes it."""
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def pixel_array(pixels: pa.LargeBinaryArray, first: int, last: int) -> npt.NDArray[np.uint8]:
    """Pixels of the records from `first` to `last`, both included: uint8 (B, S, S, 3), a view of the block's own memory.

    Records without pixels between them are passed over: a null occupies no bytes, so that the others lie side by side.
    """
    run = pixels.slice(first, last - first + 1)
    count = len(run) - run.null_count
    offsets = np.frombuffer(run.buffers()[1], np.int64)[run.offset : run.offset + len(run) + 1]
    flat = np.frombuffer(run.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    side = math.isqrt(len(flat) // count // 3)
    return flat.reshape(count, side, side, 3)


class _ImageScores(NamedTuple):
    scores: Scores  # of this image's captions alone
    embedding: npt.NDArray[np.float32] | None
    seconds: float


def _score_batch(
    pixels: pa.LargeBinaryArray, texts: list[list[str]], batch: list[int], scorer: ScorerProtocol
) -> dict[int, _ImageScores]:
    began = time.perf_counter()
    scores = scorer.score(pixel_array(pixels, batch[0], batch[-1]), [texts[index] for index in batch])
    seconds = (time.perf_counter() - began) / len(batch)
    ends = np.cumsum([len(texts[index]) for index in batch]).tolist()
    split: dict[int, _ImageScores] = {}
    for position, (index, end) in enumerate(zip(batch, ends, strict=True)):
        own = slice(end - len(texts[index]), end)
        embedding = None if scores.image_embedding is None else scores.image_embedding[position]
        parts = Scores(scores.itm_logits[own], scores.itm_score[own], scores.itc_similarity[own])
        split[index] = _ImageScores(parts, embedding, seconds)
    return split


def _lengths(texts: list[list[str]], scorer: ScorerProtocol) -> list[CaptionLengths]:
    lengths = scorer.caption_lengths([text for own in texts for text in own])
    ends = np.cumsum([0, *(len(own) for own in texts)]).tolist()
    return [CaptionLengths(lengths.tokens[a:b], lengths.truncated[a:b]) for a, b in itertools.pairwise(ends)]


_COPIED = ("shard", "status", "error_message", "original_width", "original_height", "image_sha256")


def _scored_rows(
    record: dict[str, Any], scored: _ImageScores | None, lengths: CaptionLengths, *, lists: bool, embedding: bool
) -> Iterator[dict[str, Any]]:
    """The rows of one image; what the image cost is put on its first row."""
    costs = {name: record[name] for name in ("fetch_s", "decode_s", "bytes_read")}
    costs["score_s"] = scored.seconds if scored is not None else 0.0
    per_caption: dict[str, list[Any]] = {
        "caption_tokens": lengths.tokens.tolist(),
        "caption_truncated": lengths.truncated.tolist(),
    }
    if scored is not None:
        logits = scored.scores.itm_logits
        per_caption["itm_score"] = scored.scores.itm_score.tolist()
        per_caption["itm_logit"] = (logits[:, 1] - logits[:, 0]).tolist()
        per_caption["itc_similarity"] = scored.scores.itc_similarity.tolist()
    used = 0
    for row, captions in zip(record["rows"], record["captions"], strict=True):
        present = sum(text is not None for text in captions)
        values = {name: _aligned(captions, flat[used : used + present], lists=lists) for name, flat in per_caption.items()}
        used += present
        scored_row = {"row": row, **{name: record[name] for name in _COPIED}, **values, **costs}
        if embedding:
            scored_row["image_embedding"] = None if scored is None or scored.embedding is None else scored.embedding
        yield scored_row
        costs = dict.fromkeys(costs, 0)


def _aligned(captions: Sequence[Caption], values: Sequence[Any], *, lists: bool) -> Any:
    """Values at the places of the captions that are there; the bare value where the column is not a list; null for none."""
    remaining = iter(values)
    placed = [None if text is None else next(remaining) for text in captions]
    return (placed or None) if lists else placed[0]
