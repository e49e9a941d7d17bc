"""A file of labels, joined to the scores of their rows. Whatever cannot be used is counted, by why.

    key,label,stratum,stratum_rows        CSV (also with ; or tabs) or Parquet; other columns are passed over
    0a1b...,good,3,41200                  good/bad, 1/0, true/false, yes/no; blank or `skip`: looked at, not judged

`stratum` and `stratum_rows` are what `sample` writes: a row stands for stratum_rows / labelled rows of its stratum. A column
`weight` does instead, and without any, all rows weigh the same. Knows nothing of what labels are used for.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from pipeline import storage
from pipeline.calibration.rows import joined_column, row_keys
from pipeline.columns import NAMES
from pipeline.config import Config, StorageConfig
from pipeline.errors import ManifestError
from pipeline.evaluate import LABEL_NAMES, parse_label
from pipeline.filters.select import in_order
from pipeline.filters.source import Dataset, read_batches
from pipeline.filters.values import View
from pipeline.shards import Shard

SKIPPED = frozenset({"", "skip", "skipped", "nan", "none", "null"})
THREADS = 4  # files read at a time; only keys and scores are held


class Accounts(NamedTuple):
    """What became of each row of a file of labels; all but the first add up to the first."""

    rows: int
    used: int
    skipped: int  # not judged
    keyless: int
    repeated: int  # the same label of the same key again: it counts once
    conflicting: int  # rows of keys that are labelled good and bad: neither counts
    missing: int  # no row of the data has the key
    ambiguous: int  # several rows have it, so that nobody knows which was judged
    unscored: int  # the row has no score


class Label(NamedTuple):
    """One key's label, and what it stands for."""

    key: str
    good: bool
    stratum: str | None
    stratum_rows: float | None
    weight: float | None


class Labels(NamedTuple):
    """A file of labels."""

    labels: tuple[Label, ...]  # of different keys
    accounts: Accounts  # `used` counts all of `labels`: nothing has been joined yet
    unlabelled: tuple[str, ...]  # strata of which no row was judged
    sha256: str  # of the file


class Labelled(NamedTuple):
    """n labelled rows, in the order of the file of labels."""

    good: npt.NDArray[np.bool_]  # (n,)
    scores: npt.NDArray[np.float64]  # (n,)
    weights: npt.NDArray[np.float64]  # (n,)
    strata: npt.NDArray[np.str_]  # (n,)
    accounts: Accounts
    rows: int  # of the data
    scored: int  # of them that have a score
    notes: tuple[str, ...]  # what a reader of the figures should know


def read_labels(url: str, config: StorageConfig, *, key: str | None = None, label: str | None = None) -> Labels:
    """Read a file of labels. key, label: names of its columns; None: recognised.

    Raises ManifestError for a file without such columns, or with labels and weights that are none; StorageError.
    """
    data = storage.read_bytes(url, config)
    names, rows = _parquet_rows(data, url) if data[:4] == b"PAR1" else _csv_rows(data, url)
    key_column = _column(names, key, ("key", *NAMES["key"]), url, "--label-key")
    label_column = _column(names, label, LABEL_NAMES, url, "--label")
    found: dict[str, Label] = {}
    conflicting: set[str] = set()
    count: Counter[str] = Counter()
    by_key: Counter[str] = Counter()
    strata = {str(row["stratum"]) for row in rows if not _blank(row.get("stratum"))}
    for number, row in enumerate(rows, 1):
        name, text = row[key_column], str(row[label_column] if row[label_column] is not None else "")
        if text.strip().lower() in SKIPPED:
            count["skipped"] += 1
            continue
        if _blank(name):
            count["keyless"] += 1
            continue
        try:
            new = _label(str(name), text, row)
        except ValueError as error:
            raise ManifestError(f"{url}, row {number}: {error}") from None
        by_key[new.key] += 1
        if found.setdefault(new.key, new).good != new.good:
            conflicting.add(new.key)
    for name in conflicting:
        count["conflicting"] += by_key.pop(name)
        del found[name]
    repeated = by_key.total() - len(found)
    accounts = Accounts(len(rows), len(found), count["skipped"], count["keyless"], repeated, count["conflicting"], 0, 0, 0)
    left = strata - {entry.stratum for entry in found.values()}
    return Labels(tuple(found.values()), accounts, tuple(sorted(left)), hashlib.sha256(data).hexdigest())


def _label(key: str, text: str, row: dict[str, Any]) -> Label:
    stratum = row.get("stratum")
    numbers = [_positive(row, name) for name in ("stratum_rows", "weight")]
    return Label(key, parse_label(text), None if _blank(stratum) else str(stratum), *numbers)


def _positive(row: dict[str, Any], name: str) -> float | None:
    value = row.get(name)
    if _blank(value):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = np.nan
    if not (np.isfinite(number) and number > 0):
        raise ValueError(f"{name} is {value!r}, no positive number")
    return number


def _blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or (isinstance(value, float) and np.isnan(value))


def _column(names: Sequence[str], wanted: str | None, known: Sequence[str], url: str, flag: str) -> str:
    for name in (wanted,) if wanted else known:
        if name in names:
            return name
    what = f"no column {wanted!r}" if wanted else f"none of the columns {', '.join(known)}"
    raise ManifestError(f"{what} in {url}: set {flag} NAME; its columns: {', '.join(names) or 'none'}")


class _Rows(NamedTuple):
    names: list[str]
    rows: list[dict[str, Any]]


def _csv_rows(data: bytes, url: str) -> _Rows:
    try:
        text = data.decode("utf-8-sig")
        header = text.partition("\n")[0]
        delimiter = max(",;\t", key=header.count)  # the first of equals
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval=None)
        return _Rows(list(reader.fieldnames or ()), list(reader))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{url} is neither Parquet nor CSV in UTF-8: {error}") from None


def _parquet_rows(data: bytes, url: str) -> _Rows:
    try:
        schema = pq.read_schema(pa.BufferReader(data))
        plain = [field.name for field in schema if not pt.is_binary(field.type)]  # thumbnails are not needed
        return _Rows(plain, pq.read_table(pa.BufferReader(data), columns=plain).to_pylist())
    except pa.ArrowException as error:
        raise ManifestError(f"{url} is a corrupt Parquet file: {error}") from None


# ------------------------------------------------------------------ join


class _Hits(NamedTuple):
    """What a run has of the labels."""

    labels: npt.NDArray[np.int64]  # (m,) numbers of labels
    scores: npt.NDArray[np.float64]  # (m,) NaN where there is none
    rows: int
    scored: int


def join(labels: Labels, dataset: Dataset, column: str, config: Config) -> Labelled:
    """Find the labelled rows in the data, by streaming, with their scores in `column`. Raises ConfigError, ManifestError."""
    name = joined_column(dataset, column, config)
    keys = pa.array([entry.key for entry in labels.labels], pa.string())

    def scan(run: Shard) -> _Hits:
        return _scan(run, dataset, name, keys, config.storage)

    with closing(in_order(scan, dataset.runs, THREADS)) as results:
        hits = list(results)
    number = np.concatenate([hit.labels for hit in hits]) if hits else np.zeros(0, np.int64)
    times = np.bincount(number, minlength=len(keys))
    scores = np.full(len(keys), np.nan)
    scores[number] = np.concatenate([hit.scores for hit in hits]) if hits else []
    usable = (times == 1) & np.isfinite(scores)
    accounts = labels.accounts._replace(
        used=int(usable.sum()),
        missing=int((times == 0).sum()),
        ambiguous=int((times > 1).sum()),
        unscored=int(((times == 1) & ~np.isfinite(scores)).sum()),
    )
    used = [entry for entry, good in zip(labels.labels, usable, strict=True) if good]
    weights = _weigh(used)
    notes = _notes(labels, used)
    return Labelled(
        np.array([entry.good for entry in used], np.bool_),
        scores[usable],
        weights,
        np.array([entry.stratum or "" for entry in used], np.str_),
        accounts,
        sum(hit.rows for hit in hits),
        sum(hit.scored for hit in hits),
        notes,
    )


def _scan(run: Shard, dataset: Dataset, column: str, keys: pa.Array, config: StorageConfig) -> _Hits:
    layout = dataset.layout
    wanted = [name for name in (column, layout.key, layout.ranking if column in layout.lists else None) if name is not None]
    numbers, scores = [np.zeros(0, np.int64)], [np.zeros(0)]
    rows = scored = 0
    for batch in read_batches(run, layout, config, wanted):
        values = View(batch, layout).numbers(column).astype(np.float64)
        index = pc.index_in(row_keys(batch, run, rows, layout), value_set=keys)
        hit = index.is_valid().to_numpy(zero_copy_only=False)
        numbers.append(index.drop_null().to_numpy().astype(np.int64))
        scores.append(values[hit])
        rows += batch.num_rows
        scored += int(np.isfinite(values).sum())
    return _Hits(np.concatenate(numbers), np.concatenate(scores), rows, scored)


def _weigh(used: Sequence[Label]) -> npt.NDArray[np.float64]:
    """How many rows each label stands for. Raises ManifestError where only some say so."""
    strata = Counter(entry.stratum for entry in used)
    sizes = {(entry.stratum, entry.stratum_rows) for entry in used}
    if used and all(entry.stratum is not None and entry.stratum_rows is not None for entry in used):
        if len(sizes) > len(strata):
            raise ManifestError("labels of one stratum have different stratum_rows: they are of different samples")
        return np.array([(entry.stratum_rows or 0) / strata[entry.stratum] for entry in used])
    for name in ("stratum_rows", "weight"):
        known = sum(getattr(entry, name) is not None for entry in used)
        if 0 < known < len(used):
            raise ManifestError(
                f"{len(used) - known} of {len(used)} labels have no {name}: give it for all of them, or for none"
            )
    return np.array([entry.weight if entry.weight is not None else 1.0 for entry in used])


def _notes(labels: Labels, used: Sequence[Label]) -> tuple[str, ...]:
    notes = []
    if all(entry.stratum_rows is None and entry.weight is None for entry in used):
        notes.append(
            "the labels have no weights: figures are of the labelled rows, and of the data if those were drawn at random"
        )
    left = sorted({*labels.unlabelled, *(entry.stratum or "" for entry in labels.labels)} - {e.stratum or "" for e in used})
    if left:
        notes.append(f"no usable label in stratum {', '.join(left)}: the figures leave its rows out")
    return tuple(notes)
