"""What each stage of the graph does to an Arrow batch: pure functions, no Ray in them.

    image_blocks   rows of a chunk -> images with pixels, or with the reason why there are none   (CPU tasks)
    score_images   images -> one scored record a row; pixels end here                            (replicas)

Knows nothing of how work is spread, of files written, or of what is inside a scorer.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import DEFAULT_BLOCK_ROWS, Config
from pipeline.errors import DecodeError
from pipeline.fetch import Fetcher, FetchRequest
from pipeline.manifest import Manifest, base_url, read_rows
from pipeline.records import Chunk, ImageRecord, plan_images
from pipeline.schema import COSTS, IMAGES, FloatArray, ScorerProtocol, Scores, score_schema, scored_schema

# ------------------------------------------------------------------ rows -> images


def image_blocks(chunk: Chunk, manifest: Manifest, config: Config, image_size: int) -> Iterator[pa.Table]:
    """Fetch and decode the rows of a chunk, yielding `schema.IMAGES` blocks of `compute.block_rows` images as they fill.

    Records come in the order in which downloads end, not in the manifest's. Raises StorageError and ManifestError where
    the manifest itself cannot be read; whatever is wrong with a row is its status.
    """
    shard = manifest.shards[chunk.shard]
    block = _Block(chunk.shard, config.compute.block_rows or DEFAULT_BLOCK_ROWS)
    pending: dict[int, ImageRecord] = {}
    for record in plan_images(_read(chunk, manifest, config), manifest.columns):
        if record.url is None:  # bytes in the row, or nothing to fetch
            if record.data is not None:
                _decode(record, record.data, config, image_size)
            yield from block.add(record)
        else:
            pending[len(pending)] = record
    with Fetcher(config.fetch, config.storage, base_url(shard)) as fetcher:
        for result in fetcher.fetch(FetchRequest(index, str(record.url)) for index, record in pending.items()):
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
    names = [name for name in (manifest.columns.url, manifest.columns.image, manifest.columns.caption) if name is not None]
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
        "pixels": pixel_column([record.pixels for record in records]),
    }
    for name in IMAGES.names:
        if name not in columns:
            columns[name] = pa.array([getattr(record, name) for record in records], IMAGES.field(name).type)
    return pa.table([columns[name] for name in IMAGES.names], schema=IMAGES)


def pixel_column(images: Sequence[npt.NDArray[np.uint8] | None]) -> pa.LargeBinaryArray:
    """(S, S, 3) arrays or nulls as one Arrow column, each copied once; a null occupies no bytes."""
    present = [image is not None for image in images]
    sizes = [0 if image is None else image.size for image in images]
    flat = np.empty(sum(sizes), np.uint8)
    offsets = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
    for image, start in zip(images, offsets[:-1].tolist(), strict=True):
        if image is not None:
            flat[start : start + image.size] = image.reshape(-1)
    validity = pa.array(present, pa.bool_()).buffers()[1]
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(images), [validity, pa.py_buffer(offsets), pa.py_buffer(flat)]
    )


# ------------------------------------------------------------------ images -> scores


def score_images(
    images: pa.Table, scorer: ScorerProtocol, *, batch_size: int, lists: bool, embedding_dim: int | None = None
) -> pa.Table:
    """Score a block of `schema.IMAGES`: one `schema.scored_schema` record a row, in the block's order.

    Every caption of every row of an image is scored in the one call that sees its pixels. Columns of `schema.COSTS` that the
    block has are handed on, an image's on its first row.
    """
    captions = _Captions.of(images)
    lengths = scorer.caption_lengths(captions.texts)
    scored = _score(images, captions, scorer, batch_size)
    rows = one_chunk(images["rows"])
    image_of_row = pc.list_parent_indices(rows)
    first_rows = np.diff(image_of_row.to_numpy(), prepend=-1) != 0
    columns: dict[str, pa.Array] = {"row": rows.flatten()}
    for name in _COPIED:
        columns[name] = images[name].take(image_of_row)
    present = np.flatnonzero(captions.present)
    columns["caption_tokens"] = captions.column(lengths.tokens, present, lists=lists)
    columns["caption_truncated"] = captions.column(lengths.truncated, present, lists=lists)
    no_pixels = pc.is_null(images["pixels"]).take(image_of_row)
    for name, values in scored.columns.items():
        column = captions.column(values, scored.places, lists=lists)
        columns[name] = pc.if_else(no_pixels, pa.scalar(None, column.type), column)
    for name in COSTS.names:
        costs = scored.seconds if name == "score_s" else _cost(images, name)
        columns[name] = pa.array(np.where(first_rows, costs[image_of_row.to_numpy()], 0), COSTS.field(name).type)
    if embedding_dim is not None:
        columns["image_embedding"] = scored.embedding_column(embedding_dim).take(image_of_row)
    schema = scored_schema(score_schema(lists=lists, embedding_dim=embedding_dim))
    return pa.table([columns[name] for name in schema.names], schema=schema)


_COPIED = ("shard", "status", "error_message", "original_width", "original_height", "image_sha256")


class _Captions(NamedTuple):
    """The captions of a block, flat: every entry of every row of every image."""

    texts: list[str]  # those that are there
    present: npt.NDArray[np.bool_]  # (entries,)
    row_offsets: npt.NDArray[np.int32]  # (rows + 1,): entries of each row
    image_offsets: npt.NDArray[np.int64]  # (images + 1,): texts of each image

    @classmethod
    def of(cls, images: pa.Table) -> Self:
        by_image = one_chunk(images["captions"])
        by_row = by_image.flatten()
        flat = by_row.flatten()
        present = flat.is_valid().to_numpy(zero_copy_only=False)
        row_offsets = np.concatenate(([0], np.cumsum(by_row.value_lengths().to_numpy()))).astype(np.int32)
        image_rows = np.concatenate(([0], np.cumsum(by_image.value_lengths().to_numpy())))
        texts_before = np.concatenate(([0], np.cumsum(present)))
        return cls(flat.drop_null().to_pylist(), present, row_offsets, texts_before[row_offsets[image_rows]])

    def column(self, values: npt.NDArray[Any], places: npt.NDArray[np.int64], *, lists: bool) -> pa.Array:
        """Values at their places among the entries, null elsewhere: one a row, or a list a row (null for an empty one)."""
        entries = np.zeros(len(self.present), values.dtype)
        missing = np.ones(len(self.present), dtype=bool)
        entries[places], missing[places] = values, False
        flat = pa.array(entries, mask=missing)
        if not lists:
            return flat
        empty = pa.array(np.diff(self.row_offsets) == 0)
        return pa.ListArray.from_arrays(pa.array(self.row_offsets), flat, mask=empty)


class _Scored(NamedTuple):
    """Scores of a block's images that have pixels."""

    places: npt.NDArray[np.int64]  # of the scored captions among all entries
    columns: dict[str, FloatArray]  # a value a scored caption
    seconds: FloatArray  # (images,): share of the model call; 0 without pixels
    embeddings: list[FloatArray]  # of each model call
    with_pixels: npt.NDArray[np.int64]  # indices of images

    def embedding_column(self, dim: int) -> pa.Array:
        """One an image, null without pixels."""
        flat = np.concatenate(self.embeddings).ravel() if self.embeddings else np.empty(0, np.float32)
        places = np.zeros(len(self.seconds), np.int64)
        missing = np.ones(len(self.seconds), dtype=bool)
        places[self.with_pixels], missing[self.with_pixels] = np.arange(len(self.with_pixels)), False
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), dim).take(pa.array(places, mask=missing))


def _score(images: pa.Table, captions: _Captions, scorer: ScorerProtocol, batch_size: int) -> _Scored:
    pixels = one_chunk(images["pixels"])
    with_pixels = pixels.is_valid().to_numpy(zero_copy_only=False).nonzero()[0]
    seconds = np.zeros(images.num_rows, np.float32)
    ends = captions.image_offsets
    calls: list[Scores] = []
    for start in range(0, len(with_pixels), batch_size):
        batch = with_pixels[start : start + batch_size]
        began = time.perf_counter()
        texts = [captions.texts[ends[index] : ends[index + 1]] for index in batch]
        calls.append(scorer.score(pixel_array(pixels, int(batch[0]), int(batch[-1])), texts))
        seconds[batch] = (time.perf_counter() - began) / len(batch)
    logits = np.concatenate([call.itm_logits for call in calls]) if calls else np.empty((0, 2), np.float32)
    columns = {"itm_score": _joined([call.itm_score for call in calls]), "itm_logit": logits[:, 1] - logits[:, 0]}
    columns["itc_similarity"] = _joined([call.itc_similarity for call in calls])
    scored_texts = [np.arange(ends[index], ends[index + 1]) for index in with_pixels]
    present = np.flatnonzero(captions.present)
    places = present[np.concatenate(scored_texts)] if scored_texts else present[:0]
    return _Scored(places, columns, seconds, [c.image_embedding for c in calls if c.image_embedding is not None], with_pixels)


def _joined(parts: Sequence[FloatArray]) -> FloatArray:
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def _cost(images: pa.Table, name: str) -> npt.NDArray[Any]:
    return images[name].to_numpy() if name in images.schema.names else np.zeros(images.num_rows, np.float32)


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
