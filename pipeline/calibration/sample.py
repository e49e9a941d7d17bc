"""Rows worth labelling: drawn at random within strata of the score, so that all scores are there, and weights are known.

Two passes stream the data: the first reads scores, of which memory holds 4 bytes a row (and 8 more for a while, to sort
them), the second the rows that were drawn. The same data and seed give the same sample. It comes in random order, so that
whoever stops half-way has labelled a random part of every stratum.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from pipeline import storage
from pipeline.calibration.rows import ScoreColumn, joined_column, row_keys
from pipeline.columns import KINDS, NAMES, kind_of
from pipeline.config import Config, StorageConfig
from pipeline.errors import ConfigError, ManifestError
from pipeline.filters.select import in_order
from pipeline.filters.source import Dataset, find_dataset, read_batches
from pipeline.filters.values import View
from pipeline.shards import Shard
from pipeline.thumbnails import Wanted, thumbnails

THREADS = 4  # files read at a time
SIDE = 512  # pixels of a thumbnail at most: what a page shows beside a caption
MAX_CELL = 32_000  # characters; spreadsheets take 32,767
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run what begins so

Rows = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]


class SampleSettings(BaseModel):
    """What is drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    column: ScoreColumn = "itm_score"
    rows: int = Field(default=400, ge=1, le=100_000)  # an hour or two of labelling
    bins: int = Field(default=10, ge=1, le=1000)
    strata: Literal["quantiles", "widths"] = "quantiles"  # bins of as many rows each, or of the same width
    seed: int = Field(default=0, ge=0)
    thumbnails: bool = False  # from the column of image bytes


class Stratum(NamedTuple):
    """One bin of scores."""

    low: float  # lowest and highest score in it
    high: float
    rows: int  # of the data
    drawn: int


class Sample(NamedTuple):
    """Rows to label."""

    table: pa.Table  # key, url, caption, the score, stratum, stratum_rows, weight, label (null), maybe image (JPEG)
    strata: tuple[Stratum, ...]
    rows: int  # of the data
    scored: int  # of them that have a score


def draw_sample(config: Config, settings: SampleSettings, progress: Progress | None = None) -> Sample:
    """Draw rows of `input.manifest`. `progress` is called with rows read and rows in all.

    Raises ConfigError and ManifestError for data without such scores, or whose keys are not unique; StorageError.
    """
    if not config.input.manifest:
        raise ConfigError("nothing to draw from: name the folder that score.py wrote with --input.manifest")
    dataset = find_dataset(config)
    name = joined_column(dataset, settings.column, config)
    source = _Source(dataset, name, settings.column, _image_column(dataset, config) if settings.thumbnails else None)
    scores = _read_scores(dataset, name, config, progress)
    strata = cut_strata(scores, settings.bins, settings.strata)
    if not strata:
        raise ManifestError(f"no row of {len(scores):,} has a number in column {name!r}: there is nothing to label")
    drawn = draw(strata, settings.rows, settings.seed)
    table = _read_rows(source, drawn, strata, config)
    facts = [
        Stratum(float(scores[rows[0]]), float(scores[rows[-1]]), len(rows), int((drawn.stratum == number).sum()))
        for number, rows in enumerate(strata)
    ]
    return Sample(table, tuple(facts), len(scores), sum(map(len, strata)))


def _read_scores(dataset: Dataset, column: str, config: Config, progress: Progress | None) -> npt.NDArray[np.floating]:
    layout = dataset.layout
    wanted = [column, *([layout.ranking] if column in layout.lists else [])]

    def scan(run: Shard) -> npt.NDArray[np.floating]:
        parts = [View(batch, layout).numbers(column) for batch in read_batches(run, layout, config.storage, wanted)]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    found: list[npt.NDArray[np.floating]] = []
    with closing(in_order(scan, dataset.runs, THREADS)) as results:
        for scores in results:
            found.append(scores)
            if progress:
                progress(sum(map(len, found)), dataset.rows)
    return np.concatenate(found) if found else np.zeros(0, np.float32)


def cut_strata(scores: npt.NDArray[np.floating], bins: int, kind: Literal["quantiles", "widths"]) -> list[Rows]:
    """Rows with a score, by stratum, rising by score: `bins` parts of equal counts or equal widths, without empty ones.

    Equal scores may lie in two quantile bins, by the rows' order: any parts do, as long as rows are drawn at random in each.
    """
    rows = np.flatnonzero(np.isfinite(scores))
    rows = rows[np.argsort(scores[rows], kind="stable")]
    if kind == "quantiles" or not len(rows):
        parts = np.array_split(rows, bins)
    else:
        rising = scores[rows]
        inner = np.linspace(float(rising[0]), float(rising[-1]), bins + 1)[1:-1]
        parts = np.split(rows, np.searchsorted(rising, inner))
    return [part for part in parts if len(part)]


class Drawn(NamedTuple):
    """m rows, in the order in which they are labelled."""

    rows: Rows  # (m,)
    stratum: npt.NDArray[np.int64]  # (m,)


def draw(strata: list[Rows], count: int, seed: int) -> Drawn:
    """As many rows of every stratum, `count` in all; strata that have fewer give all, and the others more."""
    shares = allocate([len(rows) for rows in strata], count)
    rng = np.random.default_rng(seed)
    rows = np.concatenate([rng.choice(part, share, replace=False) for part, share in zip(strata, shares, strict=True)])
    stratum = np.repeat(np.arange(len(strata)), shares)
    order = rng.permutation(len(rows))
    return Drawn(rows[order], stratum[order])


def allocate(sizes: list[int], count: int) -> list[int]:
    """`count` (or all there are) spread evenly over bins of these sizes; what doesn't divide goes to the first bins."""
    shares = [0] * len(sizes)
    left = min(count, sum(sizes))
    while left:
        open_bins = [number for number, size in enumerate(sizes) if shares[number] < size]
        each = left // len(open_bins)
        for number in open_bins if each else open_bins[:left]:
            more = min(max(each, 1), sizes[number] - shares[number])
            shares[number] += more
            left -= more
    return shares


# ------------------------------------------------------------------ second pass


class _Source(NamedTuple):
    """Where rows are read from."""

    dataset: Dataset
    name: str  # of the score in the data
    column: str  # of the score in the sample
    images: str | None  # column of image bytes


def _image_column(dataset: Dataset, config: Config) -> str:
    """The column of image bytes. Raises ConfigError where there is none."""
    wanted = config.input.columns.image
    for url, schema in dataset.schemas.items():
        for name in [wanted] if wanted else schema.names:
            known = wanted or name.lower() in NAMES["image"]
            if known and name in schema.names and kind_of(schema.field(name).type) in KINDS["image"]:
                return str(name)
        named = f"no column {wanted!r} of image bytes" if wanted else "no column of image bytes"
        raise ConfigError(f"{named} in {url}: leave out --thumbnails, or set --input.columns.image NAME")
    raise ConfigError("no files to take images from")


def _read_rows(source: _Source, drawn: Drawn, strata: list[Rows], config: Config) -> pa.Table:
    dataset = source.dataset
    borders = np.cumsum([0, *(run.rows for run in dataset.runs)])
    by_row = np.argsort(drawn.rows)
    rising = drawn.rows[by_row]
    places = np.searchsorted(rising, borders)
    found: list[dict[str, Any]] = []
    for number, run in enumerate(dataset.runs):
        rows = rising[places[number] : places[number + 1]] - borders[number]
        found += _run_rows(source, run, rows, config) if len(rows) else []
    if source.images:
        small = thumbnails([Wanted(row["image"]) for row in found], config, SIDE)
        found = [{**row, "image": thumbnail.data} for row, thumbnail in zip(found, small, strict=True)]
    table = pa.Table.from_pylist(found, schema=_schema(source))
    table = table.take(pa.array(np.argsort(by_row)))
    keys = table["key"]
    if keys.null_count or len(keys.unique()) < len(keys):
        raise ManifestError(
            f"column {dataset.layout.key!r} does not tell rows apart: rows of the sample have the same key, or none. "
            "Name another with --input.columns.key"
        )
    sizes = np.array([len(rows) for rows in strata])[drawn.stratum]
    shares = np.bincount(drawn.stratum)[drawn.stratum]
    for field, values in (("stratum", drawn.stratum), ("stratum_rows", sizes), ("weight", sizes / shares)):
        table = table.set_column(table.schema.get_field_index(field), table.schema.field(field), pa.array(values))
    return table


def _schema(source: _Source) -> pa.Schema:
    fields = [("key", pa.string()), ("url", pa.string()), ("caption", pa.string()), (source.column, pa.float64())]
    fields += [("stratum", pa.int64()), ("stratum_rows", pa.int64()), ("weight", pa.float64()), ("label", pa.string())]
    return pa.schema(fields + ([("image", pa.binary())] if source.images else []))


def _run_rows(source: _Source, run: Shard, rows: Rows, config: Config) -> Iterator[dict[str, Any]]:
    """The rows of a run with these numbers, rising."""
    layout = source.dataset.layout
    lists = [layout.ranking] if {source.name, layout.caption} & set(layout.lists) else []
    wanted = (layout.key, layout.url, layout.caption, source.name, source.images, *lists)
    columns = [column for column in wanted if column is not None]
    first = 0
    for batch in read_batches(run, layout, config.storage, columns):
        inside = pa.array(rows[(rows >= first) & (rows < first + batch.num_rows)] - first)
        if len(inside):
            keys = row_keys(batch, run, first, layout).take(inside).to_pylist()
            view = View(batch.take(inside), layout)
            columns_of = {
                "url": _texts(view, layout.url),
                "caption": _texts(view, layout.caption),
                source.column: view.numbers(source.name).tolist(),
                "image": [_bytes(value) for value in _values(view, source.images)],
            }
            for index, key in enumerate(keys):
                yield {"key": key, **{name: values[index] for name, values in columns_of.items()}}
        first += batch.num_rows


def _values(view: View, name: str | None) -> list[Any]:
    """The column's values; None for each row where there is no such column."""
    if name is None or name not in view.batch.schema.names:
        return [None] * view.batch.num_rows
    return list(view.array(name).to_pylist())


def _bytes(value: object) -> bytes | None:
    """Of a column of images: binary, or Hugging Face's struct of bytes and path."""
    data = value.get("bytes") if isinstance(value, dict) else value
    return data if isinstance(data, bytes) else None


def _texts(view: View, name: str | None) -> list[str | None]:
    """The column's texts; None for each row of a column of anything else, such as images under a URL's name."""
    values = _values(view, name)
    return [value if isinstance(value, str) else None for value in values]


# ------------------------------------------------------------------ files


def save_sample(sample: Sample, url: str, config: StorageConfig) -> None:
    """Write it as Parquet, or (.csv) as CSV without thumbnails. Raises StorageError."""
    if not url.lower().endswith(".csv"):
        sink = io.BytesIO()
        pq.write_table(sample.table, sink, compression="zstd")
        storage.write_bytes(url, sink.getvalue(), config)
        return
    names = [name for name in sample.table.schema.names if name != "image"]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    for row in sample.table.select(names).to_pylist():
        writer.writerow({name: _inert(value) if name in ("url", "caption") else value for name, value in row.items()})
    storage.write_bytes(url, text.getvalue().encode(), config)


def _inert(text: str | None) -> str | None:
    return "'" + text[:MAX_CELL] if text and text.startswith(FORMULA) else text and text[:MAX_CELL]
