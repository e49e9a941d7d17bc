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
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import DEFAULT_BLOCK_ROWS, Config, ImagesConfig
from pipeline.errors import FetchError
from pipeline.fetch import FetchRequest, process_fetcher
from pipeline.isolation import DECODE, Decoded, Decoder, InProcessDecoder
from pipeline.manifest import Manifest, base_url, read_rows
from pipeline.records import Chunk, ImageRecord, plan_images
from pipeline.schema import COSTS, IMAGES, FloatArray, Reason, ScorerProtocol, Scores, score_schema, scored_schema

Pixels = npt.NDArray[np.uint8]

# ------------------------------------------------------------------ rows -> images


def image_blocks(
    chunk: Chunk, manifest: Manifest, config: Config, image_size: int, *, decode: str = DECODE, base: str | None = None
) -> Iterator[pa.Table]:
    """Fetch and decode the rows of a chunk, yielding `schema.IMAGES` blocks of `compute.block_rows` images as they fill.

    base: folder that relative paths start from; None: that of the chunk's file. Records come in the order in which downloads
    end, not in the manifest's. Raises StorageError and ManifestError where
    the manifest itself cannot be read; whatever is wrong with a row is its status, be it that a decoder dies of it.
    """
    block = _Block(chunk.shard, config.compute.block_rows or DEFAULT_BLOCK_ROWS, image_size)
    with _decoder(config.images, image_size, decode) as decoder:
        for record, data in _received(chunk, manifest, config, base):
            if data is None:
                yield from block.add(record)
                continue
            for image in decoder.submit(record, data):
                yield from block.add_decoded(image)
        for image in decoder.drain():
            yield from block.add_decoded(image)
    yield from block.flush()


def _decoder(config: ImagesConfig, size: int, decode: str) -> Decoder[ImageRecord] | InProcessDecoder[ImageRecord]:
    return Decoder(size, config, decode) if config.isolate else InProcessDecoder(size, config)


class _Received(NamedTuple):
    record: ImageRecord
    data: bytes | None  # None: the record has failed


def _received(chunk: Chunk, manifest: Manifest, config: Config, base: str | None) -> Iterator[_Received]:
    """Every image of a chunk with its bytes: those in the rows first, then the others as downloads end."""
    pending: dict[int, ImageRecord] = {}
    for record in plan_images(_read(chunk, manifest, config), manifest.columns):
        if record.url is None:  # bytes in the row, or nothing to fetch
            data, record.data = record.data, None
            yield _identified(record, data)
        else:
            pending[len(pending)] = record
    requests = [FetchRequest(index, str(record.url)) for index, record in pending.items()]
    folder = base or base_url(manifest.shards[chunk.shard])
    for result in process_fetcher(config.fetch, config.storage).fetch(requests, folder):
        record = pending.pop(result.index)
        record.fetch_s, record.retries = result.seconds, result.retries
        if result.error is not None:
            record.fail(result.error)
        yield _identified(record, result.data)


def _identified(record: ImageRecord, data: bytes | None) -> _Received:
    """Note which bytes these are, before anything looks into them; refuse other ones than the row expects."""
    if data is not None:
        record.bytes_read = len(data)
        record.image_sha256 = hashlib.sha256(data).hexdigest()
        if record.expected_sha256 not in (None, record.image_sha256):
            record.fail(FetchError(Reason.CONTENT_CHANGED))
            return _Received(record, None)
    return _Received(record, data)


def _read(chunk: Chunk, manifest: Manifest, config: Config) -> pa.Table:
    shard = manifest.shards[chunk.shard]
    columns = manifest.columns
    names = [name for name in (columns.url, columns.image, columns.caption, columns.sha256) if name is not None]
    tables = []
    for start, stop in chunk.ranges:
        table = read_rows(shard, config.storage, names, start, stop).select(names)
        tables.append(table.append_column("row", pa.array(range(start, stop), pa.int64())))
    return pa.concat_tables(tables)


class _Block:
    """Collects records until there are `size` images to score: the replica's batches are full however many rows fail.

    Pixels are copied once, from where they were decoded to the memory that the block's Arrow column is.
    """

    def __init__(self, shard: int, size: int, image_size: int) -> None:
        self.shard = shard
        self.shape = (size, image_size, image_size, 3)
        self.pixels: Pixels | None = None  # (size, S, S, 3), side by side in the order of the records that have some
        self.has_pixels: list[bool] = []  # of each record
        self.filled = 0
        self.records: list[ImageRecord] = []

    def add_decoded(self, image: Decoded[ImageRecord]) -> Iterator[pa.Table]:
        record = image.token
        record.decode_s = image.seconds
        if image.error is not None:
            record.fail(image.error)
        else:
            record.original_width, record.original_height = image.width, image.height
        yield from self.add(record, image.pixels)

    def add(self, record: ImageRecord, pixels: Pixels | None = None) -> Iterator[pa.Table]:
        if pixels is not None:
            if self.pixels is None:
                self.pixels = np.empty(self.shape, np.uint8)
            self.pixels[self.filled] = pixels
            self.filled += 1
        self.records.append(record)
        self.has_pixels.append(pixels is not None)
        if self.filled >= self.shape[0] or len(self.records) >= 8 * self.shape[0]:
            yield from self.flush()

    def flush(self) -> Iterator[pa.Table]:
        if self.records:
            table = _image_table(self.shard, self.records, pixel_column(self.has_pixels, self.pixels))
            self.records, self.has_pixels, self.filled = [], [], 0
            self.pixels = None  # the table's own now
            yield table


def pixel_column(present: Sequence[bool], pixels: Pixels | None) -> pa.LargeBinaryArray:
    """An Arrow column over the memory of `pixels`, without a copy: one image for each record that has one, null for others."""
    valid = np.array(present)
    flat = np.empty(0, np.uint8) if pixels is None else pixels[: valid.sum()].reshape(-1)
    offsets = np.concatenate([[0], np.cumsum(valid)]) * (flat.size // max(1, valid.sum()))
    buffers = [pa.py_buffer(np.packbits(valid, bitorder="little")), pa.py_buffer(offsets.astype(np.int64)), pa.py_buffer(flat)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(valid), buffers)


def _image_table(shard: int, records: Sequence[ImageRecord], pixels: pa.LargeBinaryArray) -> pa.Table:
    columns: dict[str, Any] = {
        "shard": pa.array(np.full(len(records), shard, np.int32)),
        "pixels": pixels,
    }
    for name in IMAGES.names:
        if name not in columns:
            columns[name] = pa.array([getattr(record, name) for record in records], IMAGES.field(name).type)
    return pa.table([columns[name] for name in IMAGES.names], schema=IMAGES)


# ------------------------------------------------------------------ images -> scores


def score_images(images: pa.Table, scorer: ScorerProtocol, *, lists: bool, embedding_dim: int | None = None) -> pa.Table:
    """Score a block of `schema.IMAGES`: one `schema.scored_schema` record a row, in the block's order.

    The scorer gets the whole block, which it cuts into batches; every caption of every row of an image is scored in the one
    pass that sees its pixels. Columns of `schema.COSTS` that the
    block has are handed on, an image's on its first row.
    """
    captions = _Captions.of(images)
    lengths = scorer.caption_lengths(captions.texts)
    scored = _score(images, captions, scorer)
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
    seconds: FloatArray  # (images,): share of the scorer's call; 0 without pixels
    embeddings: FloatArray | None  # (images with pixels, dim)
    with_pixels: npt.NDArray[np.int64]  # indices of images

    def embedding_column(self, dim: int) -> pa.Array:
        """One an image, null without pixels."""
        flat = np.empty(0, np.float32) if self.embeddings is None else self.embeddings.ravel()
        places = np.zeros(len(self.seconds), np.int64)
        missing = np.ones(len(self.seconds), dtype=bool)
        places[self.with_pixels], missing[self.with_pixels] = np.arange(len(self.with_pixels)), False
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), dim).take(pa.array(places, mask=missing))


def _score(images: pa.Table, captions: _Captions, scorer: ScorerProtocol) -> _Scored:
    pixels = one_chunk(images["pixels"])
    with_pixels = pixels.is_valid().to_numpy(zero_copy_only=False).nonzero()[0]
    seconds = np.zeros(images.num_rows, np.float32)
    none = np.empty(0, np.float32)
    scores, places = Scores(np.empty((0, 2), np.float32), none, none), np.empty(0, np.int64)
    if len(with_pixels):
        began = time.perf_counter()
        texts = [np.arange(captions.image_offsets[index], captions.image_offsets[index + 1]) for index in with_pixels]
        scores = scorer.score(pixel_array(pixels), [[captions.texts[number] for number in own] for own in texts])
        seconds[with_pixels] = (time.perf_counter() - began) / len(with_pixels)
        places = np.flatnonzero(captions.present)[np.concatenate(texts)]
    columns = {
        "itm_score": scores.itm_score,
        "itm_logit": scores.itm_logits[:, 1] - scores.itm_logits[:, 0],
        "itc_similarity": scores.itc_similarity,
    }
    return _Scored(places, columns, seconds, scores.image_embedding, with_pixels)


def _cost(images: pa.Table, name: str) -> npt.NDArray[Any]:
    return images[name].to_numpy() if name in images.schema.names else np.zeros(images.num_rows, np.float32)


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """The column as one array: without a copy where it is one already, as the fetch stage makes it."""
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def pixel_array(pixels: pa.LargeBinaryArray) -> npt.NDArray[np.uint8]:
    """Pixels of all records that have some (at least one): uint8 (B, S, S, 3), a view of the block's own memory.

    Records without pixels are passed over: a null occupies no bytes, so that the others lie side by side.
    """
    count = len(pixels) - pixels.null_count
    offsets = np.frombuffer(pixels.buffers()[1], np.int64)[pixels.offset : pixels.offset + len(pixels) + 1]
    flat = np.frombuffer(pixels.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    side = math.isqrt(len(flat) // count // 3)
    return flat.reshape(count, side, side, 3)
