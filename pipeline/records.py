"""From rows of a manifest to images: which rows name the same image, which have none, which have no caption.

Pure: nothing is fetched or decoded here. Knows nothing of Ray, of stores, or of what becomes of a record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.columns import Columns
from pipeline.errors import InvalidRowError, RowError
from pipeline.schema import Reason, Status

Caption = str | None  # None: the entry is no caption


class Chunk(NamedTuple):
    """The unit of work: rows of one shard, as half-open ranges of row numbers within it."""

    shard: int  # index into Manifest.shards
    ranges: tuple[tuple[int, int], ...]


@dataclass
class ImageRecord:
    """One image of a chunk, with every row that names it. Field names are those of `schema.IMAGES`, which holds its pixels."""

    rows: list[int]
    captions: list[list[Caption]]
    data: bytes | None = None
    url: str | None = None
    expected_sha256: str | None = None  # hexadecimal, lower case
    status: Status = Status.SUCCESS
    error_message: str | None = None
    original_width: int | None = None
    original_height: int | None = None
    image_sha256: str | None = None
    fetch_s: float = 0.0
    decode_s: float = 0.0
    bytes_read: int = 0
    retries: int = 0

    def fail(self, error: RowError) -> None:
        """Keep travelling, without pixels."""
        self.status, self.error_message = error.status, error.reason


def plan_images(rows: pa.Table, columns: Columns) -> list[ImageRecord]:
    """One record an image: rows with the same URL (and hash, if any) share it, rows with bytes of their own have one each.

    `rows` has a column `row` (int64) beside the manifest's own.
    """
    captions = _captions(rows, columns)
    images = _column(rows, columns.image)
    urls = _column(rows, columns.url)
    records: list[ImageRecord] = []
    hashes = _column(rows, columns.sha256)
    by_url: dict[tuple[str, str | None], ImageRecord] = {}
    for row, caption, image, url, sha256 in zip(rows["row"].to_pylist(), captions, images, urls, hashes, strict=True):
        expected = _reference(sha256.lower() if sha256 is not None else None)
        record = ImageRecord([row], [caption], expected_sha256=expected)
        data, path = _image_value(image)
        reference = _reference(url) or path
        if not any(text is not None for text in caption):
            record.fail(InvalidRowError(Reason.NO_CAPTION))
        elif data is not None:
            record.data = data
        elif reference is None:
            record.fail(InvalidRowError(Reason.NO_IMAGE))
        elif (reference, expected) in by_url:
            by_url[reference, expected].rows.append(row)
            by_url[reference, expected].captions.append(caption)
            continue
        else:
            record.url = reference
            by_url[reference, expected] = record
        records.append(record)
    return records


def _column(rows: pa.Table, name: str | None) -> list[Any]:
    return [None] * rows.num_rows if name is None else rows[name].to_pylist()


def _captions(rows: pa.Table, columns: Columns) -> list[list[Caption]]:
    values = rows[columns.caption].to_pylist()
    if pa.types.is_nested(rows.schema.field(columns.caption).type):
        return [[_caption(text) for text in value or ()] for value in values]
    return [[_caption(value)] for value in values]


def _caption(text: str | None) -> Caption:
    """A blank caption says nothing that an image could match: it is none."""
    return text if text is not None and text.strip() else None


def _image_value(image: Any) -> tuple[bytes | None, str | None]:
    """Bytes and path of an image column's value: binary, or Hugging Face's struct of both."""
    if isinstance(image, dict):
        return image.get("bytes"), _reference(image.get("path"))
    return image, None


def _reference(url: str | None) -> str | None:
    return url.strip() or None if url is not None else None
