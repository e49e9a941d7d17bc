"""What is known of the pairs that are shown: read again, once it is clear which ones they are.

Only here does the report read captions and, where rows hold them, images. What texts say is anybody's: it is cut to a length
that a page can bear, and secrets that URLs carry are left out. Knows nothing of HTML.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from yarl import URL

from pipeline.columns import Columns
from pipeline.config import StorageConfig
from pipeline.filters.source import Dataset
from pipeline.manifest import read_rows
from pipeline.report.gallery import Place

MOST_CAPTION = 600  # characters
MOST_URL = 400
# Names of query parameters that let whoever has the URL in: of signed URLs of S3, GCS, Azure, CloudFront, and of tokens.
_SECRET = re.compile(r"sig|token|key|cred|secret|passw|auth|policy", re.IGNORECASE)

DETAILS = ("itm_score", "itm_logit", "itc_similarity", "original_width", "original_height", "image_sha256", "caption_tokens")


@dataclass(frozen=True)
class Pair:
    """A pair of a gallery."""

    place: Place
    file: str  # URL of the scored file
    row: int  # within that file
    caption: str | None
    key: str | None
    url: str | None  # as the row has it: for fetching, not for showing
    data: bytes | None  # the image, where the row holds it
    scores: dict[str, Any]  # by the names of DETAILS; None where unknown

    @property
    def image(self) -> str:
        """SHA-256 of the image that was scored; empty where unknown."""
        return self.scores["image_sha256"] or ""


def read_pairs(places: Sequence[Place], dataset: Dataset, columns: Columns, storage: StorageConfig) -> dict[Place, Pair]:
    """The pairs at these places. Raises ManifestError and StorageError as `read_rows` does."""
    layout = dataset.layout
    names = {name: layout.ours(name) for name in DETAILS}
    wanted = {*columns.roles().values(), *names.values()}
    found = {}
    rows: dict[tuple[int, int], pa.Table] = {}
    for place in places:
        run = dataset.runs[place.run]
        if (place.run, place.row) not in rows:
            own = [name for name in dataset.schemas[run.file.url].names if name in wanted]
            rows[place.run, place.row] = read_rows(run, storage, own, place.row, place.row + 1)
        cells = _Cells(rows[place.run, place.row], place.entry, layout.lists)
        data, path = _image(cells.value(columns.image))
        found[place] = Pair(
            place=place,
            file=run.file.url,
            row=run.first_row + place.row,
            caption=cells.text(columns.caption),
            key=cells.text(columns.key),
            url=cells.text(columns.url) or path,
            data=data,
            scores={name: cells.plain(column) for name, column in names.items()},
        )
    return found


@dataclass(frozen=True)
class _Cells:
    """A row, and which entry of its lists is meant."""

    row: pa.Table
    entry: int
    lists: tuple[str, ...]

    def value(self, name: str | None) -> Any:
        """The Arrow scalar; None where the file has no such column, or the row no value."""
        if name is None or name not in self.row.column_names:
            return None
        value = self.row[name][0]
        if value.is_valid and name in self.lists:
            if self.entry >= len(value.values):
                return None
            value = value.values[self.entry]
        return value if value.is_valid else None

    def plain(self, name: str) -> Any:
        """The value as Python has it; None for what is no number, or no finite one."""
        value = self.value(name)
        plain = None if value is None else value.as_py()
        return None if isinstance(plain, float) and not math.isfinite(plain) else plain

    def text(self, name: str | None) -> str | None:
        """The value as text, whatever its bytes are."""
        value = self.value(name)
        if isinstance(value, pa.DictionaryScalar):
            value = value.value
        if value is None:
            return None
        if isinstance(value, pa.StringScalar | pa.LargeStringScalar | pa.StringViewScalar):
            return str(value.as_buffer().to_pybytes(), "utf-8", "replace")
        return str(value.as_py())


def _image(value: Any) -> tuple[bytes | None, str | None]:
    """Bytes and path of an image column's value: binary, or Hugging Face's struct of both."""
    plain = None if value is None else value.as_py()
    if isinstance(plain, dict):
        return plain.get("bytes"), plain.get("path")
    return plain, None


def cut(text: str, most: int) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= most else text[: most - 1] + "…"


def shown_url(url: str) -> str:
    """A URL as it may be seen by others: without user and password, and without a query that lets its holder in.

    Of a signed URL the query goes as a whole, because its parts mean nothing alone. What is no URL is shown as it is.
    """
    url = url.strip()
    try:
        parsed = URL(url, encoded=True)
        bare = parsed.with_user(None) if parsed.raw_user or parsed.raw_password else parsed
        if any(_SECRET.search(name) for name in bare.query):
            bare = bare.with_query(None)
        changed = bare is not parsed
    except ValueError:
        return cut(url.partition("?")[0], MOST_URL)
    return cut(str(bare) if changed else url, MOST_URL)
